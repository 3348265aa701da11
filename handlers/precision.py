"""Give a precision its place among the events: before everybody who looks at gradients."""

from typing import Any

from leyden.backends.precision import Precision
from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers.base import Handler

__all__ = ["PrecisionHandler"]


class PrecisionHandler(Handler):
    """Unscales gradients before anybody sees them, and lets go of a batch's weights at its end.

    The steps themselves are wrapped by whoever makes them (:meth:`Precision.around`); this is what
    happens in between.

    Args:
        precision: what the run computes with.

    Runs on: GRADIENTS_READY and ITERATION_COMPLETED, first.

    State: the number of steps left out; the scale is saved under Lightning's own key.

    Source: PyTorch Lightning 1.1 unscales after the last backward pass of a step, too.
    """

    order = -1000.0
    order_reason = "before everything: norms, clipping and hooks see true gradients"
    state_keys = ("skipped_steps",)

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        if not isinstance(precision, Precision):
            raise TypeError(
                f"precision={precision!r} is a {type(precision).__name__}: pass what "
                "leyden.backends.precision.precision_for makes"
            )
        self.precision = precision

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps left out so far."""
        return self.precision.skipped_steps

    @skipped_steps.setter
    def skipped_steps(self, count: int) -> None:
        self.precision.count_from(count)

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.GRADIENTS_READY, self.unscale)
        self.listen(engine, Events.ITERATION_COMPLETED, self.settle)

    def unscale(self, engine: Engine) -> None:
        """Show the true gradients of the optimizer whose turn it is."""
        state: Any = engine.state
        optimizer = getattr(state, "optimizer", None)
        if optimizer is not None:
            self.precision.gradients_ready(optimizer)

    def settle(self, engine: Engine) -> None:
        """The batch is over."""
        self.precision.settle()

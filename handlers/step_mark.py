"""Mark the end of each step on a device that records what it computes and runs it later."""

from collections.abc import Callable, Iterable
from typing import Any

from leyden.engine import Engine, Events
from leyden.handlers.base import Handler

__all__ = ["StepMark"]


class StepMark(Handler):
    """Has a device that only records what is computed run it: XLA's does.

    Once for each optimizer step, and after every batch of an evaluation. A value that is read
    earlier makes the device compute what leads to it, and that again at the mark; without marks the
    record would grow with every batch, and be compiled anew each time.

    Args:
        mark: runs what was recorded, such as ``torch_xla.sync``.
        evaluators: engines of evaluations, all of whose batches get a mark.

    Runs on: ITERATION_COMPLETED, before all that may read a value. On a training engine with
    accumulated gradients only where a group of batches is complete.

    State: none.
    """

    order = 0.1
    order_reason = "right after the step: whoever reads a value finds it computed"

    def __init__(self, mark: Callable[[], Any], evaluators: Iterable[Engine] = ()) -> None:
        super().__init__()
        if not callable(mark):
            raise TypeError(
                f"mark={mark!r} cannot be called: pass a function such as torch_xla.sync"
            )
        self.mark = mark
        self.evaluators = tuple(evaluators)

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.ITERATION_COMPLETED, self.mark_step)
        for evaluator in self.evaluators:
            self.listen(evaluator, Events.ITERATION_COMPLETED, self.mark_batch)

    def mark_step(self, engine: Engine) -> None:
        """A training batch is over; where it made a step, or nobody counts those, run all of it."""
        state: Any = engine.state
        if state.closed_at == state.iteration or not state.optimizers:
            self.mark()

    def mark_batch(self, engine: Engine) -> None:
        """An evaluation batch is over."""
        self.mark()

"""Average the gradients of several processes, where backward passes have not done it."""

from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, TrainerEvents
from leyden.handlers.base import Handler

__all__ = ["GradientAveraging"]


class GradientAveraging(Handler):
    """Brings the gradients of all processes together once they are complete.

    Args:
        average: does it for one optimizer: called with the one that is about to step.

    Runs on: GRADIENTS_READY, first; so with accumulated gradients once for each step.

    State: none.
    """

    order = -2000.0
    order_reason = "before everything that looks at gradients: they are those of one process"

    def __init__(self, average: Callable[[Any], Any]) -> None:
        super().__init__()
        if not callable(average):
            raise TypeError(
                f"average={average!r} cannot be called: pass a function of an optimizer, such as "
                "a strategy's average_gradients"
            )
        self.average = average

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.GRADIENTS_READY, self.average_those_due)

    def average_those_due(self, engine: Engine) -> None:
        """The optimizer of this turn is about to step."""
        state: Any = engine.state
        self.average(state.optimizer)

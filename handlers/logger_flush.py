"""Make loggers write what they hold, every so many steps."""

from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, Events
from leyden.handlers.base import Handler, Order

__all__ = ["LoggerFlush"]


class LoggerFlush(Handler):
    """Calls ``save`` on the steps that are multiples of ``every_n_steps``.

    Args:
        save: makes the loggers write.
        every_n_steps: optimizer steps, counted from 1.
        at_once: whether to write on this batch in any case; where a stop was asked for it is.

    Runs on: ITERATION_COMPLETED.

    Source: ``flush_logs_every_n_steps`` of PyTorch Lightning 1.1.
    """

    order = Order.LOGGERS
    order_reason = "after metrics (30) and validation (35): their rows are included"

    def __init__(
        self,
        save: Callable[[], Any],
        *,
        every_n_steps: int = 100,
        at_once: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} is below 1: it counts optimizer steps")
        self.save = save
        self.every_n_steps = every_n_steps
        self.at_once = at_once

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.ITERATION_COMPLETED, self.save_if_due)

    def save_if_due(self, engine: Engine) -> None:
        """Write where the step is due."""
        state: Any = engine.state
        # global_step + 1, written out: this runs at every batch.
        step = state.optimizer_steps + (state.closed_at != state.iteration)
        if step % self.every_n_steps == 0 or state.should_stop:
            self.save()
        elif self.at_once is not None and self.at_once():
            self.save()

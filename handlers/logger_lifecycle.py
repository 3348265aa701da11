"""What a logger is told once a run: hyper-parameters and graph at its start, the end at its end."""

from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers.base import Handler

__all__ = ["LoggerLifecycle"]


class LoggerLifecycle(Handler):
    """Hands a run's logger the hyper-parameters and the graph, and closes it.

    Args:
        logger: gives the logger of now, or None.

    Runs on: FIT_STARTED, TRAINING_ENDED (``finalize`` with "success", or "failed" after an
    exception), FIT_COMPLETED (what a test run logged is written).

    Source: PyTorch Lightning 1.1.
    """

    order = 95.0
    order_reason = "after the hooks: they may still log or change the hyper-parameters"

    def __init__(self, logger: Callable[[], Any]) -> None:
        super().__init__()
        self.logger = logger
        self.failed = False

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.FIT_STARTED, self.begin)
        self._handles().append(engine.add_event_handler(Events.EXCEPTION_RAISED, self.note_failure))
        self.listen(engine, TrainerEvents.TRAINING_ENDED, self.finalize)
        self.listen(engine, TrainerEvents.FIT_COMPLETED, self.save)

    def begin(self, engine: Engine) -> None:
        """Log what the run is made of."""
        state: Any = engine.state
        logger, model = self.logger(), state.model
        self.failed = False
        if logger is None:
            return
        if getattr(model, "_log_hyperparams", True):
            logger.log_hyperparams(getattr(model, "hparams_initial", {}))
        logger.log_graph(model)
        logger.save()

    def note_failure(self, engine: Engine, error: BaseException) -> None:
        """An exception ends the run."""
        self.failed = not isinstance(error, KeyboardInterrupt)

    def finalize(self, engine: Engine) -> None:
        """Tell the logger how it ended."""
        logger = self.logger()
        if logger is not None:
            logger.finalize("failed" if self.failed else "success")

    def save(self, engine: Engine) -> None:
        """Write what a test run logged, or a hook after the end of training."""
        logger = self.logger()
        if logger is not None and getattr(logger, "dirty", True):
            logger.save()

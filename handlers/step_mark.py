"""Mark the end of each step on a device that records what it computes and runs it later."""

from collections.abc import Callable, Iterable
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers.base import Handler

__all__ = ["StepMark"]


class StepMark(Handler):
    """Has a device that only records what is computed run it: XLA's does.

    Once for each optimizer step, and after every batch of an evaluation. A value that is read
    earlier makes the device compute what leads to it, and that again at the mark; without marks the
    record would grow with every batch, and be compiled anew each time.

    What is recorded between steps (a checkpoint copies values, an epoch's end averages them) is run
    by itself, before it becomes part of the next step's record: each mixture is compiled anew, and
    where epochs, checkpoints and validations have different lengths there are many.

    Args:
        mark: runs what was recorded, such as ``torch_xla.sync``.
        evaluators: engines of evaluations, all of whose batches get a mark.
        flush: runs what was recorded, without being a step of its own; None: nothing does.

    Runs on: ITERATION_COMPLETED, before all that may read a value. On a training engine with
    accumulated gradients only where a group of batches is complete. ``flush`` runs last on
    EPOCH_STARTED, VALIDATION_COMPLETED and CHECKPOINT_SAVED.

    State: none.
    """

    order = 0.1
    order_reason = "right after the step: whoever reads a value finds it computed"

    def __init__(
        self,
        mark: Callable[[], Any],
        evaluators: Iterable[Engine] = (),
        flush: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        if not callable(mark):
            raise TypeError(
                f"mark={mark!r} cannot be called: pass a function such as torch_xla.sync"
            )
        self.mark = mark
        self.evaluators = tuple(evaluators)
        self.flush = flush

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.ITERATION_COMPLETED, self.mark_step)
        for evaluator in self.evaluators:
            self.listen(evaluator, Events.ITERATION_COMPLETED, self.mark_batch)
        if self.flush is not None:
            self.listen(engine, Events.EPOCH_STARTED, self.run_all, order=10_000)
            if engine.has_registered_events(TrainerEvents.VALIDATION_COMPLETED):
                for event in (TrainerEvents.VALIDATION_COMPLETED, TrainerEvents.CHECKPOINT_SAVED):
                    self.listen(engine, event, self.run_the_rest, order=10_000)

    def mark_step(self, engine: Engine) -> None:
        """A training batch is over; where it made a step, or nobody counts those, run all of it."""
        state: Any = engine.state
        if state.closed_at == state.iteration or not state.optimizers:
            self.mark()

    def mark_batch(self, engine: Engine) -> None:
        """An evaluation batch is over."""
        self.mark()

    def run_all(self, engine: Engine) -> None:
        """An epoch begins, and with it a group of batches."""
        if self.flush is not None:
            self.flush()

    def run_the_rest(self, engine: Engine) -> None:
        """Something is over that came after a batch; inside of a group, the record is a part."""
        state: Any = engine.state
        if self.flush is not None and state.closed_at == state.iteration:
            self.flush()

"""Keep an epoch's first iteration, so that a batch knows its number."""

from typing import Any

from leyden.engine import Engine, Events
from leyden.engine.errors import MisconfigurationException
from leyden.handlers.base import Handler, Order

__all__ = ["Position"]


class Position(Handler):
    """Moves the counters that everything else reads; see :class:`leyden.engine.state.TrainState`.

    Where the engine knows how many batches an epoch has, ``state.num_batches`` says it too.

    Runs on: EPOCH_STARTED, last; EPOCH_COMPLETED, first (to refuse an epoch that had no batch) and
    last.
    """

    order = Order.COUNTERS
    order_reason = (
        "last: all handlers of an epoch's start and end see the counters of the batch before"
    )

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.EPOCH_STARTED, self.begin_epoch)
        # First: nothing is validated, stepped or saved for an epoch that did not take place.
        self.listen(engine, Events.EPOCH_COMPLETED, self.refuse_empty, order=0)
        self.listen(engine, Events.EPOCH_COMPLETED, self.end_epoch)

    def begin_epoch(self, engine: Engine) -> None:
        """The next iteration is batch 0."""
        state: Any = engine.state
        # A resumed run begins in the middle.
        state.epoch_start = state.iteration - engine.epoch_iteration
        if state.epoch_length is not None:  # elsewhere the loaders say it
            state.num_batches = state.epoch_length

    def refuse_empty(self, engine: Engine) -> None:
        """An epoch without batches, unless somebody ended it, is a mistake."""
        state: Any = engine.state
        if state.iteration != state.epoch_start or engine.should_terminate_single_epoch:
            return
        before = ""
        if state.iteration:
            before = "though it did before: a generator can be used once only; "
        raise MisconfigurationException(
            f"the training loader gave no batch in epoch {state.epoch - 1}, {before}pass a "
            "DataLoader, a list or another object that can be iterated in every epoch"
        )

    def end_epoch(self, engine: Engine) -> None:
        """The last batch is over: ``global_step`` counts it."""
        state: Any = engine.state
        state.settle()

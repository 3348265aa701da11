"""When training stops: a number of steps, a stop that was asked for, the least that must run."""

from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, Events
from leyden.engine.phases import Phase
from leyden.handlers.base import Handler, Order

__all__ = ["Stopping"]

IN_AN_EPOCH = frozenset({Phase.FETCHING, Phase.STEPPING})
BEFORE_THE_STEP = (Events.GET_BATCH_STARTED, Events.GET_BATCH_COMPLETED, Events.ITERATION_STARTED)


class Stopping(Handler):
    """Ends a run after ``max_steps``, or when asked to, but not before the minima are met.

    Args:
        max_steps: optimizer steps in the whole run; None: no limit.
        min_epochs: epochs that run in any case.
        min_steps: optimizer steps that run in any case; None: none.
        say: called with a message when a stop has to wait.

    Attributes:
        together: several processes train: a stop is asked for here, and acts where all know of it.
        asked: whether this process asked for such a stop.

    Runs on: ITERATION_COMPLETED only where a number of steps is given; EPOCH_STARTED and
    EPOCH_COMPLETED.

    State: none; ``should_stop`` belongs to one run.

    Source: ``max_steps``, ``min_epochs``, ``min_steps`` and ``should_stop`` of Lightning 1.1;
    differently, the epochs that still have to run after a stop run in full, not for one batch each.
    """

    order = Order.STOPPING
    order_reason = (
        "after validation and callbacks of the batch or epoch, any of which may ask for the stop"
    )

    def __init__(
        self,
        *,
        max_steps: int | None = None,
        min_epochs: int | None = 1,
        min_steps: int | None = None,
        say: Callable[[str], Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("max_steps", max_steps, 1),
            ("min_epochs", min_epochs, 0),
            ("min_steps", min_steps, 0),
        ):
            if value is not None and value < least:
                raise ValueError(
                    f"{name}={value} is below {least}: give a count, or None for no limit"
                )
        self.max_steps = max_steps
        self.min_epochs = min_epochs
        self.min_steps = min_steps
        self.say = say
        self.together = False
        self.asked = False
        self.asked_in = 1
        self._engine: Engine | None = None
        self._should_stop = False

    @property
    def should_stop(self) -> bool:
        """Whether a stop was asked for; ``state.should_stop`` repeats it for whoever asks often."""
        return self._should_stop

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        self._should_stop = value
        self.asked = self.asked and value
        if self._engine is not None:
            state: Any = self._engine.state
            state.should_stop = value

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        state: Any = engine.state
        state.should_stop = self._should_stop
        if self.max_steps is not None or self.min_steps:
            self.listen(engine, Events.ITERATION_COMPLETED, self.after_batch)
        self.listen(engine, Events.EPOCH_STARTED, self.before_epoch)
        self.listen(engine, Events.EPOCH_COMPLETED, self.after_epoch)

    def stop(self) -> None:
        """Ask for the end: after this batch, if enough has run; see ``together``."""
        if self.together:
            self.asked = True
        else:
            self.act()

    def act(self) -> None:
        """Stop after this batch, if enough has run."""
        engine = self._engine
        if not self.should_stop and engine is not None:
            self.asked_in = max(engine.state.epoch, 1)
        self.should_stop = True
        if engine is not None and engine.phase in IN_AN_EPOCH and self.may_cut(engine):
            if engine.last_event_name in BEFORE_THE_STEP:
                # Now it would take away the batch that begins.
                self._cut_after(engine, engine.state.iteration + (engine.phase is Phase.FETCHING))
            else:
                engine.terminate_epoch()

    def minima_met(self, engine: Engine) -> bool:
        """Whether the epochs and steps that must run have run, the present epoch counted in."""
        state: Any = engine.state
        epochs, steps = self.min_epochs or 0, self.min_steps or 0
        return bool(state.epoch >= epochs and state.optimizer_steps >= steps)

    def may_cut(self, engine: Engine) -> bool:
        """Whether the present epoch may be cut; not one that a stop had to wait for."""
        waited = self.asked_in < engine.state.epoch <= (self.min_epochs or 0)
        return not waited and self.minima_met(engine)

    def before_epoch(self, engine: Engine) -> None:
        """A stop asked for between epochs lets one more batch run, as in Lightning."""
        if self.should_stop and self.may_cut(engine):
            self._cut_after(engine, engine.state.iteration + 1)

    def _cut_after(self, engine: Engine, iteration: int) -> None:
        done = Events.ITERATION_COMPLETED(once=iteration)
        self.listen(engine, done, lambda engine: engine.terminate_epoch())

    def after_batch(self, engine: Engine) -> None:
        """Stop at the last step, or at the batch at which a waiting stop may act."""
        state: Any = engine.state
        if self.max_steps is not None and state.optimizer_steps >= self.max_steps:
            # Not terminate(): the epoch's end hooks still run, as in Lightning.
            engine.terminate_epoch()
        elif self.should_stop and self.may_cut(engine):
            engine.terminate_epoch()

    def after_epoch(self, engine: Engine) -> None:
        """Stop here if asked to."""
        state: Any = engine.state
        if self.max_steps is not None and state.optimizer_steps >= self.max_steps:
            engine.terminate()
        if not self.should_stop:
            return
        if self.minima_met(engine):
            engine.terminate()
        elif self.say is not None:
            self.say(
                f"a stop was asked for, but min_epochs={self.min_epochs} and "
                f"min_steps={self.min_steps} are not reached yet: training continues"
            )

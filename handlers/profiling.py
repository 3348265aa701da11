"""Binds a profiler to a run: which of its actions begin and end at which event."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.dispatch import Channel
from leyden.engine.records import Record
from leyden.engine.step import TrainingStep
from leyden.engine.watching import Watcher, unwatch, watch
from leyden.handlers.base import Handler
from leyden.handlers.hooks import hooks_of
from leyden.handlers.naming import handler_name

__all__ = ["Profiling", "acted"]

EPOCH, FETCH, BATCH = "run_training_epoch", "get_train_batch", "run_training_batch"
STEP, FORWARD, BACKWARD = "training_step_and_backward", "model_forward", "model_backward"
UPDATE = "optimizer_step_and_closure_"
EVALUATION, EVALUATION_STEP = "run_evaluation", "evaluation_step_and_end"


class Profiling(Handler, Watcher):
    """Measures what a run does with a profiler, by the names of Lightning 1.1's actions.

    Every event is watched, so this is attached only where a profiler was asked for. An action of a
    hook holds what callbacks and the module do in it; other handlers are actions of their own. A
    profiler whose ``every_handler`` is true gets each handler by itself, and no empty hooks.

    Args:
        profiler: has ``start(name)`` and ``stop(name)``, or ``profile(name)`` for ``with``.
        evaluators: the engines of validation, test and prediction.
        log_dir: gives the folder for the report, when a run begins.

    Runs on: FIT_STARTED, first; TRAINING_ENDED, late, where the report is given out; FIT_COMPLETED,
    last. Watches all events.

    State: none; a report is of one process.

    Source: ``profiler`` of PyTorch Lightning 1.1.
    """

    order = 97.0
    order_reason = "after the hooks and loggers (95) that end a run: the report includes them"

    def __init__(
        self,
        profiler: Any,
        *,
        evaluators: Iterable[Engine] = (),
        log_dir: Callable[[], str | None] | None = None,
    ) -> None:
        super().__init__()
        self.profiler = profiler
        self.evaluators = tuple(evaluators)
        self.log_dir = log_dir
        self.every_handler = bool(getattr(profiler, "every_handler", False))
        self._start_action, self._stop_action = _actions(profiler)
        self._open: dict[str, None] = {}  # what is being measured, in the order it began
        self._levels: list[str] = []  # for each event being fired the action of its handler
        self._meanings: dict[Channel, _Meaning] = {}
        self._names: dict[int, tuple[Record, str]] = {}
        self._watched: list[Engine] = []
        self._reported = True
        self._manual = False

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.FIT_STARTED, self.begin, order=-100)
        self.listen(engine, TrainerEvents.TRAINING_ENDED, self.report)
        self.listen(engine, TrainerEvents.FIT_COMPLETED, self.finish, order=1000)
        for one in (engine, *self.evaluators):
            watch(one, self)
            self._watched.append(one)

    def detach(self) -> None:
        super().detach()
        while self._watched:
            unwatch(self._watched.pop(), self)
        self.release()

    def release(self) -> None:
        """End what a run left open, and let go of its handlers."""
        self._close_all()
        self._levels = []
        self._names.clear()

    def begin(self, engine: Engine) -> None:
        """Tell the profiler the folder of this run, and measure this run's forward passes."""
        self._reported = False
        for one in self._watched:
            watch(one, self)  # events that were registered since then
        setup = getattr(self.profiler, "setup", None)
        if callable(setup) and self.log_dir is not None:
            setup(self.log_dir())
        step = engine._process_function
        if isinstance(step, TrainingStep) and not hasattr(step.forward, "measured"):
            step.forward = self._measured(engine, step)

    def report(self, engine: Engine) -> None:
        """End what a failure left open, and give out the report."""
        self._reported = True
        self._close_all()
        describe = getattr(self.profiler, "describe", None)
        if callable(describe):
            describe()

    def finish(self, engine: Engine) -> None:
        """Report an evaluation that ran on its own; let ranks put together what they measured."""
        if not self._reported:
            self.report(engine)
        gather = getattr(self.profiler, "gather", None)
        if callable(gather):
            self._close_all()
            gather()

    # ------------------------------------------------------------------ what the watcher is told

    def event_started(self, engine: Any, channel: Channel) -> None:
        meaning = self._meanings.get(channel)
        if meaning is None:
            meaning = self._meanings[channel] = self._meaning(engine, channel.event)
        if meaning.before is not None:
            meaning.before()
        self._levels.append("")
        if meaning.hooks:
            # Those that nobody overrides: 1.1.8's table has them, with next to no time.
            bound = {getattr(record.user, "__name__", "") for record in channel.handlers or ()}
            for name in meaning.hooks:
                if name not in bound and self._start(name):
                    self._stop(name)

    def handler_started(self, engine: Any, channel: Channel, record: Record) -> None:
        if not self._levels:
            return  # attached while this event was being fired
        known = self._names.get(id(record))
        if known is None or known[0] is not record:
            name = str(getattr(record.user, "__name__", ""))
            if name not in self._meanings[channel].hooks:
                name = handler_name(record.user, record.owner)
            known = self._names[id(record)] = (record, name)
        name = known[1]
        if name == self._levels[-1]:
            return  # the same hook of the next callback
        self._end_level()
        if record.owner is not self and self._start(name):
            self._levels[-1] = name

    def handler_ended(self, engine: Any, channel: Channel, record: Record) -> None:
        if self.every_handler and self._levels:
            self._end_level()

    def event_ended(self, engine: Any, channel: Channel) -> None:
        if self._levels:
            self._end_level()
            self._levels.pop()
        meaning = self._meanings.get(channel)
        if meaning is not None and meaning.after is not None:
            meaning.after()

    # ------------------------------------------------------------------ parts

    def _measured(self, engine: Engine, step: TrainingStep) -> Callable[..., Any]:
        """The forward function, with the actions that begin with it."""
        forward, state = step.forward, engine.state
        self._manual = step.manual

        def measured(*args: Any) -> Any:
            self._stop(STEP)  # that of the optimizer before
            if not step.manual and step.closes_group(state):  # type: ignore[arg-type]
                self._start(f"{UPDATE}{getattr(state, 'optimizer_idx', 0)}")
            self._start(STEP)
            self._start(FORWARD)
            try:
                return forward(*args)
            finally:
                self._stop(FORWARD)

        measured.measured = True  # type: ignore[attr-defined]
        return measured

    def _meaning(self, engine: Any, event: Any) -> "_Meaning":
        """What begins and ends at an event."""
        state = engine.state
        before: Callable[[], Any] | None = None
        after: Callable[[], Any] | None = None
        if state.stage != "train":
            if event in (Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
                before = partial(self._stop, EVALUATION_STEP)
            elif event == Events.ITERATION_STARTED:
                after = partial(self._start, EVALUATION_STEP)
        elif event == Events.ITERATION_COMPLETED:
            before = self._end_batch
        elif event == TrainerEvents.OPTIMIZER_STEP_STARTED:
            before = partial(self._begin_update, state)
        elif event == TrainerEvents.OPTIMIZER_STEP_COMPLETED:
            after = partial(self._end_update, state)
        else:
            if event in _BEGINS_BEFORE:
                before = partial(self._start, _BEGINS_BEFORE[event])
            elif event in _ENDS_BEFORE:
                before = partial(self._stop, _ENDS_BEFORE[event])
            if event in _BEGINS_AFTER:
                after = partial(self._start, _BEGINS_AFTER[event])
            elif event in _ENDS_AFTER:
                after = partial(self._stop, _ENDS_AFTER[event])
        named = (hook.name for hook in hooks_of(state.stage) if hook.event == event)
        return _Meaning(before, after, () if self.every_handler else tuple(named))

    def _begin_update(self, state: Any) -> None:
        if not self._manual:
            self._stop(STEP)
        self._start(f"{UPDATE}{state.optimizer_idx}")

    def _end_update(self, state: Any) -> None:
        self._stop(f"{UPDATE}{state.optimizer_idx}")

    def _end_level(self) -> None:
        name, self._levels[-1] = self._levels[-1], ""
        if name:
            self._stop(name)

    def _end_batch(self) -> None:
        for name in reversed(list(self._open)):
            if name in (FORWARD, STEP, BATCH, BACKWARD) or name.startswith(UPDATE):
                self._stop(name)

    def _start(self, name: str) -> bool:
        if name in self._open:
            return False
        self._open[name] = None
        self._start_action(name)
        return True

    def _stop(self, name: str) -> None:
        if name in self._open:
            del self._open[name]
            self._stop_action(name)

    def _close_all(self) -> None:
        for name in reversed(list(self._open)):
            self._stop(name)
        self._levels = ["" for _ in self._levels]


class _Meaning(NamedTuple):
    """What to do before and after the handlers of an event, and the hooks it has."""

    before: Callable[[], Any] | None
    after: Callable[[], Any] | None
    hooks: tuple[str, ...]


_BEGINS_BEFORE = {
    Events.ITERATION_STARTED: BATCH,
    TrainerEvents.VALIDATION_STARTED: EVALUATION,
}
_BEGINS_AFTER = {
    Events.EPOCH_STARTED: EPOCH,
    Events.GET_BATCH_STARTED: FETCH,
    TrainerEvents.BACKWARD_STARTED: BACKWARD,
}
_ENDS_BEFORE = {
    Events.GET_BATCH_COMPLETED: FETCH,
    Events.EPOCH_COMPLETED: FETCH,  # that of the end of the data
    TrainerEvents.BACKWARD_COMPLETED: BACKWARD,
}
_ENDS_AFTER = {Events.EPOCH_COMPLETED: EPOCH, TrainerEvents.VALIDATION_COMPLETED: EVALUATION}


def _actions(profiler: Any) -> tuple[Callable[[str], Any], Callable[[str], Any]]:
    """How to begin and end an action of this profiler."""
    if callable(getattr(profiler, "start", None)) and callable(getattr(profiler, "stop", None)):
        return profiler.start, profiler.stop
    opened: dict[str, Any] = {}

    def start(name: str) -> None:
        opened[name] = profiler.profile(name)
        opened[name].__enter__()

    def stop(name: str) -> None:
        opened.pop(name).__exit__(None, None, None)

    return start, stop


@contextmanager
def acted(profiler: Any, name: str) -> Iterator[None]:
    """Measure a block that lies at no event, such as the writing of a checkpoint."""
    start, stop = _actions(profiler)
    start(name)
    try:
        yield
    finally:
        stop(name)

"""Keep all of a run that its next process needs, and put it back at the right moment."""

import warnings
from typing import Any

import torch

from leyden.engine import Engine, Events, Phase, TrainerEvents
from leyden.handlers.base import Handler
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.plain_data import foreign, plain
from leyden.moments import event_named, finish, moment_of, remaining

__all__ = ["Resume", "resumable", "resume_state"]

_ITERATION, _EPOCH = Events.ITERATION_COMPLETED.name, Events.EPOCH_COMPLETED.name
_EPOCH_BEGINS = Events.EPOCH_STARTED.name
_RESUMING = (Events.STARTED.name, Events.GET_BATCH_STARTED.name)


def resume_state(run: Any) -> dict[str, Any]:
    """The position, the loader, the random numbers and the handlers' states, as plain data."""
    if run.kept is not None:
        return dict(run.kept)  # restored, and nothing has happened since
    moment = _moment(run)
    position = _position(run, moment)
    kept: dict[str, Any] = {
        "position": position,
        "moment": moment,
        "handlers": handler_states(run),
        "metrics": run.recorder.state_dict(),
        "gradients": _gradients(run),
        "logger": run.logger.state_dict() if hasattr(run.logger, "state_dict") else {},
    }
    if run.feed is not None:
        kept["loader"] = run.feed.state_dict(position["batch"], ended=position["epoch_done"])
        if run.surroundings.outside is not None:  # a validation has streams of its own
            streams = {**kept["loader"]["streams"], "global": run.surroundings.outside}
            kept["loader"] = {**kept["loader"], "streams": streams}
    if run.module_handler is not None and run.module_handler.kept_outputs:
        kept["outputs"] = plain(run.module_handler.kept_outputs, name="outputs")
    if moment and moment[0][1] == _ITERATION:
        kept["batch"] = _batch(run, moment[0][2])
    return kept


def _moment(run: Any) -> list[Any]:
    """The event inside which the checkpoint is saved, if a resumed run has the rest of it to do."""
    engines = {"train": run.engine, **run.evaluators}
    moment = moment_of(engines)
    if run.error is not None:
        # The hooks of an ending that an exception began: the run stands where that came from.
        moment = moment_of(engines, run.error)
    while moment and moment[0][1] in _RESUMING:
        moment = moment[1:]  # a resumed run finishes an event inside of these
    if moment and moment[0][0] == "train" and moment[0][1] in (_ITERATION, _EPOCH, _EPOCH_BEGINS):
        return moment
    return []


def _position(run: Any, moment: list[Any]) -> dict[str, Any]:
    state, machine = run.state, run.engine._machine
    phase = machine.left if machine.left is not None else machine.phase
    inside, iteration = machine.inside_epoch and phase is not Phase.EPOCH_STARTED, state.iteration
    stepped = state.closed_at == iteration
    half = phase is Phase.STEPPING and not stepped and not _after_step(run, moment)
    if half:
        # In the middle of a step, which no file can hold: the batch is done again.
        iteration -= 1
        if run.error is None:
            warnings.warn(
                f"the checkpoint is saved in the middle of the step of batch {state.batch_idx}: a "
                "resumed run does this batch again, with other random numbers. Save in "
                "on_train_batch_end or later to continue exactly",
                UserWarning,
                stacklevel=5,
            )
    over = not inside and (phase is Phase.EPOCH_STARTED or run.epoch_done())
    batch = 0 if over else iteration - state.epoch_start
    return {
        "iteration": iteration,
        "epoch": state.epoch - (0 if over and phase is not Phase.EPOCH_STARTED else 1),
        "batch": max(batch, 0),
        "epoch_start": state.epoch_start,
        "optimizer_steps": state.optimizer_steps,
        "epoch_done": over,
        "inside": inside,
        "closed": stepped,
        "half": half,
        "should_stop": run.stopping().should_stop and not _out_of_time(run),
    }


def _after_step(run: Any, moment: list[Any]) -> bool:
    if moment:
        return bool(moment[0][1] == _ITERATION)
    engine = run.engine
    return engine.phase is Phase.INTERRUPTED and engine._paused_at == Events.ITERATION_COMPLETED


def _out_of_time(run: Any) -> bool:
    """Whether a clock asked for the stop: it asks again, unless it is given more time."""
    clocks = [h for h in run.handlers if callable(getattr(h, "time_remaining", None))]
    return any((clock.time_remaining() or 1) <= 0 for clock in clocks)


def _batch(run: Any, done: list[str]) -> dict[str, Any]:
    """What handlers that still have to see this batch may look at; nothing where all are ours."""
    state = run.state
    kept: dict[str, Any] = {}
    rest = remaining(run.engine, Events.ITERATION_COMPLETED, done)
    foreigners = [record for record in rest if not _is_ours(record.user)]
    logs = isinstance(state.output, dict) and ({"log", "progress_bar"} & set(state.output))
    if foreigners or logs:
        kept["output"] = _detached(state.output)
        kept["outputs"] = _detached(state.outputs)
    if foreigners:
        kept["batch"] = _detached(state.batch)
    return {name: value for name, value in kept.items() if foreign(value) is None}


def _is_ours(function: Any) -> bool:
    # The functions that call hooks are ours, the hooks are not.
    name = getattr(function, "__name__", "")
    ours = str(getattr(function, "__module__", "")).startswith("leyden.")
    return ours and name not in ("on_batch_end", "on_train_batch_end")


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor)
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_detached(item) for item in value)
    return value


def _stateful(run: Any) -> list[tuple[str, Any]]:
    """The handlers with a state that are no callbacks (those have their own place), by name."""
    found: dict[str, Any] = {}
    for handler in run.handlers:
        if isinstance(handler, CallbackBase) or not hasattr(handler, "load_state_dict"):
            continue
        if isinstance(handler, Handler) and not handler.state_keys:
            continue
        name, number = type(handler).__name__, 0
        while (key := f"{name}{number or ''}") in found:
            number += 1
        found[key] = handler
    return list(found.items())


def handler_states(run: Any) -> dict[str, Any]:
    """The states of the handlers that are no callbacks, by name."""
    states: dict[str, Any] = {}
    for key, handler in _stateful(run):
        state = handler.state_dict()
        found = foreign(state)
        if found is None:
            states[key] = dict(state)
            continue
        warnings.warn(
            f"the state of {key} is left out of the checkpoint: it holds {found}, which cannot be "
            "read back without running code",
            UserWarning,
            stacklevel=2,
        )
    return states


def _gradients(run: Any) -> dict[str, torch.Tensor]:
    """What an open accumulation group has added up so far, by parameter name."""
    return {
        name: parameter.grad.detach().clone()
        for name, parameter in run.model.named_parameters()
        if parameter.grad is not None
    }


def resumable(run: Any) -> tuple[bool, str]:
    """Say whether this run, killed anywhere, goes on exactly from its checkpoints, and why."""
    if not any(type(handler).__name__ == "ModelCheckpoint" for handler in run.handlers) and not (
        run.trainer.checkpoint_callbacks
    ):
        return False, "nothing saves checkpoints: add a ModelCheckpoint to the callbacks"
    if run.feed is None:
        return True, "as far as the training loader can be put back, which is known in fit"
    found: tuple[bool, str] = run.feed.resumable()
    return found


class Resume(Handler):
    """Puts a run back in place, piece by piece as its first events come, then is gone.

    What was left to do of the event in which the checkpoint was saved is done first: the rest of
    an epoch's end at STARTED, the rest of a batch's end before the next batch is fetched. What the
    start of an epoch resets is restored after it; the streams of random numbers go on where they
    were, whatever was drawn meanwhile.

    Runs on: STARTED (last), EPOCH_STARTED (first and last), GET_BATCH_STARTED (first), once each;
    TRAINING_ENDED.
    """

    order = 98.0
    order_reason = "after the epoch's start hooks, which begin with empty accumulators"

    def __init__(self, run: Any, kept: dict[str, Any]) -> None:
        super().__init__()
        self.run = run
        self.kept = kept
        self.moment: list[Any] = kept.get("moment") or []
        self._positioned: Any = None  # the feed that was told where to go on
        self._finished = False

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.STARTED, self.begin, order=10_000)
        self.listen(engine, Events.EPOCH_STARTED, self.restore_streams, order=-10_000)
        self.listen(engine, Events.EPOCH_STARTED, self.restore_epoch)
        self.listen(engine, TrainerEvents.TRAINING_ENDED, self.leave, order=-10_000)

    # ------------------------------------------------------------------ in the order of the events

    def begin(self, engine: Engine) -> None:
        """The run begins: states of handlers and metrics; what is left of an epoch's end."""
        run, position, state = self.run, self.kept["position"], self.run.state
        stopping = run.stopping()
        state.epoch_start = position["epoch_start"]
        if position["optimizer_steps"]:
            for optimizer in run.parts.optimizers:
                # torch warns of a scheduler that steps first; the steps were in another process.
                optimizer._opt_called = True
        self._restore_states()
        if position["should_stop"]:
            stopping.should_stop = True
        if position["inside"]:
            return
        goes_on = not position["epoch_done"] and not stopping.should_stop and not run.nothing_left
        if self._inside_of(_EPOCH) and not goes_on:
            run.resumed = run.kept = None  # the epoch that is ending is the one of now
            self._restore_gradients()
            state.closed_at = state.iteration if position["closed"] else -1
            run.module_handler.kept_outputs = list(self.kept.get("outputs", []))
            state.epoch_outputs = run.module_handler.kept_outputs
            self._position_feed()
            run.feed.restore_streams()
            self._finish(engine)
            run.feed.keep_streams()
            self._finished = True
        if stopping.should_stop and stopping.minima_met(engine):
            engine.terminate()
        if self._inside_of(_EPOCH_BEGINS):
            self._place_streams(engine)
        if run.nothing_left and run.feed is not None:
            self._position_feed()
            run.feed.restore_streams()

    def restore_streams(self, engine: Engine) -> None:
        """At the beginning of an epoch the hooks draw from the streams as they were saved."""
        self._position_feed()
        if self.kept["position"]["epoch_done"] and not self._inside_of(_EPOCH_BEGINS):
            self.run.feed.restore_streams()

    def restore_epoch(self, engine: Engine) -> None:
        """Inside an epoch: accumulators, outputs and gradients of its first part."""
        run = self.run
        run.resumed = run.kept = None
        self._position_feed()
        if not self._finished:
            self._restore_gradients()
        if self.kept["position"]["epoch_done"]:
            run.feed.keep_streams()
            self.leave(engine)
            return
        self._restore_states()
        run.module_handler.kept_outputs.extend(self.kept.get("outputs", []))
        run.state.epoch_start = run.state.iteration - engine.epoch_iteration
        self.listen(engine, Events.GET_BATCH_STARTED, self.finish_batch, order=-10_000)

    def finish_batch(self, engine: Engine) -> None:
        """What is left of the last batch's end; the streams are in place now."""
        run, state = self.run, self.run.state
        self.leave(engine)
        if self.kept["position"]["closed"]:
            state.closed_at = state.iteration
        if self._inside_of(_ITERATION):
            seen = self.kept.get("batch", {})
            transfer = run.transfer()
            batch = seen.get("batch")
            state.batch = batch if batch is None or transfer is None else transfer(batch)
            state.output, state.outputs = seen.get("output"), seen.get("outputs", [])
            self._finish(engine)
            state.batch = state.output = None
        stopping = run.stopping()
        stopping.after_batch(engine)
        if self.kept["position"]["inside"] and stopping.should_stop:
            stopping.stop()

    def leave(self, engine: Engine) -> None:
        """All is in place, or the run ended before."""
        self.run.resumed = self.run.kept = None
        if self in self.run.handlers:
            self.run.handlers.remove(self)

    # ------------------------------------------------------------------ parts

    def _inside_of(self, event: str) -> bool:
        return bool(self.moment) and self.moment[0][1] == event

    def _position_feed(self) -> None:
        feed, loader = self.run.feed, self.kept.get("loader")
        if loader is not None and feed is not None and feed is not self._positioned:
            # A loader that is made anew each epoch has a new feed.
            feed.load_state_dict(loader)
            self._positioned = feed

    def _place_streams(self, engine: Engine) -> None:
        """The checkpoint was saved by a hook of an epoch's start: those before it have drawn."""
        rest = remaining(engine, Events.EPOCH_STARTED, self.moment[0][2])
        own = [record for record in rest if record.owner is not self]
        order = own[0].order - 1e-9 if own else 97.0
        self.listen(
            engine,
            Events.EPOCH_STARTED,
            lambda engine: self.run.feed.restore_streams(),
            order=order,
        )

    def _restore_states(self) -> None:
        self.run.recorder.load_state_dict(self.kept["metrics"])
        states = self.kept["handlers"]
        for key, handler in _stateful(self.run):
            if key in states:
                handler.load_state_dict(states[key])

    def _restore_gradients(self) -> None:
        named = dict(self.run.model.named_parameters())
        for name, gradient in self.kept["gradients"].items():
            named[name].grad = gradient.clone().to(named[name].device)

    def _finish(self, engine: Engine) -> None:
        """Run the handlers behind the one that saved; a validation inside comes to its end too."""
        run = self.run
        (_, name, done), *inner = self.moment
        validated = False
        for stage, event, inner_done in inner:
            if stage == "validate" and event == Events.COMPLETED.name:
                run.evaluators["validate"].state.on_epoch = name == _EPOCH
                run.recorder.eval_started("validate", len(run.loaders.num_batches["validate"]))
                try:
                    with run.surroundings.entered():
                        finish(run.evaluators["validate"], Events.COMPLETED, inner_done)
                finally:
                    run.recorder.eval_finished()
                engine.fire_event(TrainerEvents.VALIDATION_COMPLETED)
                validated = True
            elif event == TrainerEvents.VALIDATION_COMPLETED.name:
                finish(engine, TrainerEvents.VALIDATION_COMPLETED, inner_done)
                validated = True
        if not validated and any(stage == "validate" or "VALIDATION" in e for stage, e, _ in inner):
            done = done[:-1]  # it was in the middle of a validation: that is done again
        finish(engine, event_named(engine, name), done)

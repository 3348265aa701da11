"""Keep all of a run that its next process needs."""

from typing import Any

import torch

from leyden.engine import Events, Phase, rng
from leyden.engine.notice import warn
from leyden.handlers.base import Handler
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.plain_data import foreign, plain
from leyden.moments import moment_of, remaining

__all__ = ["resumable", "resume_state", "stateful"]

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
        "run": run.run_id,
        "position": position,
        "moment": moment,
        "handlers": handler_states(run),
        "metrics": run.recorder.state_dict(),
        "gradients": _gradients(run),
        "logger": run.logger.state_dict() if hasattr(run.logger, "state_dict") else {},
    }
    if run.feed is None:
        kept["streams"] = rng.capture()  # before the training begins
    else:
        kept["loader"] = _loader(run, position)
        if run.surroundings.outside is not None:  # a validation has streams of its own
            streams = {**kept["loader"]["streams"], "global": run.surroundings.outside}
            kept["loader"] = {**kept["loader"], "streams": streams}
    if run.module_handler is not None and run.module_handler.kept_outputs:
        kept["outputs"] = plain(run.module_handler.kept_outputs, name="outputs")
    if moment and moment[0][1] == _ITERATION:
        kept["batch"] = _batch(run, moment[0][2])
    return kept


def _loader(run: Any, position: dict[str, Any]) -> dict[str, Any]:
    taken = max(run.state.iteration - run.state.epoch_start, 0)
    if position["epoch_done"] and not run.feed.begun:
        taken = 0  # a fit that had nothing left to train: the batches were those of another feed
    kept: dict[str, Any] = run.feed.state_dict(taken, ended=position["epoch_done"])
    if position["half"]:
        # One batch back. Its workers are beyond that, so it is the same samples, drawn anew.
        own = kept["loader"]
        if isinstance(own, dict) and "recorded" in own:
            own = {**own, "recorded": False, "order": None}
        kept = {**kept, "position": position["batch"], "loader": own}
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
            warn(
                f"the checkpoint is saved in the middle of the step of batch {state.batch_idx}: a "
                "resumed run does this batch again, with other random numbers. Save in "
                "on_train_batch_end or later to continue exactly",
                UserWarning,
            )
    over = not inside and (phase is Phase.EPOCH_STARTED or run.epoch_done())
    batch = 0 if over else iteration - state.epoch_start
    return {
        "iteration": iteration,
        "epoch": max(state.epoch - (0 if over and phase is not Phase.EPOCH_STARTED else 1), 0),
        "batch": max(batch, 0),
        "epoch_start": state.epoch_start,
        "optimizer_steps": state.optimizer_steps,
        "epoch_done": over,
        "inside": inside,
        "closed": stepped or (run.error is not None and run.closed_before_error),
        "half": half,
        "should_stop": run.stopping().should_stop and not _out_of_time(run),
        "asked": run.stopping().asked and not _out_of_time(run),
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


def stateful(run: Any) -> list[tuple[str, Any]]:
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
    for key, handler in stateful(run):
        state = handler.state_dict()
        found = foreign(state)
        if found is None:
            states[key] = dict(state)
            continue
        warn(
            f"the state of {key} is left out of the checkpoint: it holds {found}, which cannot be "
            "read back without running code",
            UserWarning,
        )
    return states


def _gradients(run: Any) -> dict[str, torch.Tensor]:
    """What an open accumulation group has added up so far, by parameter name."""
    strategy = run.strategy
    kept = {
        name: parameter.grad.detach().clone()
        for name, parameter in run.model.named_parameters()
        if parameter.grad is not None
    }
    if strategy.writes_folders:
        return kept  # each process writes its part
    return {name: strategy.whole(gradient) for name, gradient in kept.items()}


def resumable(run: Any) -> tuple[bool, str]:
    """Say whether this run, killed anywhere, goes on exactly from its checkpoints, and why."""
    if not run.trainer.checkpoint_callbacks:
        return False, "nothing saves checkpoints: add a ModelCheckpoint to the callbacks"
    if run.feed is None:
        return True, "as far as the training loader can be put back, which is known in fit"
    found: tuple[bool, str] = run.feed.resumable()
    return found

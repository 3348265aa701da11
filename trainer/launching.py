"""A call of the Trainer, made in other processes: what they get, and what comes back.

Nothing of this is imported where a run needs no launcher, see ``launched.py``.

What goes there: the arguments of the Trainer and of the call, and what a run changes: module,
callbacks, loggers, handlers and functions added by hand, counters, metrics, random numbers; for a
``fit`` that goes on, the state that the last one left. It is one pickle, by value, in which the
Trainer stands by its name: each process makes a Trainer of its own from the same arguments.

What comes back from the first process: weights, attributes of the module, the callbacks, the
loggers and the profiler, metrics, counters, random numbers, the result of the call; and the state
that the next ``fit`` goes on with.
"""

import contextlib
import inspect
import os
import sys
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch

from leyden import compat
from leyden.backends.devices import CHOSEN_VARIABLE
from leyden.backends.launchers import ProcessLauncher, ScriptLauncher
from leyden.backends.launchers.spawn import pickler
from leyden.datamodule import LightningDataModule
from leyden.engine import rng
from leyden.engine.errors import MisconfigurationException
from leyden.engine.notice import warn
from leyden.handing_back import Handed, found_attributes, module_state, take_module, take_over
from leyden.handlers import checkpoint_io, checkpoint_objects
from leyden.handlers.base import Handler
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.handlers.timer import Timer
from leyden.saving import whole_state
from leyden.sending import Late, dumps, loads

__all__ = ["launch", "save_handed"]

_ADDED = ("trainer.handlers.add", "replaces ")


def launch(trainer: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Make a call that needs several processes, where they are not there yet.

    Args:
        trainer: whose method is called.
        name: of the method, such as ``"fit"`` or ``"tuner.lr_find"``.
        args: for it.
        kwargs: for it.
    """
    launcher = trainer._run.strategy.launcher
    if isinstance(launcher, ScriptLauncher):
        return _in_script(trainer, launcher, name, args, kwargs)
    return _in_processes(trainer, launcher, name, args, kwargs)


# ---------------------------------------------------------------------------- the script again


def _in_script(
    trainer: Any, launcher: ScriptLauncher, name: str, args: tuple[Any, ...], kwargs: Any
) -> Any:
    """Start the other ranks, once; then this process is one of them."""
    strategy = trainer._run.strategy
    extra = {}
    version = getattr(trainer._run.logger, "version", None)
    if version is not None:
        extra["PL_EXP_VERSION"] = str(version)
    if trainer._settings.auto_select_gpus and isinstance(trainer._settings.gpus, list):
        extra[CHOSEN_VARIABLE] = ",".join(map(str, trainer._settings.gpus))
    strategy.environment = launcher.start(extra)
    strategy.launcher = None
    strategy.started_by = launcher
    strategy.connect()  # from here on everything finds the group, further Trainers too
    return _method(trainer, name)(*args, **kwargs)


def _method(trainer: Any, name: str) -> Any:
    found = trainer
    for part in name.split("."):
        found = getattr(found, part)
    return found


# ---------------------------------------------------------------------------- new processes


class _Objects:
    """The objects of a call that are sent as they are, each by a name."""

    def __init__(self, trainer: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> None:
        run = trainer._run
        bound = _bound(_method(trainer, name), args, kwargs)
        model = bound.get("model")
        self.model = run.model if model is None else model
        data = (*bound.values(), run.datamodule, getattr(self.model, "datamodule", None))
        self.data = next((one for one in data if isinstance(one, LightningDataModule)), None)
        own = run.model_callbacks or ()
        self.callbacks = [
            callback for callback in run.callback_list if not any(callback is one for one in own)
        ]
        self.handlers = [h for h in run.handlers if _by_hand(h, run)]

    def named(self, run: Any) -> dict[str, Any]:
        """All whose attributes come back, by name; the module apart."""
        found = {f"callback {i}": callback for i, callback in enumerate(self.callbacks)}
        found.update({f"handler {i}": handler for i, handler in enumerate(self.handlers)})
        loggers = getattr(run.logger, "_logger_iterable", None) or [run.logger]
        found.update({f"logger {i}": one for i, one in enumerate(loggers) if one is not None})
        found["profiler"] = run.settings.profiler
        return found


def _in_processes(
    trainer: Any, launcher: ProcessLauncher, name: str, args: tuple[Any, ...], kwargs: Any
) -> Any:
    pickler()
    run = trainer._run
    objects = _Objects(trainer, name, args, kwargs)
    if objects.model is not None and objects.model is not run.model:
        run.forget()
        run.handed = None
    blob = _packed(trainer, objects, name, args, kwargs)
    entry = pickler().dumps((_in_rank, (blob, compat.is_installed())))
    run.model, run.stage = objects.model, "launched"
    try:
        first, *others = launcher.run(entry)
    finally:
        run.stage = None
    known: dict[str, Any] = {
        "trainer": trainer,
        "model": objects.model,
        "data": objects.data,
        **_parts(trainer),
        **objects.named(run),
    }
    handed = loads(first, known)
    _take(trainer, objects, handed, known)
    return handed["value"]


def _parts(trainer: Any) -> dict[str, Any]:
    """What is one of a kind in each process."""
    run = trainer._run
    return {
        "run": run,
        "settings": run.settings,
        "recorder": run.recorder,
        "state": run.state,
        "engine": run.engine,
        "strategy": run.strategy,
        "precision": run.precision,
        **{f"engine {stage}": engine for stage, engine in run.evaluators.items()},
    }


# ---------------------------------------------------------------------------- the way there


def _packed(
    trainer: Any, objects: _Objects, name: str, args: tuple[Any, ...], kwargs: Any
) -> bytes:
    run, settings = trainer._run, trainer._settings
    arguments = dict(settings.given)
    arguments["callbacks"] = objects.callbacks
    savers = [one for one in objects.callbacks if isinstance(one, ModelCheckpoint)]
    arguments["checkpoint_callback"] = bool(savers)
    if any(isinstance(callback, Timer) for callback in objects.callbacks):
        arguments.pop("max_time", None)
    if not settings.needs_dummy_logger:
        if run.logger is not None:
            _ = run.logger.version  # decided here: it is the same in all processes
        arguments["logger"] = False if run.logger is None else run.logger
    if not isinstance(arguments.get("profiler"), (str, type(None))):
        arguments["profiler"] = settings.profiler
    sent = {
        "model": objects.model,
        "data": objects.data,
        "arguments": arguments,
        "handlers": [(handler, handler.origin) for handler in objects.handlers],
        "taken out": _taken_out(run),
        "listeners": _listeners(run),
        "call": (name, args, kwargs),
        "facts": _facts(trainer),
        "handed": run.handed,
        "restored": trainer._restored_into,
        "streams": rng.capture(),
    }
    try:
        ids = {**_parts(trainer), "trainer": trainer, "strategy": None, "precision": None}
        return dumps(sent, ids)
    except Exception as error:  # whatever a user's class does when it is pickled
        raise MisconfigurationException(
            f"{name} is to run in {run.strategy.world_size} new processes, and "
            f"{_culprit(sent)} cannot be sent to them: {type(error).__name__}: {error}. Leave it "
            "out of what pickle sees (__getstate__), make it in setup(), or pass "
            "accelerator='ddp', which starts the script again and sends nothing"
        ) from error


def _culprit(sent: Mapping[str, Any]) -> str:
    """Which part of what is sent cannot be pickled, as its owner knows it."""
    name, args, kwargs = sent["call"]
    parts: list[tuple[str, Any]] = []
    for what, owner in (("the module", sent["model"]), ("the data module", sent["data"])):
        if owner is not None:
            attributes = found_attributes(owner)
            parts += [(f"{what}'s attribute {key!r}", v) for key, v in attributes.items()]
            parts.append((f"{what} {type(owner).__name__}", owner))
    parts += [(type(one).__name__, one) for one in sent["arguments"]["callbacks"]]
    parts += [(f"{key}=", value) for key, value in sent["arguments"].items()]
    parts += [(f"argument {i} of {name}", value) for i, value in enumerate(args)]
    parts += [(f"{key}= of {name}", value) for key, value in kwargs.items()]
    parts += [(f"{handler!r}", handler) for handler, _ in sent["handlers"]]
    parts += [(f"{listener[2]!r}", listener) for listener in sent["listeners"]]
    for what, part in parts:
        try:
            pickler().dumps(part)
        except Exception:  # found
            return what
    return "something of it"


def _by_hand(handler: Any, run: Any) -> bool:
    """Whether the user added a handler that is no callback of the list."""
    if any(handler is callback for callback in run.callback_list):
        return False
    return str(getattr(handler, "origin", "")).startswith(_ADDED)


def _taken_out(run: Any) -> list[str]:
    """Handlers that arguments ask for and the user has removed or replaced."""
    made = [one for one in run.features.values() if callable(getattr(one, "attach", None))]
    return [type(one).__name__ for one in made if one not in run.handlers]


def _listeners(run: Any) -> list[tuple[Any, ...]]:
    """Functions that were attached to the engines themselves: by hand, or ignite's metrics."""
    found: list[tuple[Any, ...]] = []
    for stage, engine in {"train": run.engine, **run.evaluators}.items():
        for event, records in engine._event_handlers.items():
            for record in records:
                ours = isinstance(getattr(record.user, "__self__", None), Handler)
                if record.owner is not None or ours:
                    continue
                asked = record[0].event if record.filter is not None else event
                # The engine stands first where the function takes it; it is given again.
                args = [arg for arg in record[1] if not isinstance(arg, weakref.ref)]
                found.append((stage, asked, record.user, tuple(args), dict(record[2])))
    return found


# ---------------------------------------------------------------------------- in a new process


def _in_rank(blob: bytes, for_lightning: bool) -> bytes:
    """Be one rank: make the same Trainer, make the same call, say what came of it."""
    if for_lightning:
        compat.install(force=True)  # before what was sent imports pytorch_lightning
    from leyden.trainer import Trainer

    trainer: Any = Trainer.__new__(Trainer)
    sent = loads(blob, Late(trainer))
    for handler in (*sent["arguments"]["callbacks"], *(one for one, _ in sent["handlers"])):
        getattr(handler, "__dict__", {}).pop("_attached_handles", None)
    with _quiet():
        trainer.__init__(**sent["arguments"])
    run, model = trainer._run, sent["model"]
    run.model, run.datamodule = model, sent["data"]
    run.handed = sent["handed"]
    _place(trainer, sent["facts"])
    if sent["restored"] is not None:
        trainer._restored_into = sent["restored"]
    for name in sent["taken out"]:
        if name in run.handlers:
            run.handlers.remove(name)
    for handler, origin in sent["handlers"]:
        run.handlers.add(handler, origin=origin)
    engines = {"train": run.engine, **run.evaluators}
    for stage, event, function, args, kwargs in sent["listeners"]:
        engines[stage].add_event_handler(event, function, *args, **kwargs)
    rng.restore(sent["streams"])
    name, args, kwargs = sent["call"]
    objects = _Objects(trainer, name, args, kwargs)
    before = Handed(model)
    value = _method(trainer, name)(*args, **kwargs)
    return _packed_back(trainer, objects, before, name, value)


def _packed_back(trainer: Any, objects: _Objects, before: Handed, name: str, value: Any) -> bytes:
    run = trainer._run
    # Collective where weights or states are spread over processes: all of them come here.
    weights = run.strategy.model_state_dict(objects.model)
    # What the next fit goes on with; a checkpoint in memory.
    handed = whole_state(run) if name == "fit" else run.handed
    if not trainer.is_global_zero:
        return b""
    named = objects.named(run)
    sent = {
        "value": value,
        "module": module_state(objects.model, before, weights),
        "attributes": {key: found_attributes(one) for key, one in named.items()},
        "model callbacks": run.model_callbacks,
        "facts": _facts(trainer),
        "handed": handed,
        "restored": trainer._restored_into,
        "streams": rng.capture(),
        "pickles": checkpoint_objects.known(),
    }
    ids = {
        "trainer": trainer,
        "model": objects.model,
        "data": objects.data,
        **_parts(trainer),
        **named,
    }
    try:
        return dumps(sent, ids)
    except Exception:  # an attribute that a run made and that cannot be sent
        lost: list[str] = []
        for key, attributes in sent["attributes"].items():
            lost += _without_foreign(attributes, ids, key)
        for path, attributes in sent["module"]["attributes"].items():
            lost += _without_foreign(attributes, ids, path or type(objects.model).__name__)
        if lost:
            warn(
                f"not handed back, as they cannot be pickled: {', '.join(lost)}; they are as they "
                f"were before {name}",
                UserWarning,
            )
        return dumps(sent, ids)


def _without_foreign(attributes: dict[str, Any], ids: Mapping[str, Any], owner: str) -> list[str]:
    lost = []
    for key, value in list(attributes.items()):
        try:
            dumps(value, ids)
        except Exception:  # found
            del attributes[key]
            lost.append(f"{owner}.{key}")
    return lost


@contextlib.contextmanager
def _quiet() -> Any:
    """What making a Trainer tells was told when the first one was made."""
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.stdout = out


# ---------------------------------------------------------------------------- the way back


def _take(trainer: Any, objects: _Objects, handed: Any, known: Mapping[str, Any]) -> None:
    run = trainer._run
    if objects.model is not None:
        take_module(objects.model, handed["module"])
        objects.model.trainer = trainer
    for key, attributes in handed["attributes"].items():
        if key in known:
            take_over(known[key], attributes)
    for callback in run.model_callbacks or ():
        run.callback_list.remove(callback)
    run.model_callbacks = handed["model callbacks"]
    run.callback_list.extend(run.model_callbacks or ())
    if objects.data is not None:
        run.datamodule = objects.data
    run.handed = handed["handed"]
    trainer._restored_into = handed["restored"]
    _place(trainer, handed["facts"])
    rng.restore(handed["streams"])
    checkpoint_objects.know(handed["pickles"])


def _facts(trainer: Any) -> dict[str, Any]:
    """What can be read from a Trainer that does not run."""
    run, state = trainer._run, trainer._run.state
    return {
        "position": [state.epoch, state.iteration, state.epoch_start, state.optimizer_steps],
        "metrics": [
            _on_cpu(dict(run.recorder.callback_metrics)),
            _on_cpu(dict(run.recorder.logged_metrics)),
            _on_cpu(dict(run.recorder.progress_bar_metrics)),
        ],
        "run": {
            name: getattr(run, name)
            for name in ("status", "interrupted", "tested_path", "run_id", "resumed_path")
        },
        "signal": run.interruption.number,
        "batches": [run.loaders.num_training_batches, dict(run.loaders.num_batches)],
    }


def _place(trainer: Any, facts: Mapping[str, Any]) -> None:
    run, state = trainer._run, trainer._run.state
    state.epoch, state.iteration, state.epoch_start, state.optimizer_steps = facts["position"]
    state.settle()
    recorder = run.recorder
    shown = (recorder.callback_metrics, recorder.logged_metrics, recorder.progress_bar_metrics)
    for own, values in zip(shown, facts["metrics"], strict=True):
        own.clear()
        own.update(values)
    for name, value in facts["run"].items():
        setattr(run, name, value)
    run.interruption.number = facts["signal"]
    run.loaders.num_training_batches, batches = facts["batches"]
    run.loaders.num_batches.update(batches)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(one) for key, one in value.items()}
    return value


def _bound(method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(method)
    names = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def save_handed(run: Any, path: Any, weights_only: bool) -> None:
    """Write a checkpoint of the last fit, which other processes ran, with the weights as they are.

    Args:
        run: to which they handed their state.
        path: the file.
        weights_only: leave out what only a resumed run needs.
    """
    checkpoint = {**run.handed, "state_dict": run.model.state_dict()}
    if weights_only:
        for name in ("optimizer_states", "lr_schedulers", "callbacks", "native_amp_scaling_state"):
            checkpoint.pop(name, None)
        own = checkpoint["leyden"]
        checkpoint["leyden"] = {name: own[name] for name in ("version", "run") if name in own}
    checkpoint_io.save(checkpoint, path)
    run.state.saved_path = os.fspath(path)

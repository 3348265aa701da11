"""What a checkpoint holds: built from a run by :func:`dump`, given back to one by :func:`restore`.

The keys are Lightning 1.1's, so that later versions read weights and hyper-parameters too::

    epoch                       the epoch a resumed run begins with, or goes on in
    global_step                 completed optimizer steps
    pytorch-lightning_version   the version whose form this is
    state_dict                  weights and buffers of the module
    callbacks                   state by name of callback          }
    optimizer_states            one a optimizer                    }  not where only
    lr_schedulers               one a scheduler                    }  weights are saved
    native_amp_scaling_state    of the gradient scaler, if any     }
    amp_scaling_state           of the opt-levels' loss scale      }
    leyden                      what continues a run exactly       }
    hparams_name, hyper_parameters   plain data, if there are any

Everything is plain data and tensors: ``torch.load(weights_only=True)`` reads it.

``leyden`` holds ``version`` (of this form), ``callback_states`` (see :func:`callback_keys`) and
what ``trainer.resume_state()`` returns: the run's name, position, random numbers, loader,
gradients, metrics, handlers. Where only weights are saved it holds the version and the run's name.
"""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from leyden.backends.strategies import Strategy
from leyden.backends.xla import to_host
from leyden.engine.notice import warn
from leyden.handlers.checkpoint_mismatch import (
    kinds,
    refuse,
    run_mismatches,
    weight_mismatches,
)
from leyden.handlers.checkpoint_objects import revive
from leyden.handlers.checkpoint_plain import plain
from leyden.handlers.config_containers import unpacked
from leyden.handlers.plain_data import foreign, numbers, without_foreign

__all__ = [
    "FORM",
    "LIGHTNING_VERSION",
    "callback_keys",
    "dump",
    "mismatches",
    "restore",
    "weights_of",
]

#: version of what stands under "leyden"; a reader refuses a higher one.
FORM = 1
#: whose keys these are.
LIGHTNING_VERSION = "1.1.8"

_OWN_KEYS = ("version", "callback_states", "datamodule", "objects", "optimizers", "schedulers")
_TRAINING_KEYS = ("optimizer_states", "lr_schedulers")


def dump(trainer: Any, weights_only: bool = False, *, whole: bool = True) -> dict[str, Any]:
    """Build the checkpoint of a run as it is now.

    Tensors are those of the run, not copies: write it before the next step, or copy it.

    The hooks ``on_save_checkpoint`` of callbacks, module and data module run here, in this order.

    Args:
        trainer: the run, with ``lightning_module`` (or ``model``), ``current_epoch``,
            ``global_step``, ``callbacks``, ``optimizers``, ``lr_schedulers``; where it has them
            ``datamodule``, ``scaler`` and ``resume_state()``.
        weights_only: leave out what only a resumed run needs.
        whole: gather what is spread over processes; False: each brings its part.
    """
    module = _module(trainer)
    # In a hook of the last batch the counters lag behind; the position does not.
    resume = {} if not hasattr(trainer, "resume_state") else trainer.resume_state()
    epoch, steps = _position(trainer, resume)
    checkpoint: dict[str, Any] = {
        "epoch": epoch,
        "global_step": steps,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": weights_of(trainer, whole=whole),
    }
    if weights_only and "run" in resume:
        checkpoint["leyden"] = {"version": FORM, "run": resume["run"]}
    if not weights_only:
        checkpoint["callbacks"] = {}
        checkpoint["leyden"] = {"version": FORM, "callback_states": {}, **resume}
        _save_callbacks(trainer, module, checkpoint)
        spread = strategy_of(trainer)
        checkpoint["optimizer_states"] = [
            # A schedule made with NumPy leaves its numbers there.
            numbers(
                spread.optimizer_state_dict(module, optimizer) if whole else optimizer.state_dict()
            )
            for optimizer in trainer.optimizers
        ]
        checkpoint["lr_schedulers"] = [_schedule(s) for s in trainer.lr_schedulers]
        checkpoint["leyden"]["optimizers"] = kinds(trainer.optimizers)
        checkpoint["leyden"]["schedulers"] = kinds([_scheduler(s) for s in trainer.lr_schedulers])
        scaler = getattr(trainer, "scaler", None)
        if scaler is not None:
            checkpoint["native_amp_scaling_state"] = scaler.state_dict()
        precision = getattr(trainer, "precision_plugin", None)
        if precision is not None and precision.checkpoint_key not in (None, *checkpoint):
            checkpoint[precision.checkpoint_key] = precision.state_dict()
        datamodule: Any = getattr(trainer, "datamodule", None)
        kept = numbers(datamodule.state_dict()) if hasattr(datamodule, "state_dict") else None
        if kept and _is_data(type(datamodule).__name__, "state_dict", kept):
            checkpoint["leyden"]["datamodule"] = kept
    objects: dict[str, Any] = {}
    hparams = getattr(module, "hparams", None)
    if hparams:
        checkpoint["hparams_name"] = getattr(module, "_hparams_name", None) or "kwargs"
        data, containers = unpacked(hparams)
        checkpoint["hyper_parameters"] = plain(data, objects=objects)
        if containers:
            checkpoint["leyden"]["omegaconf"] = containers
    known = set(checkpoint)
    for owner in (module, getattr(trainer, "datamodule", None)):
        hook = getattr(owner, "on_save_checkpoint", None)
        if hook is not None:
            hook(checkpoint)
    for key in set(checkpoint) - known:
        # Of the user's own making; what cannot be read back safely must not spoil the rest.
        checkpoint[key] = plain(checkpoint[key], name=key, objects=objects)
    if objects:
        checkpoint.setdefault("leyden", {"version": FORM})["objects"] = objects
    found: dict[str, Any] = to_host(checkpoint)
    return found  # what lies on an XLA device; that of other devices stays


def strategy_of(trainer: Any) -> Strategy:
    """How a run's parts are spread over processes."""
    found: Strategy | None = getattr(trainer, "strategy", None)
    return Strategy() if found is None else found


def weights_of(trainer: Any, *, whole: bool = True) -> dict[str, Any]:
    """The weights and buffers that a checkpoint holds; ``whole`` is that of :func:`dump`."""
    module = _module(trainer)
    strategy = strategy_of(trainer)
    weights = strategy.model_state_dict(module) if whole else module.state_dict()
    for callback in getattr(trainer, "callbacks", ()):
        # Weight averaging: the file holds the averaged weights, its own state the others.
        if _has(callback, "weights_to_save"):
            weights = callback.weights_to_save(module, weights)
    return weights


def restore(trainer: Any, checkpoint: dict[str, Any]) -> None:
    """Give a run back what ``dump`` saved, or what Lightning 1.1 saved.

    Nothing is changed where something does not fit: all that does not is listed at once.

    The run goes on through ``trainer.load_resume_state(state, epoch, global_step)``, where
    ``state`` is what ``resume_state()`` returned, or None if the checkpoint holds none (Lightning's
    does not): the run then begins at the start of ``epoch``.

    Raises:
        KeyError: the checkpoint holds weights only.
        RuntimeError: it is of another model, has other optimizers, or is of a newer version.
    """
    module = _module(trainer)
    missing = [key for key in _TRAINING_KEYS if key not in checkpoint]
    if missing:
        raise KeyError(
            "a run cannot be resumed from it: the checkpoint contains only the model, it lacks "
            f"{', '.join(missing)} (it was saved with weights only). Load its weights with "
            "load_from_checkpoint, or resume from a full one"
        )
    problems = run_mismatches(checkpoint, *_parts(trainer), form=FORM)
    if problems:
        refuse(weight_mismatches(checkpoint["state_dict"], module.state_dict()) + problems)
    revive(checkpoint)  # one that was never a file
    datamodule: Any = getattr(trainer, "datamodule", None)
    for owner in (datamodule, module):
        hook = getattr(owner, "on_load_checkpoint", None)
        if hook is not None:
            hook(checkpoint)
    # Only now: the module's hook is where users rename weights of older models.
    problems = weight_mismatches(checkpoint["state_dict"], module.state_dict())
    if problems:
        refuse(problems)
    strategy = strategy_of(trainer)
    strategy.load_model_state_dict(module, checkpoint["state_dict"])
    loaded = checkpoint.get("leyden", {}).get("datamodule")
    if loaded and hasattr(datamodule, "load_state_dict"):
        datamodule.load_state_dict(loaded)
    _restore_callbacks(trainer, module, checkpoint)
    for optimizer, state in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        strategy.load_optimizer_state_dict(module, optimizer, state)
    for entry, state in zip(trainer.lr_schedulers, checkpoint["lr_schedulers"], strict=True):
        _load_schedule(_scheduler(entry), state)
    scaler, scale = getattr(trainer, "scaler", None), checkpoint.get("native_amp_scaling_state")
    if scaler is not None and scale is not None:
        scaler.load_state_dict(scale)
    precision = getattr(trainer, "precision_plugin", None)
    if precision is not None and scaler is None and precision.checkpoint_key in checkpoint:
        precision.load_state_dict(checkpoint[precision.checkpoint_key])
    if hasattr(trainer, "load_resume_state"):
        own = checkpoint.get("leyden")
        rest = None
        if own is not None:
            rest = {key: value for key, value in own.items() if key not in _OWN_KEYS}
        trainer.load_resume_state(rest or None, checkpoint["epoch"], checkpoint["global_step"])


def mismatches(trainer: Any, checkpoint: Mapping[str, Any]) -> list[str]:
    """List what of a checkpoint does not fit a run, one line each; changes nothing."""
    weights = weight_mismatches(checkpoint["state_dict"], _module(trainer).state_dict())
    return weights + run_mismatches(checkpoint, *_parts(trainer), form=FORM)


def _parts(trainer: Any) -> tuple[Any, ...]:
    callbacks = list(getattr(trainer, "callbacks", ()))
    named = dict(zip(callback_keys(callbacks), callbacks, strict=True))
    return trainer.optimizers, [_scheduler(s) for s in trainer.lr_schedulers], named


def callback_keys(callbacks: Sequence[Any]) -> list[str]:
    """Return the names under which the states of callbacks are saved, one each and all different.

    Two callbacks with the same ``state_key`` are told apart by their order: the second gets ``#2``.
    """
    keys: list[str] = []
    seen: dict[str, int] = {}
    for callback in callbacks:
        named = getattr(callback, "state_key", None)
        key = named if isinstance(named, str) else type(callback).__qualname__
        seen[key] = seen.get(key, 0) + 1
        keys.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return keys


# ---------------------------------------------------------------------------------------- callbacks


def _save_callbacks(trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
    """Ask all callbacks for their states, in both styles.

    What ``on_save_checkpoint`` returns stands under ``callbacks``, as in Lightning 1.1; what
    ``state_dict`` returns stands there too if the hook returned nothing, and under ``leyden`` if
    both did.
    """
    callbacks = list(getattr(trainer, "callbacks", ()))
    states, own = checkpoint["callbacks"], checkpoint["leyden"]["callback_states"]
    for key, callback in zip(callback_keys(callbacks), callbacks, strict=True):
        returned = numbers(_call_save(callback, trainer, module, checkpoint))
        kept = numbers(callback.state_dict()) if _has(callback, "state_dict") else {}
        if returned is not None and _is_data(key, "on_save_checkpoint", returned):
            states[key] = returned
        if kept and _is_data(key, "state_dict", kept):
            if returned is None:
                states[key] = kept
                own[key] = None  # it is a state_dict
            elif not isinstance(returned, Mapping) or set(returned) != set(kept):
                own[key] = kept


def _restore_callbacks(trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
    callbacks = list(getattr(trainer, "callbacks", ()))
    states = dict(checkpoint.get("callbacks", {}))
    known = set(states)
    own = checkpoint.get("leyden", {}).get("callback_states", {})
    keys = callback_keys(callbacks)
    for key, callback in zip(keys, callbacks, strict=True):
        saved_as = key if key in states else _old_key(callback, states, keys)
        state = states.pop(saved_as, None)
        hook = getattr(callback, "on_load_checkpoint", None)
        if hook is not None and _arguments(hook) >= 3:
            hook(trainer, module, checkpoint)
        if saved_as in own and own[saved_as] is None:
            callback.load_state_dict(state)
            continue
        if state is not None and hook is not None and _arguments(hook) < 3:
            hook(state)
        if own.get(key) is not None:
            callback.load_state_dict(own[key])
    if states:
        new = [key for key, one in zip(keys, callbacks, strict=True) if _is_new(one, key, known)]
        warn(
            "the checkpoint holds the state of callbacks that this run does not have: "
            f"{', '.join(sorted(states))}"
            + (f"; and none of {', '.join(sorted(new))}, which it has" if new else "")
            + ". That state is not restored; pass the same callbacks to resume exactly",
            UserWarning,
        )


def _is_new(callback: Any, key: str, known: set[str]) -> bool:
    """Whether a callback has a state, and the checkpoint none of it."""
    keeps = getattr(callback, "state_keys", ()) or hasattr(callback, "best_k_models")
    return bool(keeps) and key not in known and type(callback).__name__ not in known


def _call_save(callback: Any, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> Any:
    hook = getattr(callback, "on_save_checkpoint", None)
    if hook is None:
        return None
    if _arguments(hook) >= 3:
        return hook(trainer, module, checkpoint)
    return hook(trainer, module)


def _has(callback: Any, name: str) -> bool:
    """Whether a callback really has this method: a mock answers to every name."""
    return inspect.getattr_static(callback, name, None) is not None


def _old_key(callback: Any, states: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The class name, by which Lightning 1.1 names the state; once for all of a class."""
    names = [type(callback).__name__, f"{type(callback).__module__}.{type(callback).__qualname__}"]
    found = [name for name in names if name in states and name not in keys]
    return found[0] if found else ""


def _arguments(hook: Any) -> int:
    """How many positional arguments a hook takes: versions of Lightning differ."""
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):
        return 2
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _is_data(key: str, source: str, state: Any) -> bool:
    where = foreign(state)
    if where is None:
        return True
    warn(
        f"the state of {key} is left out of the checkpoint: what its {source} returned holds "
        f"{where}, "
        "which cannot be read back without running code. Return tensors, numbers, text, lists and "
        "dicts",
        UserWarning,
    )
    return False


# ---------------------------------------------------------------------------------- parts of a run


def _module(trainer: Any) -> Any:
    module = getattr(trainer, "lightning_module", None)
    return trainer.model if module is None else module


def _scheduler(entry: Any) -> Any:
    return entry["scheduler"] if isinstance(entry, Mapping) else entry


def _schedule(entry: Any) -> dict[str, Any]:
    """The state of a scheduler, as far as it is data."""
    scheduler = _scheduler(entry)
    state, lost = without_foreign(numbers(scheduler.state_dict()))
    if lost:
        warn(
            f"the state of {type(scheduler).__name__} goes into the checkpoint without "
            f"{', '.join(lost)}: that cannot be read back without running code. A resumed run "
            "takes it from the new scheduler; return tensors, numbers, text, lists and dicts from "
            "its state_dict to keep it",
            UserWarning,
        )
    return state


def _load_schedule(scheduler: Any, state: Mapping[str, Any]) -> None:
    # What a trusted file holds beside data (a bound method, in torch 1.7) the new object has.
    data = without_foreign(state)[0]
    for name, value in data.items():
        if isinstance(value, dict) and isinstance(getattr(scheduler, name, None), Counter):
            data[name] = Counter(value)  # MultiStepLR's milestones
    scheduler.load_state_dict(data)


def _position(trainer: Any, resume: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epoch to begin with and the completed optimizer steps."""
    position = resume.get("position", {})
    steps = position.get("optimizer_steps", getattr(trainer, "optimizer_steps", None))
    if steps is None:
        steps = trainer.global_step + 1  # as a hook sees it, one behind
    if not steps and not position.get("iteration"):
        return 0, 0  # nothing was trained yet
    max_steps = getattr(trainer, "max_steps", None)
    unfinished = (
        max_steps is not None and steps >= max_steps and not position.get("epoch_done", False)
    )
    return trainer.current_epoch + (0 if unfinished else 1), steps

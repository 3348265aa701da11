"""What of a checkpoint does not fit a run: all of it, before anything is changed."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from leyden.handlers.base import Handler

__all__ = ["kinds", "refuse", "run_mismatches", "weight_mismatches"]

# Of a model with thousands of other weights the first lines tell enough.
_LINES = 60
# What torch adds to the groups of any optimizer, or fills in itself where an older one saved them.
_ADDED = ("params", "initial_lr", "param_names")


def kinds(objects: Sequence[Any]) -> list[str]:
    """Name the classes of optimizers or schedulers, as a checkpoint keeps them."""
    return [f"{type(one).__module__}.{type(one).__qualname__}" for one in objects]


def weight_mismatches(saved: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Compare names and shapes of weights."""
    found = [f"weights {key!r} are missing in the checkpoint" for key in own if key not in saved]
    found += [f"weights {key!r} are not in the model" for key in saved if key not in own]
    for key in own:
        there, here = _shape(saved.get(key)), _shape(own[key])
        if there is not None and here is not None and there != here:
            found.append(f"weights {key!r} have the shape {there}, the model's have {here}")
    return found


def run_mismatches(
    checkpoint: Mapping[str, Any],
    optimizers: Sequence[Any],
    schedulers: Sequence[Any],
    callbacks: Mapping[str, Any],
    *,
    form: int,
) -> list[str]:
    """Compare everything but the weights.

    Args:
        checkpoint: what was read.
        optimizers: those of the run.
        schedulers: those of the run.
        callbacks: those of the run, by the name of their state.
        form: the newest form of checkpoints that can be read.
    """
    own = checkpoint.get("leyden", {})
    version = own.get("version", form)
    if version > form:
        return [f"it is of a newer leyden (form {version}, this one reads up to {form}): update"]
    found = _optimizers(checkpoint.get("optimizer_states", []), optimizers, own.get("optimizers"))
    found += _schedulers(checkpoint.get("lr_schedulers", []), schedulers, own.get("schedulers"))
    states = checkpoint.get("callbacks", {})
    for key, kept in own.get("callback_states", {}).items():
        state = states.get(key) if kept is None else kept
        found += _callback(key, callbacks.get(key), state)
    return found


def refuse(problems: Sequence[str]) -> NoReturn:
    """Raise what lists them.

    Raises:
        RuntimeError: always.
    """
    newer = any("newer leyden" in problem for problem in problems)
    more = len(problems) - _LINES
    lines = [*problems[:_LINES], *([f"... and {more} more"] if more > 0 else [])]
    raise RuntimeError(
        "the checkpoint does not fit this run, nothing was restored:\n  "
        + "\n  ".join(lines)
        + (
            ""
            if newer
            else "\nResume with the model, optimizers, schedulers and callbacks it was saved with; "
            "load_from_checkpoint takes the weights alone"
        )
    )


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if hasattr(value, "shape") else None


def _optimizers(
    saved: Sequence[Mapping[str, Any]], own: Sequence[Any], names: Sequence[str] | None
) -> list[str]:
    if len(saved) != len(own):
        return [f"{len(saved)} optimizers were saved, the run has {len(own)}"]
    found = []
    for index, (state, optimizer) in enumerate(zip(saved, own, strict=True)):
        here, groups = type(optimizer).__name__, state.get("param_groups", [])
        name = kinds([optimizer])[0]
        if names is not None and names[index] != name:
            there = names[index].rpartition(".")[2]
            known = all(one.startswith("torch.optim.") for one in (names[index], name))
            # One's own class may be called otherwise now; its settings tell.
            if known or _settings(groups, optimizer):
                found.append(f"optimizer {index} was saved by {there}, the run has {here}")
        elif settings := _settings(groups, optimizer):
            found.append(f"optimizer {index} was saved without {settings}, which {here} has")
        there_sizes = [len(group["params"]) for group in groups]
        here_sizes = [len(group["params"]) for group in optimizer.param_groups]
        if there_sizes != here_sizes:
            found.append(
                f"optimizer {index} was saved with {there_sizes} parameters a group, it has "
                f"{here_sizes}"
            )
    return found


def _settings(groups: Sequence[Mapping[str, Any]], optimizer: Any) -> str:
    """Name the numbers among an optimizer's settings that were not saved: it is another one."""
    kept = set().union(*groups) if groups else set()
    missing = [
        key
        for group in optimizer.param_groups
        for key, value in group.items()
        # Switches are filled in by torch: newer versions have more of them.
        if type(value) in (int, float, tuple, list) and key not in _ADDED and key not in kept
    ]
    return ", ".join(dict.fromkeys(missing))


def _schedulers(saved: Sequence[Any], own: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    if len(saved) != len(own):
        return [f"{len(saved)} learning rate schedulers were saved, the run has {len(own)}"]
    if names is None:
        return []
    return [
        f"scheduler {index} was saved by {there.rpartition('.')[2]}, the run has "
        f"{here.rpartition('.')[2]}"
        for index, (there, here) in enumerate(zip(names, kinds(own), strict=True))
        if there != here and all(one.startswith("torch.optim.") for one in (there, here))
    ]


def _callback(key: str, callback: Any, state: Any) -> list[str]:
    """Compare the names in the state of a callback that declares them."""
    if callback is None or not isinstance(state, Mapping):
        return []
    if getattr(type(callback), "load_state_dict", None) is not Handler.load_state_dict:
        return []  # it decides itself what fits
    missing, unknown = set(callback.state_keys) - set(state), set(state) - set(callback.state_keys)
    found = [f"the state of {key} was saved without {name!r}" for name in sorted(missing)]
    return found + [f"the state of {key} has no {name!r} (any more)" for name in sorted(unknown)]

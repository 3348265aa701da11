"""Metric objects known by their protocol: update, compute, reset (torchmetrics, ignite)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leyden.engine.errors import MisconfigurationException
from leyden.engine.notice import warn

__all__ = [
    "batch_value",
    "computed",
    "is_metric",
    "load_metric_state",
    "metric_at",
    "metric_paths",
    "metric_state",
    "note_attribute",
]

# The name of the attribute of a module that holds what note_attribute was told.
_NOTED = "_metric_attributes"


def is_metric(value: object) -> bool:
    """Whether `value` has the methods update, compute and reset.

    The class is asked, not the object: an ignite metric answers any attribute with a function.
    """
    kind = type(value)
    return all(callable(getattr(kind, name, None)) for name in ("update", "compute", "reset"))


def batch_value(metric: object) -> Tensor | None:
    """The value of the running batch, which a torchmetrics object keeps after it was called.

    None after a plain ``update``: then only the value over the whole epoch is known.
    """
    value = vars(metric).get("_forward_cache")
    return value.detach() if isinstance(value, Tensor) and value.numel() == 1 else None


def computed(metric: Any, name: str, hook: str) -> Any:
    """Return ``metric.compute()`` as one number.

    Raises:
        MisconfigurationException: it is not one number.
    """
    value = metric.compute()
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().reshape(())
    if isinstance(value, (int, float)):
        return torch.tensor(float(value))
    item = getattr(type(value), "item", None)  # numpy
    if callable(item) and getattr(value, "size", None) == 1:
        return torch.tensor(float(value))
    kind = type(value).__name__
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    raise MisconfigurationException(
        f"self.log({name!r}) in {hook}: {type(metric).__name__}.compute() gave a {kind}{shape}, not"
        " one number: log its parts one by one (self.log_dict for a collection)"
    )


def metric_paths(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield ``(path, metric)`` of every metric object that hangs on a module."""
    if not isinstance(module, torch.nn.Module):
        return
    for path, part in module.named_modules():
        if path and is_metric(part):
            members: Any = part
            if callable(getattr(type(part), "values", None)):
                # A torchmetrics collection updates one member of a group of like ones; reading
                # the members brings the others up to date.
                list(members.values())
            yield path, part
        for name, value in vars(part).items():
            if not isinstance(value, (torch.nn.Module, Tensor)) and is_metric(value):
                yield f"{path}.{name}" if path else name, value
    for path in sorted(vars(module).get(_NOTED, ())):
        found = metric_at(module, path)
        if found is not None:
            yield path, found


def metric_at(module: Any, path: str) -> Any:
    """Follow a path such as ``scores.train.0`` through attributes, keys and indices; None: nothing.

    Only metric objects are found.
    """
    found = module
    for name in path.split("."):
        try:
            if isinstance(found, Mapping):
                found = found[name]
            elif isinstance(found, Sequence) and not isinstance(found, str):
                found = found[int(name)]
            else:
                found = getattr(found, name)
        except (AttributeError, LookupError, ValueError):
            return None
    return found if is_metric(found) else None


def note_attribute(module: Any, name: str, value: object, attribute: object) -> None:
    """Note where a logged metric object hangs, so that its state can be saved and put back.

    Metric objects that are attributes of the module or of its parts are found without; this is for
    those in a list, a dict or an object of another kind.

    Args:
        module: what logs it.
        name: under which name.
        value: the metric object.
        attribute: the path from the module to it.

    Raises:
        MisconfigurationException: the value is no metric object, or is not found there.
    """
    where = f"self.log({name!r}, metric_attribute={attribute!r})"
    if not is_metric(value):
        raise MisconfigurationException(
            f"{where}: the value is a {type(value).__name__}, and only metric objects (update,"
            " compute, reset) have an attribute: leave metric_attribute out"
        )
    if not isinstance(attribute, str) or metric_at(module, attribute) is not value:
        raise MisconfigurationException(
            f"{where}: the {type(value).__name__} that is logged is not found there: pass the path"
            f" from the {type(module).__name__} to it, such as 'scores.train' for"
            " self.scores['train'] or self.scores.train"
        )
    vars(module).setdefault(_NOTED, set()).add(attribute)


def _torchmetrics_parts(metric: Any) -> list[tuple[str, Any]]:
    if not isinstance(metric, torch.nn.Module):
        return []
    return [(p, m) for p, m in metric.named_modules() if isinstance(vars(m).get("_defaults"), dict)]


def metric_state(metric: Any) -> dict[str, Any] | None:
    """Return the running state of a metric object, or None if it offers no way to read it."""
    parts = _torchmetrics_parts(metric)
    if parts:
        return {
            path: {
                "count": vars(part).get("_update_count", 0),
                "state": {name: _copied(getattr(part, name)) for name in part._defaults},
            }
            for path, part in parts
        }
    kind = type(metric)
    keys = getattr(kind, "_state_dict_all_req_keys", None)
    if keys != () and all(
        callable(getattr(kind, n, None)) for n in ("state_dict", "load_state_dict")
    ):
        return {"own": metric.state_dict()}
    warn(
        f"the running state of the metric object {kind.__name__} cannot be saved: a run resumed in"
        " the middle of an epoch computes it over the rest of that epoch only; give it state_dict"
        " and load_state_dict",
    )
    return None


def load_metric_state(metric: Any, state: Mapping[str, Any]) -> None:
    """Put a state of `metric_state` back into the same metric object."""
    if "own" in state:
        metric.load_state_dict(state["own"])
        return
    parts = dict(_torchmetrics_parts(metric))
    if parts.keys() != state.keys():
        raise ValueError(
            f"the saved state of {type(metric).__name__} has the parts {sorted(state)}, the object"
            f" has {sorted(parts)}: build the metric as in the saved run"
        )
    for path, saved in state.items():
        part = parts[path]
        device = getattr(part, "device", None)
        for name, value in saved["state"].items():
            setattr(part, name, _copied(value, device))
        part._update_count = saved["count"]
        part._computed = None


def _copied(value: Any, device: Any = None) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone() if device is None else value.detach().to(device, copy=True)
    if isinstance(value, (list, tuple)):
        return [_copied(v, device) for v in value]
    return value

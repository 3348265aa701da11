"""Metrics as numbers: conversion of tensors in one transfer, merging of dicts of one step."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["mean", "merge_dicts", "scalars"]


def scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each one-element tensor by its number, with one device transfer for all of them.

    Args:
        metrics: Numbers, tensors of one element on any device, NumPy scalars, dicts of these, or
            whatever else a logger may understand, which stays as it is.

    Returns:
        A new dict with the same keys in the same order.

    Raises:
        ValueError: If a tensor has more or fewer than one element.
    """
    for value in metrics.values():
        if type(value) is not float and type(value) is not int:
            break
    else:
        return dict(metrics)  # nearly always: whoever logs has read its tensors
    found: list[tuple[dict[str, Any], str, Tensor]] = []
    result = _collect(metrics, found, "")
    floats: dict[torch.device, list[tuple[dict[str, Any], str, Tensor]]] = {}
    for target, key, tensor in found:
        if tensor.is_floating_point():
            floats.setdefault(tensor.device, []).append((target, key, tensor))
        else:
            target[key] = tensor.item()
    for device, entries in floats.items():
        if len(entries) == 1:
            target, key, tensor = entries[0]
            target[key] = tensor.item()
            continue
        # float64 holds every float type exactly; MPS has none, there float32 holds what exists.
        wide = torch.float32 if device.type == "mps" else torch.float64
        packed = torch.stack([tensor.reshape(()).to(wide) for _, _, tensor in entries])
        for (target, key, _), value in zip(entries, packed.tolist(), strict=True):
            target[key] = value
    return result


def _collect(
    metrics: Mapping[str, Any], found: list[tuple[dict[str, Any], str, Tensor]], path: str
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"the metric {path + key!r} is a tensor of shape {tuple(value.shape)}: a "
                    "logger takes one number for each name; log its mean(), or one name for "
                    "each element"
                )
            result[key] = None  # keeps the place in the order
            found.append((result, key, value.detach()))
        elif isinstance(value, Mapping):
            result[key] = _collect(value, found, f"{path}{key}/")
        elif isinstance(value, (int, float, str)) or not hasattr(value, "item"):
            result[key] = value
        else:  # NumPy scalars and arrays of one element
            if getattr(value, "size", 1) != 1:
                raise ValueError(
                    f"the metric {path + key!r} is an array of shape {tuple(value.shape)}: a "
                    "logger takes one number for each name; log its mean(), or one name for "
                    "each element"
                )
            result[key] = value.item()
    return result


def mean(values: Sequence[Any]) -> Any:
    """Average numbers or tensors; anything that cannot be added gives its last value."""
    total = values[0]
    try:
        for value in values[1:]:
            total = operator.add(total, value)
        return total / len(values)
    except TypeError:
        return values[-1]


def merge_dicts(
    dicts: Sequence[Mapping[str, Any]],
    agg_key_funcs: Mapping[str, Any] | None = None,
    default_func: Callable[[Sequence[Any]], Any] = mean,
) -> dict[str, Any]:
    """Merge several metric dicts into one, key by key.

    Args:
        dicts: The dicts; a key may be missing in some of them. Dicts inside are merged likewise.
        agg_key_funcs: For a key, the function that makes one value of the list of its values; for a
            key that holds dicts, such a mapping.
        default_func: The function for all other keys.

    Example:
        >>> merge_dicts([{"a": 1.0, "b": 3.0}, {"a": 2.0}], {"b": max})
        {'a': 1.5, 'b': 3.0}
    """
    functions = agg_key_funcs or {}
    gathered: dict[str, list[Any]] = {}
    for metrics in dicts:
        for key, value in metrics.items():
            if value is not None:
                gathered.setdefault(key, []).append(value)
    result: dict[str, Any] = {}
    for key, values in gathered.items():
        function = functions.get(key)
        if isinstance(values[0], Mapping):
            result[key] = merge_dicts(values, function, default_func)
        else:
            result[key] = (function or default_func)(values)
    return result

"""Move a batch of any shape to a device."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch

__all__ = ["apply_to_tensors", "move_to_device", "tensors_of"]


def move_to_device(batch: Any, device: torch.device | str) -> Any:
    """Return ``batch`` with every tensor in it on ``device``.

    Looks into mappings, sequences, named tuples and dataclasses. An object of another kind that has
    a ``to`` method (a packed sequence, a graph batch) is moved by it; all else stays as it is.

    Args:
        batch: The batch, as the loader made it.
        device: Where the tensors shall be.
    """
    place = device if isinstance(device, torch.device) else torch.device(device)
    # Copies from pinned memory overlap with the GPU's work; elsewhere the flag has no effect.
    beside = place.type == "cuda"
    kind = type(batch)
    if (kind is list or kind is tuple) and all(map(_is_plain, batch)):
        # What a DataLoader gives most often, once for every batch: nothing has to be found out.
        return kind([tensor.to(place, non_blocking=beside) for tensor in batch])

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(place, non_blocking=beside)
        return value.to(device)

    return _apply(batch, move, also="to")


def _is_plain(value: Any) -> bool:
    return type(value) is torch.Tensor


def apply_to_tensors(data: Any, function: Any) -> Any:
    """Return ``data`` with ``function`` applied to every tensor in it.

    Args:
        data: A tensor, or mappings, sequences, named tuples and dataclasses that hold tensors.
        function: Called with each tensor; what it returns takes the tensor's place.
    """
    return _apply(data, function, also=None)


def tensors_of(data: Any) -> list[torch.Tensor] | None:
    """Return the tensors that :func:`move_to_device` moves one by one.

    Returns:
        None where some object moves itself: what it holds is not known.
    """
    found: list[torch.Tensor] = []
    opaque: list[Any] = []

    def see(value: Any) -> Any:
        (found if isinstance(value, torch.Tensor) else opaque).append(value)
        return value

    _apply(data, see, also="to")
    return None if opaque else found


def _apply(data: Any, function: Any, also: str | None) -> Any:
    if isinstance(data, torch.Tensor):
        return function(data)
    # Asked before the containers: PackedSequence and BatchEncoding are some that move themselves.
    if also is not None and not isinstance(data, type) and callable(getattr(data, also, None)):
        return function(data)
    if isinstance(data, Mapping):
        moved = {key: _apply(value, function, also) for key, value in data.items()}
        return moved if type(data) is dict else _rebuild(data, moved)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(_apply(value, function, also) for value in data))
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes, bytearray, range)):
        items = [_apply(value, function, also) for value in data]
        return items if type(data) is list else _rebuild(data, items)
    if is_dataclass(data) and not isinstance(data, type):
        return _rebuild_dataclass(data, function, also)
    return data


def _rebuild(data: Any, content: Any) -> Any:
    """Make a container of the type of ``data``; a built-in one where that cannot be called so."""
    if isinstance(data, dict) and hasattr(data, "default_factory"):
        counted: Any = data
        return type(counted)(counted.default_factory, content)
    try:
        return type(data)(content)
    except TypeError:
        return tuple(content) if isinstance(data, tuple) else content


def _rebuild_dataclass(data: Any, function: Any, also: str | None) -> Any:
    """Copy a dataclass without running its ``__init__``, which may compute or check."""
    copied = object.__new__(type(data))
    # A frozen dataclass refuses setattr, and one with slots has no __dict__.
    for name, value in getattr(data, "__dict__", {}).items():
        object.__setattr__(copied, name, value)
    for field in fields(data):
        value = getattr(data, field.name)
        object.__setattr__(copied, field.name, _apply(value, function, also))
    return copied

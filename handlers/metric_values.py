"""Logged values: what is accepted, how many samples a batch has, and the move to the host."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leyden.engine.errors import MisconfigurationException

__all__ = [
    "LazyScalars",
    "as_batch_size",
    "as_scalar",
    "batch_size_of",
    "check_name",
    "host_scalars",
]

_MAX_DEPTH = 16
"""How deep a batch is searched for its first tensor."""


def check_name(name: object, hook: str | None) -> str:
    """Refuse a metric name that cannot be a column, a tag or a key.

    Args:
        name: what the user passed to ``self.log``.
        hook: the hook it was called from, for the message.

    Raises:
        MisconfigurationException: the name is not text, is empty, holds a control character, or
            holds ``/dataloader_idx_``, which is added where there are several loaders.
    """
    where = f"self.log in {hook}"
    if not isinstance(name, str):
        raise MisconfigurationException(
            f"{where}: the name {name!r} is {type(name).__name__}: pass text"
        )
    if not name.strip():
        raise MisconfigurationException(f"{where}: the name {name!r} is empty: pass some text")
    if "/dataloader_idx_" in name:
        raise MisconfigurationException(
            f"{where}: the name {name!r} holds '/dataloader_idx_', which is added by itself when"
            " there are several loaders: leave it out"
        )
    if not name.isprintable():
        raise MisconfigurationException(
            f"{where}: the name {name!r} holds a line break, a tab or another control character,"
            " which no log can hold: leave it out"
        )
    return name


def as_scalar(value: Any, name: str, hook: str | None) -> float | int | Tensor:
    """Turn what was logged into a Python number or a 0-dim tensor, or say what is wrong with it.

    A tensor of one element, a numpy scalar and a bool are accepted; nothing is read from a device.

    Raises:
        MisconfigurationException: the value is not a single number.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise MisconfigurationException(
                f"self.log({name!r}) in {hook}: the value has shape {tuple(value.shape)}: log one"
                " number, such as its mean"
            )
        if value.dtype.is_complex:
            raise MisconfigurationException(
                f"self.log({name!r}) in {hook}: the value is complex ({value.dtype}): log its real"
                " part or its magnitude"
            )
        return value.reshape(())
    # Not their subclasses (numpy.float64 is one), which a checkpoint could not hold.
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    # numpy scalars and one-element arrays, without importing numpy
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "size", None) == 1:
        number = item()
        if isinstance(number, (int, float)):
            return number
    raise MisconfigurationException(
        f"self.log({name!r}) in {hook}: the value is {_describe(value)}: log a number, a tensor of"
        " one element or a metric object (update, compute, reset)"
    )


def as_batch_size(batch_size: Any, name: str, hook: str | None) -> int:
    """Return the whole number that was given as ``batch_size``, or say what is wrong with it.

    Raises:
        MisconfigurationException: it is no whole number, or below 0.
    """
    if type(batch_size) is int and batch_size >= 0:
        return batch_size
    try:
        size = operator.index(batch_size)
    except TypeError:
        size = -1
    if size < 0:
        raise MisconfigurationException(
            f"self.log({name!r}, batch_size={batch_size!r}) in {hook}: pass the number of samples"
            " in the batch, 0 or more"
        )
    return size


def _describe(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def batch_size_of(batch: Any) -> int:
    """Return how many samples a batch holds, or 1 where that cannot be known.

    The first tensor decides: its first dimension. Sequences and mappings are searched for their
    first element, text counts its characters (as Lightning 1.1 does); a batch object with a whole
    number ``batch_size`` or ``num_graphs`` says it itself. Iterators are never consumed.
    """
    for _ in range(_MAX_DEPTH):
        if isinstance(batch, Tensor):
            return int(batch.shape[0]) if batch.dim() else 1
        if isinstance(batch, (str, bytes)):
            return len(batch)
        for attribute in ("num_graphs", "batch_size"):
            size = getattr(batch, attribute, None)
            if isinstance(size, int) and not isinstance(size, bool) and size > 0:
                return size
        if isinstance(batch, Mapping):
            batch = next(iter(batch.values()), 1)
        elif isinstance(batch, Sequence) and len(batch):
            batch = batch[0]
        else:
            shape = getattr(batch, "shape", None)
            return int(shape[0]) if isinstance(shape, tuple) and shape else 1
    return 1


def host_scalars(values: Iterable[Any]) -> list[Any]:
    """Return the values with every scalar tensor read to the host, one transfer a device and dtype.

    This is the only place that waits for a device: it is called when a row is written or a
    consumer reads, never between.
    """
    out = list(values)
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, value in enumerate(out):
        if isinstance(value, Tensor) and value.numel() == 1:
            groups.setdefault((value.device, value.dtype), []).append(i)
    for places in groups.values():
        if len(places) == 1:
            out[places[0]] = out[places[0]].item()
            continue
        with torch.no_grad():
            numbers = torch.stack([out[i].detach().reshape(()) for i in places]).tolist()
        for i, number in zip(places, numbers, strict=True):
            out[i] = number
    return out


class LazyScalars(dict[str, Any]):
    """A dict of plain numbers that may hold tensors until somebody reads it.

    Whoever stores a tensor sets ``stale``; the first read afterwards moves all of them to the
    host in one transfer. A copy, a pickle and ``dict(...)`` of it are plain dicts of numbers.

    Attributes:
        stale: whether there may be values that are not read yet.
    """

    __slots__ = ("stale",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stale = True

    def store(self, values: Mapping[str, Any]) -> None:
        """Take numbers and tensors; the tensors are read when somebody looks."""
        if values:
            self.update(values)
            self.stale = True

    def resolve(self) -> None:
        """Read every tensor to the host."""
        self.stale = False
        keys = [k for k, v in super().items() if isinstance(v, Tensor)]
        if keys:
            raw = [dict.__getitem__(self, key) for key in keys]
            dict.update(self, zip(keys, host_scalars(raw), strict=True))

    def __getitem__(self, key: str) -> Any:
        if self.stale:
            self.resolve()
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default`."""
        if self.stale:
            self.resolve()
        return super().get(key, default)

    # Overriding __iter__ makes dict(self) and {**self} take the way through __getitem__.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def keys(self) -> Any:
        """Return the names."""
        return super().keys()

    def values(self) -> Any:
        """Return the numbers."""
        if self.stale:
            self.resolve()
        return super().values()

    def items(self) -> Any:
        """Return names with numbers."""
        if self.stale:
            self.resolve()
        return super().items()

    def pop(self, key: str, *default: Any) -> Any:
        """Remove a name and return its number."""
        if self.stale:
            self.resolve()
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the newest entry and return it."""
        if self.stale:
            self.resolve()
        return super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the number of `key`, storing `default` first if it is not there."""
        if self.stale:
            self.resolve()
        return super().setdefault(key, default)

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of the numbers."""
        return dict(self)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(dict(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)

    def __eq__(self, other: object) -> bool:
        if self.stale:
            self.resolve()
        if isinstance(other, LazyScalars) and other.stale:
            other.resolve()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        return dict(self) | dict(other)

    def __ror__(self, other: Any) -> Any:
        return dict(other) | dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))

"""Values as plain data, which any reader may load without trusting the file."""

import argparse
import enum
import os
from collections.abc import Mapping
from typing import Any

import torch

from leyden.engine.notice import warn
from leyden.handlers.checkpoint_objects import pickled

__all__ = ["plain"]

_KEPT = (torch.dtype, torch.device, torch.Size)


def plain(
    value: Any, *, name: str = "hyper_parameters", objects: dict[str, Any] | None = None
) -> Any:
    """Turn ``value`` into plain data.

    Numbers, text, bytes, None, lists, tuples, dicts, sets and tensors stay what they are. Mappings
    and ``argparse.Namespace`` become dicts, paths text, NumPy scalars and arrays numbers and lists.
    Anything else becomes its text, and one warning names all such keys.

    Args:
        value: The value, nested as it likes, but not within itself.
        name: What the warning calls it.
        objects: Gets what became text, under ``name``: pickled, or None where that cannot be done;
            one by one from a mapping.

    Raises:
        ValueError: It contains itself.

    Example:
        >>> plain({"sizes": (1, 2)})
        {'sizes': (1, 2)}
    """
    lost: list[str] = []
    result = _plain(value, name, lost, ())
    if lost and objects is not None:
        kept = _pickled(value, name, lost)
        if kept is not None:
            objects[name] = kept
            lost = [at for at in lost if _part(kept, name, at) is None]
    if lost:
        warn(
            f"these values are no plain data and are kept as their text: {', '.join(lost)}. "
            "Loading gives the text back; pass numbers, text, lists or dicts to keep the value",
        )
    return result


def _pickled(value: Any, name: str, lost: list[str]) -> Any:
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if not isinstance(value, Mapping):
        return pickled(value)
    names = [key for key in value if any(at.startswith(f"{name}[{key!r}]") for at in lost)]
    return {key: pickled(value[key]) for key in names if isinstance(key, str)}


def _part(kept: Any, name: str, at: str) -> bytes | None:
    """What of ``kept`` holds the value that was at this place."""
    if isinstance(kept, bytes):
        return kept
    found = (data for key, data in kept.items() if at.startswith(f"{name}[{key!r}]"))
    return next(found, None)


def _plain(value: Any, where: str, lost: list[str], above: tuple[int, ...]) -> Any:
    if value is None or type(value) in (bool, int, float, complex, str):
        return value
    if type(value) is bytes and value:  # empty ones are pickled as a call, which readers refuse
        return value
    if isinstance(value, torch.Tensor):
        # Parameters and other subclasses would need their class to be read.
        return value.detach().as_subclass(torch.Tensor)
    if isinstance(value, _KEPT):
        return value
    if id(value) in above:
        raise ValueError(f"{where} contains itself: only values that end can be saved")
    above = (*above, id(value))
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {
            _key(key, where, lost): _plain(item, f"{where}[{key!r}]", lost, above)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(item, f"{where}[{i}]", lost, above) for i, item in enumerate(value)]
        if isinstance(value, list):
            return items
        # What a set holds is hashable, and so is what that becomes.
        return tuple(items) if isinstance(value, tuple) else set(items)
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if not isinstance(value, enum.Enum):
        # Subclasses of plain types (numpy.float64 is one) would need their class to be read.
        kinds: tuple[Any, ...] = (int, float, complex, str, bytes)
        for kind in kinds:
            if isinstance(value, kind) and value != b"":
                return kind(value)
        as_list = getattr(value, "tolist", None)
        if hasattr(value, "dtype") and as_list is not None:  # NumPy's scalars and arrays
            return _plain(as_list(), where, lost, above)
    lost.append(where)
    return str(value)


def _key(key: Any, where: str, lost: list[str]) -> Any:
    if type(key) in (bool, int, float, str) or key is None:
        return key
    if isinstance(key, tuple):
        return tuple(_key(item, where, lost) for item in key)
    lost.append(f"the key {key!r} of {where}")
    return str(key)

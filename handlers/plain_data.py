"""Plain data: what a checkpoint may hold, because reading it back runs no code."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["foreign", "plain"]

_ATOMS = (str, bytes, int, float, bool, complex, type(None), torch.Tensor, torch.dtype, torch.Size)
_ATOMS += (torch.device,)


def foreign(value: Any, at: str = "") -> str | None:
    """Name the first thing in ``value`` that is no plain data, and where; None if all is.

    Example:
        >>> foreign({"a": [1, 2.0, "text"]})
        >>> foreign({"a": [1, {"b": object()}]})
        "an object at ['a'][1]['b']"
    """
    kind = type(value)
    if kind in _ATOMS or kind is torch.nn.Parameter:
        return None
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            found = foreign(key, f"{at} (a key)") or foreign(item, f"{at}[{key!r}]")
            if found:
                return found
        return None
    if kind in (list, tuple, set):
        for index, item in enumerate(value):
            found = foreign(item, f"{at}[{index}]")
            if found:
                return found
        return None
    article = "an" if kind.__name__[:1] in "aeiouAEIOU" else "a"
    return f"{article} {kind.__name__}{f' at {at}' if at else ''}"


def plain(value: Any, name: str) -> Any:
    """Return ``value`` as plain data.

    Mappings become dicts, sequences lists, NumPy scalars numbers. What is none of these becomes its
    text, with one warning that names the places.

    Args:
        value: anything.
        name: what it is, for the warning.

    Example:
        >>> plain({"sizes": (1, 2)}, "hyper_parameters")
        {'sizes': (1, 2)}
    """
    lost: list[str] = []
    found = _plain(value, "", lost)
    if lost:
        warnings.warn(
            f"{name} holds what is no plain data, the checkpoint keeps its text: "
            f"{', '.join(lost)}. "
            "Keep numbers, text, lists and dicts there to read them back as they were",
            UserWarning,
            stacklevel=3,
        )
    return found


def _plain(value: Any, at: str, lost: list[str]) -> Any:
    if foreign(value) is None:
        return value
    if isinstance(value, Mapping):
        return {
            key if foreign(key) is None else str(key): _plain(item, f"{at}[{key!r}]", lost)
            for key, item in value.items()
        }
    if isinstance(value, tuple):
        return tuple(_plain(item, f"{at}[{i}]", lost) for i, item in enumerate(value))
    if isinstance(value, (list, set, frozenset)):
        return [_plain(item, f"{at}[{i}]", lost) for i, item in enumerate(value)]
    # str, int, float of a class of its own (an enum, a path-like text)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a NumPy scalar
        return _plain(value.item(), at, lost)
    lost.append(f"{at or 'it'} ({type(value).__name__})")
    return str(value)

"""Plain data: find what is none, and make it."""

from collections import OrderedDict
from typing import Any

import torch

from leyden.handlers.checkpoint_plain import plain

__all__ = ["foreign", "plain"]

_ATOMS: tuple[type, ...] = (str, bytes, int, float, bool, complex, type(None))
_ATOMS += (torch.dtype, torch.Size, torch.device)


def foreign(value: Any, at: str = "") -> str | None:
    """Name the first thing in ``value`` that is no plain data, and where; None if all is.

    Example:
        >>> foreign({"a": [1, 2.0, "text"]})
        >>> foreign({"a": [1, {"b": object()}]})
        "an object at ['a'][1]['b']"
    """
    kind = type(value)
    if kind in _ATOMS or kind in (torch.Tensor, torch.nn.Parameter):
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

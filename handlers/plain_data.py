"""Plain data: find what is none, and make it."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch

from leyden.handlers.checkpoint_plain import plain

__all__ = ["foreign", "numbers", "plain", "without_foreign"]

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


def numbers(value: Any) -> Any:
    """Make Python's numbers of NumPy's, in dicts, lists and tuples too; the rest stays as it is.

    Example:
        >>> import numpy
        >>> numbers({"rate": numpy.float64(0.5), "steps": [numpy.int64(2)]})
        {'rate': 0.5, 'steps': [2]}
    """
    kind = type(value)
    if kind in (dict, OrderedDict):
        return kind((key, numbers(item)) for key, item in value.items())
    if kind in (list, tuple):
        return kind(numbers(item) for item in value)
    # By its name: NumPy need not be installed.
    if kind.__module__ == "numpy" and not getattr(value, "shape", True):
        return value.item()
    return value


def without_foreign(state: Mapping[str, Any], at: str = "") -> tuple[dict[str, Any], list[str]]:
    """Leave out the entries of a state that are no plain data, in the dicts inside of it too.

    Returns:
        The rest, counters as dicts, and what was left out. Functions and methods are not named:
        they are code, which whoever the state belongs to brings along.

    Example:
        >>> without_foreign({"rate": 0.1, "anneal": max, "inner": {"owner": object(), "n": 1}})
        ({'rate': 0.1, 'inner': {'n': 1}}, ["['inner']['owner'] (an object)"])
    """
    kept: dict[str, Any] = {}
    lost: list[str] = []
    for key, value in state.items():
        where = f"{at}[{key!r}]"
        if type(value) in (dict, OrderedDict, Counter):
            value, inner = without_foreign(value, where)
            lost += inner
        elif type(value) in (list, tuple):
            value = type(value)(_inner(v, f"{where}[{i}]", lost) for i, v in enumerate(value))
        found = foreign(value)
        if found is None:
            kept[key] = value
        elif not isinstance(value, _CODE):
            lost.append(f"{where} ({found})")
    return kept, lost


_CODE = (BuiltinFunctionType, FunctionType, MethodType)


def _inner(value: Any, where: str, lost: list[str]) -> Any:
    if type(value) not in (dict, OrderedDict):
        return value
    value, inner = without_foreign(value, where)
    lost += inner
    return value

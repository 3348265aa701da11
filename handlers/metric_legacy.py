"""The older way to log: dicts that steps and epoch ends return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from leyden.handlers.plain_data import numbers

__all__ = ["logs_by_return", "returned_dicts", "split_returned"]

_NOT_METRICS = ("log", "progress_bar", "hiddens")


def logs_by_return(output: Any) -> bool:
    """Whether a step returned something that logs by its 'log' or 'progress_bar' entry."""
    return isinstance(output, Mapping) and ("log" in output or "progress_bar" in output)


def returned_dicts(result: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the dicts an ``*_epoch_end`` method returned: one, or a list of them."""
    if isinstance(result, Mapping):
        yield result
    elif isinstance(result, (list, tuple)):
        yield from (part for part in result if isinstance(part, Mapping))


def split_returned(
    output: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split a returned dict into what callbacks, the logger and the progress bar get.

    'log' goes to the logger, 'progress_bar' to the bar, and both with every other single number
    to the callbacks. Tensors are copied: the next batch may write into them.
    """
    logged = _part(output, "log")
    bar = _part(output, "progress_bar")
    rest = {k: _owned(v) for k, v in output.items() if k not in _NOT_METRICS and _is_number(v)}
    return {**rest, **logged, **bar}, logged, bar


def _part(output: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = output.get(key)
    return {k: _owned(v) for k, v in part.items()} if isinstance(part, Mapping) else {}


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float))


def _owned(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else numbers(value)

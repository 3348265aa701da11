"""Walk through the tensors of nested data."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

__all__ = ["each_tensor"]


def each_tensor(data: Any) -> Iterator[Tensor]:
    """Give every tensor in mappings, lists, tuples and dataclasses, in their order."""
    if isinstance(data, Tensor):
        yield data
    elif isinstance(data, Mapping):
        for item in data.values():
            yield from each_tensor(item)
    elif isinstance(data, (list, tuple)):
        for item in data:
            yield from each_tensor(item)
    elif is_dataclass(data) and not isinstance(data, type):
        for field in fields(data):
            yield from each_tensor(getattr(data, field.name))

"""Change the type of floating-point tensors, wherever they stand in a batch or in arguments."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["cast"]


def cast(data: Any, dtype: torch.dtype) -> Any:
    """Return ``data`` with every floating-point tensor in it as ``dtype``.

    Looks into mappings, lists, tuples and named tuples; whole numbers, bools and all other objects
    stay as they are.

    Example:
        >>> x, (n,) = cast((torch.ones(2), [torch.arange(3)]), torch.float16)
        >>> x.dtype, n.dtype
        (torch.float16, torch.int64)
    """
    if isinstance(data, Tensor):
        return data.to(dtype) if data.is_floating_point() else data
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(cast(item, dtype) for item in data))
    if type(data) in (list, tuple):
        return type(data)(cast(item, dtype) for item in data)
    if type(data) is dict:
        return {key: cast(item, dtype) for key, item in data.items()}
    if isinstance(data, Mapping):
        changed = {key: cast(item, dtype) for key, item in data.items()}
        if all(changed[key] is data[key] for key in data):
            return data
        counted: Any = data
        factory = getattr(counted, "default_factory", None)
        return type(counted)(factory, changed) if factory else type(counted)(changed)
    return data

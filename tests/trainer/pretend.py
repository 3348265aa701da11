"""A device that is not the CPU, on any machine: torch's meta device, which has shapes and no data.

An operation on tensors of both devices is refused, as on a GPU: what forgets to move something
shows. What reads a value gets a number that is made up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from leyden.backends.devices import Devices

__all__ = ["ELSEWHERE", "Pretend"]

#: As ``Trainer(plugins=...)``.
ELSEWHERE = Devices("meta")
_ATEN = torch.ops.aten


class Pretend(TorchDispatchMode):
    """Lets values be read from the meta device: each is 0.5.

    Attributes:
        reads: how many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if source is not None and source.is_meta:
            if func is _ATEN._local_scalar_dense.default:
                self.reads += 1
                return made_up(source.dtype)
            if func is _ATEN._to_copy.default and str(kwargs.get("device")) == "cpu":
                self.reads += 1
                dtype = kwargs.get("dtype") or source.dtype
                return torch.full(source.shape, made_up(dtype), dtype=dtype)
        if func is _ATEN.copy_.default and args[1].is_meta and not args[0].is_meta:
            self.reads += 1
            return args[0].fill_(made_up(args[0].dtype))
        return func(*args, **kwargs)


def made_up(dtype: torch.dtype) -> Any:
    """A value of the type."""
    if dtype is torch.bool:
        return True
    return 0.5 if dtype.is_floating_point else 1

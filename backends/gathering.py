"""Bring tensors of all processes together, with a way back for gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from leyden.backends.xla import collectives

__all__ = ["gathered"]


def gathered(tensor: Tensor, group: Any = None, *, gradients: bool = False) -> Tensor:
    """Return the tensors of all processes, of the same shape, stacked in a new first dimension.

    Args:
        tensor: that of this process.
        group: the processes; None for all.
        gradients: let each process's tensor get the gradients that all processes have for it.
    """
    if gradients:
        found: Tensor = _Gather.apply(tensor, group)  # type: ignore[no-untyped-call]
        return found
    if tensor.device.type == "xla":
        return collectives.gather(tensor, group)
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.detach().contiguous(), group=group)
    return torch.stack(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return gathered(tensor, group)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None]:
        whole = gradient.contiguous().clone()
        if whole.device.type == "xla":
            collectives.reduce([whole], group=ctx.group)
        else:
            dist.all_reduce(whole, group=ctx.group)
        return whole[dist.get_rank(ctx.group)], None

"""Batch normalization over the batches of all processes: torch's on GPUs, elsewhere our own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SyncedBatchNorm", "synchronised"]


def synchronised(model: nn.Module, group: Any = None) -> Callable[[], None]:
    """Have the batch normalizations of a model look at the batches of all processes.

    The modules stay the same objects with the same parameters, buffers and hooks; only their class
    changes.

    Args:
        model: on its device.
        group: the processes; None for all.

    Returns:
        What makes them again what they were.
    """
    changed: list[tuple[nn.Module, Any]] = []
    for module in model.modules():
        kind: Any = type(module)
        if not isinstance(module, _BatchNorm) or isinstance(
            module, (nn.SyncBatchNorm, SyncedBatchNorm)
        ):
            continue
        device = next(
            (b.device for b in (module.running_mean, module.weight) if b is not None), None
        )
        on_gpu = device is not None and device.type == "cuda"
        module.__dict__["process_group"] = group
        new: Any = nn.SyncBatchNorm if on_gpu else _synced(kind)
        module.__class__ = new
        changed.append((module, kind))

    def restore() -> None:
        for module, kind in changed:
            module.__class__ = kind
            module.__dict__.pop("process_group", None)

    return restore


class SyncedBatchNorm:
    """What :class:`torch.nn.SyncBatchNorm` does, on any device: one message each way.

    Mean and variance are those of the samples of all processes, which may have different numbers of
    them. They are put together from each process's own mean and squared distances, not from sums of
    squares, so nothing cancels. To be mixed into a class of batch normalization.
    """

    def forward(self: Any, input: Tensor) -> Tensor:
        """Normalize ``(batch, channels, ...)``."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            normal: Tensor = super().forward(input)  # type: ignore[misc]
            return normal
        output, mean, variance, count = _Normalize.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps, self.process_group
        )
        if self.training and self.track_running_stats:
            self._track(mean, variance, count)
        found: Tensor = output
        return found

    @torch.no_grad()
    def _track(self: Any, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # a plain average of all batches
            share = 1.0 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


@cache
def _synced(kind: Any) -> Any:
    return type(f"Synced{kind.__name__}", (SyncedBatchNorm, kind), {})


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = input if input.dtype in (torch.float32, torch.float64) else input.float()
        dims = [0, *range(2, input.dim())]
        channels = input.size(1)
        shape = [1, channels] + [1] * (input.dim() - 2)
        number = input.numel() // channels
        if number:
            own_mean = wide.mean(dims)
            own_square = (wide - own_mean.view(shape)).square().sum(dims)
        else:
            own_mean = own_square = wide.new_zeros(channels)
        packed = torch.cat([own_mean, own_square, wide.new_tensor([float(number)])])
        everyone = [torch.empty_like(packed) for _ in range(dist.get_world_size(group))]
        dist.all_gather(everyone, packed, group=group)
        table = torch.stack(everyone)
        means, squares = table[:, :channels], table[:, channels:-1]
        numbers = table[:, -1:]
        count = numbers.sum()
        if float(count) < 2:
            raise ValueError(
                f"batch normalization has {int(count)} values a channel over all processes, and "
                "needs 2 or more: use a larger batch"
            )
        mean = (means * numbers).sum(0) / count
        variance = (squares + numbers * (means - mean).square()).sum(0) / count
        scale = torch.rsqrt(variance + eps)
        normal = (wide - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal, weight, scale, count)
        ctx.group, ctx.dims, ctx.shape, ctx.dtype = group, dims, shape, input.dtype
        output = normal if weight is None else normal * weight.view(shape)
        output = output if bias is None else output + bias.view(shape)
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(input.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor, *others: Any
    ) -> tuple[Tensor | None, ...]:
        normal, weight, scale, count = ctx.saved_tensors
        grad = grad.to(normal.dtype)
        total, along = grad.sum(ctx.dims), (grad * normal).sum(ctx.dims)
        of_weight = along.clone() if weight is not None else None
        of_bias = total.clone() if ctx.needs_input_grad[2] else None
        # What the mean and the variance of the batch have to do with it: of all processes.
        packed = torch.cat([total, along])
        dist.all_reduce(packed, group=ctx.group)
        total, along = (packed / count).chunk(2)
        inner = grad - total.view(ctx.shape) - normal * along.view(ctx.shape)
        if weight is not None:
            scale = scale * weight
        of_input = (inner * scale.view(ctx.shape)).to(ctx.dtype)
        return of_input, of_weight, of_bias, None, None

"""What the processes of a run send one another from XLA devices: sums, and all parts in a row."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.backends.xla.host import to_host
from leyden.backends.xla.runtime import sync

__all__ = ["gather", "keep_of", "reduce"]

_NAMES = {dist.ReduceOp.SUM: "sum", dist.ReduceOp.MIN: "min", dist.ReduceOp.MAX: "max"}


def reduce(
    tensors: Sequence[Tensor], op: Any = dist.ReduceOp.SUM, *, scale: float = 1.0, group: Any = None
) -> None:
    """Bring tensors on XLA devices together over the processes, in place.

    Where XLA itself joins the processes, as on TPUs, this is recorded like any other operation.
    Processes on its CPU devices are strangers to one another (``torch_xla.launch`` hangs there):
    what they send goes over the host and torch.distributed, and so does what a group of some of
    them sends.

    Args:
        tensors: of the same shapes in every process.
        op: ``ReduceOp.SUM``, ``MIN`` or ``MAX``.
        scale: what a sum is multiplied with.
        group: the processes; None for all.
    """
    if not tensors:
        return
    if group in (None, dist.group.WORLD) and op in _NAMES and _joined():
        import torch_xla.core.xla_model as xm

        xm.all_reduce(_NAMES[op], list(tensors), scale=scale, pin_layout=False)
        return
    sync()  # once for all that is recorded: otherwise it would be computed here and at the mark
    with torch.no_grad():
        found = to_host([tensor.detach() for tensor in tensors])
        for dtype in dict.fromkeys(tensor.dtype for tensor in found):  # in the order of all
            places = [i for i, tensor in enumerate(found) if tensor.dtype == dtype]
            flat = torch.cat([found[i].reshape(-1) for i in places])
            dist.all_reduce(flat, op, group=group)
            if scale != 1.0:
                flat *= scale
            parts = torch.split(flat, [found[i].numel() for i in places])
            for i, part in zip(places, parts, strict=True):
                tensors[i].copy_(part.view(found[i].shape))


def gather(tensor: Tensor, group: Any = None) -> Tensor:
    """Return the tensors of all processes, stacked in the order of their ranks.

    A sum of parts, of which all but one are zero: XLA numbers the cores in an order of its own, so
    that its own gathering would not give that of the ranks.
    """
    count, rank = dist.get_world_size(group), dist.get_rank(group)
    flag = tensor.dtype == torch.bool
    value = tensor.detach().to(torch.uint8) if flag else tensor.detach()
    own = torch.arange(count).eq(rank).view(count, *[1] * tensor.dim()).to(tensor.device)
    stacked = keep_of(own, value.unsqueeze(0).expand(count, *value.shape))
    reduce([stacked], group=group)
    return stacked.bool() if flag else stacked


def keep_of(own: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` where ``own`` is true, and zeros elsewhere.

    Whose turn it is comes as data on the device: XLA needs the same program on every core, and a
    number in Python would be part of the program.
    """
    return torch.where(own, value, torch.zeros_like(value))


def _joined() -> bool:
    """Whether XLA joins the processes of the run."""
    import torch_xla.runtime as xr

    return bool(xr.world_size() == dist.get_world_size())

"""Averages over the processes of a run: everything that is due in one collective call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.engine.errors import MisconfigurationException

__all__ = ["all_reduce", "is_writer", "op_name", "world_size"]

_OPS = ("mean", "sum", "min", "max")


def world_size(group: Any = None) -> int:
    """How many processes take part; 1 where torch.distributed is not set up."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def is_writer() -> bool:
    """Whether this process hands rows to the logger: the one of rank 0."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def op_name(op: Any, name: str, hook: str | None) -> str:
    """Return 'mean', 'sum', 'min' or 'max' for a ``sync_dist_op``.

    Raises:
        MisconfigurationException: it is none of them.
    """
    text = "mean" if op is None else str(op).rsplit(".", 1)[-1].lower()
    text = "mean" if text == "avg" else text
    if text not in _OPS:
        raise MisconfigurationException(
            f"self.log({name!r}) in {hook}: sync_dist_op={op!r} is not known: pass 'mean', 'sum',"
            " 'min' or 'max'"
        )
    return text


def all_reduce(parts: Sequence[tuple[Tensor, Tensor, str, Any]]) -> list[Tensor]:
    """Reduce many numbers over the processes, in one call for each kind of reduction and group.

    Every process must bring the same parts in the same order.

    Args:
        parts: ``(value, weight, op, group)`` each. For 'mean' the weights weigh the processes; a
            process without a value brings weight 0. The other reductions leave the weight out.

    Returns:
        The reduced values in the order of `parts`; NaN where all weights are 0.
    """
    out: list[Tensor] = [value for value, _, _, _ in parts]
    batches: dict[tuple[str, int], list[int]] = {}
    for i, (_, _, op, group) in enumerate(parts):
        kind = op if op in ("min", "max") else "sum"
        batches.setdefault((kind, id(group)), []).append(i)
    for (kind, _), places in batches.items():
        numbers: list[Tensor] = []
        device = _device(parts[places[0]])
        for i in places:
            value, weight, op, _ = parts[i]
            value, weight = value.to(device), weight.to(device)
            # A process without a value must not spoil the sum with its placeholder.
            numbers.append(torch.where(weight > 0, value * weight, 0.0) if op == "mean" else value)
            numbers.extend([weight] if op == "mean" else [])
        packed = torch.stack(
            [n.to(torch.float64 if _wide(device) else torch.float32) for n in numbers]
        )
        reduction = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}
        dist.all_reduce(packed, op=reduction[kind], group=parts[places[0]][3])
        at = 0
        for i in places:
            dtype = parts[i][0].dtype if parts[i][0].is_floating_point() else torch.float32
            if parts[i][2] == "mean":
                out[i] = (packed[at] / packed[at + 1]).to(dtype)
                at += 2
            else:
                out[i] = packed[at].to(dtype)
                at += 1
    return out


def _device(part: tuple[Tensor, Tensor, str, Any]) -> torch.device:
    """Where the collective runs: NCCL takes tensors on the GPU only, others the values' own.

    Those of TPU cores go over the host: they are read there next, and were computed before.
    """
    if part[0].device.type == "xla":
        return torch.device("cpu")
    if dist.get_backend(part[3]) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return part[0].device


def _wide(device: torch.device) -> bool:
    return device.type != "mps"

"""Helpers around torch.distributed that code for Lightning 1.x imports.

They do what they say where a process group is running, and hand values back where none is.
"""

import logging
import socket
from typing import Any

import torch
from torch import Tensor, distributed

from leyden.backends.xla import collectives
from leyden.handlers.loggers.ranks import is_rank_zero
from leyden.module_tools import all_gather

__all__ = [
    "AllGatherGrad",
    "ReduceOp",
    "all_gather_ddp_if_available",
    "find_free_network_port",
    "gather_all_tensors",
    "group",
    "rank_zero_debug",
    "sync_ddp",
    "sync_ddp_if_available",
]

log = logging.getLogger("pytorch_lightning")

if distributed.is_available():
    from torch.distributed import ReduceOp, group  # pyright: ignore[reportAssignmentType]
else:  # a torch that was built without it

    class ReduceOp:  # type: ignore[no-redef]
        """Names of the reductions, so that code which writes them can be imported."""

        SUM = None

    class group:  # type: ignore[no-redef]  # noqa: N801
        """The group of all processes: there is only this one."""

        WORLD = None


def _running() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def rank_zero_debug(*args: Any, **kwargs: Any) -> None:
    """Log a message for developers, in the first process only."""
    if is_rank_zero():
        log.debug(*args, **kwargs)


def find_free_network_port() -> int:
    """A port of this machine that nobody uses at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


def gather_all_tensors(result: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors of all processes, in a list."""
    return list(all_gather(result, group, False)) if _running() else [result]


def sync_ddp(result: Tensor, group: Any = None, reduce_op: Any = None) -> Tensor:
    """Reduce a tensor over all processes, in place where nothing has to be divided.

    Args:
        result: The tensor.
        group: The process group; None for all.
        reduce_op: A ``ReduceOp``, or ``"mean"`` or ``"avg"``; None or other text adds up.
    """
    mean = isinstance(reduce_op, str) and reduce_op.lower() in ("avg", "mean")
    operation: Any = ReduceOp.SUM if reduce_op is None or isinstance(reduce_op, str) else reduce_op
    if result.device.type == "xla":
        collectives.reduce([result], operation, group=group)
    else:
        distributed.all_reduce(result, op=operation, group=group)
    return result / distributed.get_world_size(group) if mean else result


def sync_ddp_if_available(result: Tensor, group: Any = None, reduce_op: Any = None) -> Tensor:
    """:func:`sync_ddp` where there are several processes; else the tensor as it is."""
    return sync_ddp(result, group, reduce_op) if _running() else result


def all_gather_ddp_if_available(
    tensor: Tensor, group: Any = None, sync_grads: bool = False
) -> Tensor:
    """The tensors of all processes, stacked; the tensor as it is where there is one process.

    Args:
        tensor: Of shape ``(batch, ...)``.
        group: The process group; None for all.
        sync_grads: Let gradients flow back to the process that a tensor came from.
    """
    with torch.set_grad_enabled(sync_grads and torch.is_grad_enabled()):
        gathered: Tensor = all_gather(tensor, group, sync_grads)
    return gathered


class AllGatherGrad:
    """``AllGatherGrad.apply(tensor, group)``: gather, stack, and let gradients flow back."""

    @staticmethod
    def apply(tensor: Tensor, group: Any = None) -> Tensor:
        """The tensors of all processes, stacked."""
        return all_gather_ddp_if_available(tensor, group, sync_grads=True)

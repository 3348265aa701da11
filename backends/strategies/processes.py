"""Several processes, one device each, that talk through torch.distributed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.backends.environments import Environment
from leyden.backends.joining import join
from leyden.backends.strategies.base import Strategy
from leyden.engine.errors import MisconfigurationException

__all__ = ["OPS", "ProcessStrategy"]

OPS = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}


class ProcessStrategy(Strategy):
    """Processes that each hold a device and a share of the data.

    Args:
        device: of this process.
        environment: which process this is.
        timeout: how long the processes wait for one another before they end with an error.
        process_group_backend: "nccl", "gloo" ...; None: what suits the device.

    Raises:
        MisconfigurationException: for an operation that is not known.
    """

    active = True
    shares_data = True

    def __init__(
        self,
        device: torch.device | str = "cpu",
        environment: Environment | None = None,
        *,
        timeout: timedelta = timedelta(seconds=60),
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(device, environment)
        self.timeout = timeout
        self.process_group_backend = process_group_backend
        self._joined = False

    # ------------------------------------------------------------------ one run

    def connect(self) -> None:
        if dist.is_initialized() or not self.environment.started:
            return
        backend = self.process_group_backend
        if backend is None:
            backend = "nccl" if self.root_device.type == "cuda" else "gloo"
        join(self.environment, backend, self.timeout)
        self._joined = True

    def disconnect(self) -> None:
        if self._joined and dist.is_initialized():
            dist.destroy_process_group()
        self._joined = False

    # ------------------------------------------------------------------ talk

    def reduce(self, value: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        if op not in ("mean", *OPS):
            raise MisconfigurationException(
                f"op={op!r} is unknown: pass 'mean', {', '.join(map(repr, OPS))}"
            )
        whole = value.detach().clone()
        dist.all_reduce(whole, OPS.get(op, dist.ReduceOp.SUM), group=group)
        return whole / dist.get_world_size(group) if op == "mean" else whole

    def gather_objects(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def broadcast(self, value: Any, source: int = 0) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=source)
        return box[0]

    def barrier(self, name: str = "") -> None:
        dist.barrier()

    def any(self, flag: bool) -> bool:
        told = torch.tensor(int(flag), device=self.root_device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told)

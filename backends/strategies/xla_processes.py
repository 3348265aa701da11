"""A process for each TPU core: what ``torch_xla.launch`` starts, with leyden's own launcher."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.backends.environments import Environment
from leyden.backends.strategies.processes import OPS, ProcessStrategy, RankError
from leyden.backends.xla import collectives, runtime
from leyden.backends.xla.host import to_host
from leyden.engine.errors import MisconfigurationException

__all__ = ["XLAProcessStrategy"]


class XLAProcessStrategy(ProcessStrategy):
    """Every core has a process of its own, with the whole model and a share of the data.

    Gradients are averaged where they are complete, before anything looks at them, as part of what
    XLA compiles; buffers are those of the first process, as DistributedDataParallel has it. What
    the processes agree on beside that goes over gloo, as in every other run of several.

    On XLA's CPU devices processes cannot talk through XLA: there the averages go over the host.

    Args:
        device: of this process.
        environment: which process this is.
        timeout: how long the processes look for one another.
        patience: how long one waits in a run for another that is late.
        broadcast_buffers: whether all take the buffers of the first process after each step.

    Source: Lightning 1.1's ``tpu_cores=8``, which went through ``xmp.spawn``; the name
    ``tpu_spawn`` is that of its later versions, which averaged after clipping.
    """

    name: ClassVar[str] = "tpu_spawn"
    lazy: ClassVar[bool] = True
    averages_gradients: ClassVar[bool] = True

    def __init__(
        self,
        device: torch.device | str = "xla:0",
        environment: Environment | None = None,
        *,
        timeout: timedelta = timedelta(seconds=60),
        patience: timedelta = timedelta(minutes=30),
        broadcast_buffers: bool = True,
    ) -> None:
        super().__init__(device, environment, timeout=timeout, patience=patience)
        self.broadcast_buffers = broadcast_buffers
        self._manual = False
        self._optimizers: list[Optimizer] = []
        self._buffers: list[Tensor] = []
        self._used: dict[
            int, list[int]
        ] = {}  # by optimizer: which of its parameters have gradients
        self._first: Tensor | None = None

    # ------------------------------------------------------------------ one run

    def connect(self) -> None:
        if self.environment.started and not runtime.in_use():
            runtime.join(self.local_rank, self.environment.per_node)
        self.root_device = runtime.begin()
        found = runtime.world_size()
        if found != self.world_size and not runtime.on_cpu():
            raise MisconfigurationException(
                f"accelerator='tpu_spawn' has {self.world_size} processes, and XLA joins {found} "
                "TPU cores: it needs a process for each core, and TPUs of version 2 and 3 have two "
                "cores that one process has to share; leave accelerator out, so that one process "
                "drives all cores (tpu_cores=8)"
            )
        super().connect()

    def mark(self) -> None:
        runtime.sync()

    def flush(self) -> None:
        runtime.flush()

    def prepare(self, model: nn.Module, optimizers: Sequence[Optimizer], *, manual: bool) -> None:
        self._manual, self._optimizers, self._used = manual, list(optimizers), {}
        self._buffers = list(model.buffers()) if self.broadcast_buffers else []
        self._first = torch.tensor(self.global_rank == 0).to(self.root_device)
        self._share([*model.parameters(), *model.buffers()])

    def _share(self, tensors: Sequence[Tensor]) -> None:
        """Have all processes begin with what the first one has."""
        with torch.no_grad():
            for tensor, copy in zip(tensors, to_host([t.detach() for t in tensors]), strict=True):
                value = copy.clone(memory_format=torch.contiguous_format)
                # As bytes: gloo does not know every type.
                dist.broadcast(value.view(-1).view(torch.uint8), 0, group=self.control)
                if self.global_rank:
                    tensor.copy_(value)

    def release(self) -> None:
        super().release()
        self._optimizers, self._buffers, self._used, self._first = [], [], {}, None

    # ------------------------------------------------------------------ gradients

    def average_gradients(self, optimizer: Optimizer) -> None:
        """Average the gradients of an optimizer's parameters over the processes.

        Raises:
            RankError: a parameter has its first gradient, which the other processes cannot know of.
        """
        held = [p for group in optimizer.param_groups for p in group["params"]]
        mine = [int(parameter.grad is not None) for parameter in held]
        used = self._used.get(id(optimizer))
        if used is None:
            # One message a run. Every core has to run the same program, also where a step went
            # past a layer in one process only.
            used = self._used[id(optimizer)] = self.ask(mine).result()
        gradients: list[Tensor] = []
        for parameter, has, expected in zip(held, mine, used, strict=True):
            if has > expected:
                raise RankError(
                    f"rank {self.global_rank}: a parameter of shape {tuple(parameter.shape)} has "
                    "its first gradient after the first step, and XLA needs the same program on "
                    "every core: use it in the first step (times 0, if need be), or train with "
                    "tpu_cores=8 alone, where one process drives all cores",
                    (self.global_rank,),
                )
            if expected:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        collectives.reduce(gradients, scale=1.0 / self.world_size)
        self._share_buffers()

    def _share_buffers(self) -> None:
        buffers = [buffer for buffer in self._buffers if buffer.device.type == "xla"]
        if not buffers or self._first is None:
            return
        with torch.no_grad():
            wide = [b.to(torch.uint8) if b.dtype == torch.bool else b for b in buffers]
            sums = [collectives.keep_of(self._first, buffer) for buffer in wide]
            collectives.reduce(sums)
            for buffer, value in zip(buffers, sums, strict=True):
                buffer.copy_(value)

    def after_backward(self) -> None:
        if self._manual:
            for optimizer in self._optimizers:
                self.average_gradients(optimizer)

    # ------------------------------------------------------------------ talk

    def reduce(self, value: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        if value.device.type != "xla":
            return super().reduce(value, op, group)
        if op not in ("mean", *OPS):
            return super().reduce(value.cpu(), op, group)  # which refuses it
        whole = value.detach().clone()
        collectives.reduce([whole], OPS.get(op, OPS["sum"]), group=group)
        return whole / dist.get_world_size(group) if op == "mean" else whole

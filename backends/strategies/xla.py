"""TPU cores through torch_xla: one of them, or all of them from one process."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from leyden.backends.strategies.base import Strategy
from leyden.backends.xla import runtime
from leyden.backends.xla.gathered import gathered
from leyden.backends.xla.spmd import Mesh, shard_parameters
from leyden.engine.errors import MisconfiguredValue, NotBuilt

__all__ = [
    "TPU_WAYS",
    "XLAFullyShardedStrategy",
    "XLASpmdStrategy",
    "XLAStrategy",
    "check_tpu_cores",
    "tpu_strategy",
]

#: Names that go with TPU cores only: one process; a process for each core.
TPU_WAYS = ("xla", "tpu_spawn")


class XLAStrategy(Strategy):
    """One core. What a step computes is recorded, and runs at the mark after it.

    Args:
        index: which of the devices, from 0; None: the first.

    Source: Lightning 1.1's ``tpu_cores=1`` and ``[i]``; its cores count from 1.
    """

    name: ClassVar[str] = "xla"
    lazy: ClassVar[bool] = True

    def __init__(self, index: int | None = None) -> None:
        super().__init__(torch.device("xla", index or 0))
        self.index = index

    def connect(self) -> None:
        self.root_device = runtime.begin(self.index or 0)

    def mark(self) -> None:
        runtime.sync()

    def flush(self) -> None:
        runtime.flush()


class XLASpmdStrategy(XLAStrategy):
    """All cores of the host, driven by this process: each takes its part of every batch.

    XLA cuts the computation up and adds what crosses the cores: gradients are those of the whole
    batch, and so are the statistics of BatchNorm. There is one process, so nothing of what makes
    other distributed runs difficult is there: ranks, samplers, one checkpoint for each.

    A process that has used a single core before cannot change to this.

    Source: Lightning 1.1 had a process for each of ``tpu_cores=8``. ``batch_size`` keeps the
    meaning that it had there, the samples of one core: a step takes ``cores * batch_size`` of them.
    """

    axis: ClassVar[str] = "data"

    def __init__(self) -> None:
        super().__init__()
        self.mesh: Mesh | None = None

    @property
    def cores(self) -> int:
        """How many there are; known once the run has begun."""
        return 1 if self.mesh is None else self.mesh.size

    def connect(self) -> None:
        runtime.use_spmd()
        self.root_device = runtime.begin()
        if self.mesh is None:
            self.mesh = Mesh(self.axis)

    def share(self, loader: Any, *, train: bool, batches: bool = False) -> Any:
        return gathered(loader, self.cores, whole=train)

    def split_batch(self, batch: Any) -> Any:
        assert self.mesh is not None
        return self.mesh.split(batch)


class XLAFullyShardedStrategy(XLASpmdStrategy):
    """As :class:`XLASpmdStrategy`, and each core holds only its part of weights and optimizer.

    Source: torch_xla's FSDPv2.
    """

    name: ClassVar[str] = "fsdp"
    axis: ClassVar[str] = "fsdp"

    def place(self, model: nn.Module) -> None:
        super().place(model)
        assert self.mesh is not None
        shard_parameters(model, self.mesh)


def check_tpu_cores(cores: int | list[int], backend: str | None, said: str) -> None:
    """Hold what was asked for against this machine.

    Args:
        cores: 1, 8 or ``[i]``, as it was checked.
        backend: the way to distribute, in lower case.
        said: the argument as the caller wrote it, for messages.

    Raises:
        NotBuilt: torch_xla is missing or broken.
        MisconfiguredValue: there is no such core, or the two do not go together.
    """
    if backend not in (None, "fsdp", *TPU_WAYS):
        raise MisconfiguredValue(
            f"{said} and accelerator={backend!r} do not go together: leave accelerator out, or "
            "pass with tpu_cores=8 accelerator='fsdp' to cut the weights up too, or 'tpu_spawn' "
            "for a process for each core"
        )
    if backend == "tpu_spawn" and cores != 8:
        raise MisconfiguredValue(
            f"{said} is one core, which this process drives, and accelerator='tpu_spawn' starts a "
            "process for each of all cores: pass tpu_cores=8, or leave accelerator out"
        )
    if backend == "fsdp" and cores != 8:
        raise MisconfiguredValue(
            f"{said} is one core, between which accelerator='fsdp' has nothing to cut up: pass "
            "tpu_cores=8, or leave accelerator out"
        )
    if runtime.has_plain_tpu():
        if cores == 8:
            raise NotBuilt(
                f"{said} needs torch_xla, and this machine's TPU is a plain device of torch "
                "(TorchTPU): pass tpu_cores=1 or [i]"
            )
        return
    runtime.require(said)
    if backend == "tpu_spawn":
        return  # to count the cores would take them from the processes that are to come
    found = runtime.device_count()
    if isinstance(cores, list) and cores[0] > found:
        there = f"1 to {found}" if found > 1 else "1 only"
        raise MisconfiguredValue(
            f"{said} asks for core {cores[0]}, and this machine has {there}: pass one of those"
        )


def tpu_strategy(cores: int | list[int], backend: str | None) -> Strategy:
    """Return the strategy for arguments that :func:`check_tpu_cores` let pass."""
    index = cores[0] - 1 if isinstance(cores, list) else 0
    if runtime.has_plain_tpu():
        return Strategy(torch.device("tpu", index))
    if cores != 8:
        return XLAStrategy(index)
    return XLAFullyShardedStrategy() if backend == "fsdp" else XLASpmdStrategy()

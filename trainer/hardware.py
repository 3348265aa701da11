"""What a Trainer tells about devices, precision and processes."""

from typing import Any

import torch

from leyden.backends.devices import Devices, devices_for
from leyden.backends.plugins import plugin_of
from leyden.backends.precision import MixedPrecision, Precision
from leyden.backends.precision.apex import ApexPrecision
from leyden.backends.precision.levels import OptLevel
from leyden.backends.slurm import job_id
from leyden.backends.strategies import Strategy
from leyden.settings import Settings

__all__ = ["HardwareProperties"]


class HardwareProperties:
    """What :class:`leyden.Trainer` tells about the machine; it has no state of its own.

    The names are those of Lightning 1.1, so that code which asks for one of them finds it.
    """

    _settings: Settings
    _run: Any

    # ------------------------------------------------------------------ processes

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the first process."""
        return self.global_rank == 0

    @property
    def strategy(self) -> Strategy:
        """Which devices and processes the run works on."""
        found: Strategy = self._run.strategy
        return found

    @property
    def global_rank(self) -> int:
        """The number of this process among all."""
        return self.strategy.global_rank

    @property
    def local_rank(self) -> int:
        """The number of this process on its machine."""
        return self.strategy.local_rank

    @property
    def node_rank(self) -> int:
        """The number of this machine."""
        return self.strategy.node_rank

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self.strategy.world_size

    @property
    def data_parallel(self) -> bool:
        """Whether batches are shared out, in whatever way."""
        return self.use_dp or self.use_ddp or self.use_ddp2

    @property
    def require_distributed_sampler(self) -> bool:
        """Whether each process needs a sampler that gives it its own share."""
        return (
            self.use_ddp
            or self.use_ddp2
            or self.use_horovod
            or (self.use_tpu and self.world_size > 1)
        )

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        """What such a sampler is made with."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    @property
    def num_processes(self) -> int:
        """How many processes this machine has: one for each GPU, or as many as were asked for."""
        if self.use_ddp and self.num_gpus:
            return self.num_gpus
        asked: int = self._settings.num_processes
        return asked

    @property
    def use_dp(self) -> bool:
        """Whether one process drives what GPUs there are, one by the name of ``dp`` included."""
        asked = self._settings.distributed_backend == "dp" and self.num_gpus > 0
        return asked or self.strategy.name == "dp"

    @property
    def use_ddp(self) -> bool:
        """Whether there is a process for each device."""
        return self.strategy.name == "ddp"

    @property
    def use_ddp2(self) -> bool:
        """Whether there is a process for each machine."""
        return self.strategy.name == "ddp2"

    @property
    def use_horovod(self) -> bool:
        """Whether Horovod connects the processes."""
        return False

    # ------------------------------------------------------------------ devices

    @property
    def num_gpus(self) -> int:
        """How many GPUs this process and its like on the machine use."""
        return len(self.data_parallel_device_ids or ())

    @property
    def data_parallel_device_ids(self) -> list[int] | None:
        """The ids of those GPUs; None if there are none."""
        settings = self._settings
        ready = plugin_of(settings.plugins, Devices)
        ids = list((ready or devices_for(settings.gpus, settings.accelerator)).ids)
        if not ids and self.root_gpu is not None:  # chosen by a ready strategy
            ids = [self.root_gpu]
        return ids or None

    @property
    def root_gpu(self) -> int | None:
        """The id of the GPU that the module is on first; None without one."""
        device = self.root_device
        return (device.index or 0) if device.type == "cuda" else None

    @property
    def root_device(self) -> torch.device:
        """The device that the module is on."""
        return self.strategy.root_device

    @property
    def on_cpu(self) -> bool:
        """Whether the module is on the CPU."""
        return self.root_device.type == "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether the module is on a GPU."""
        return self.root_device.type == "cuda"

    @property
    def on_tpu(self) -> bool:
        """Whether the module is on a TPU."""
        return self.use_tpu

    @property
    def use_single_gpu(self) -> bool:
        """Whether exactly one GPU is used, by one process."""
        return self.num_gpus == 1 and self.world_size == 1

    @property
    def use_tpu(self) -> bool:
        """Whether TPU cores were asked for and are used."""
        return self.root_device.type in ("xla", "tpu")

    @property
    def tpu_id(self) -> int | None:
        """The one TPU core that was asked for as ``tpu_cores=[i]``; None otherwise."""
        cores = self._settings.tpu_cores
        return cores[0] if isinstance(cores, list) else None

    @property
    def tpu_local_core_rank(self) -> int:
        """The number of this process's core on its machine; 0 without a TPU."""
        return self.local_rank if self.use_tpu else 0

    @property
    def tpu_global_core_rank(self) -> int:
        """The number of this process's core among all; 0 without a TPU."""
        return self.global_rank if self.use_tpu else 0

    # ------------------------------------------------------------------ precision

    @property
    def use_amp(self) -> bool:
        """Whether the forward pass runs in half precision where that is safe."""
        return isinstance(self.precision_plugin, (MixedPrecision, OptLevel, ApexPrecision))

    @property
    def amp_backend(self) -> str | None:
        """'native' or 'apex' where half precision is in force; None with 32 bits."""
        if not self.use_amp:
            return None
        return "native" if isinstance(self.precision_plugin, MixedPrecision) else "apex"

    @property
    def scaler(self) -> Any:
        """The gradient scaler of native half precision; None without it."""
        return self.precision_plugin.scaler

    @property
    def precision_plugin(self) -> Precision:
        """What the steps compute with."""
        found: Precision = self._run.precision
        return found

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps left out because a gradient was infinite or NaN."""
        return self.precision_plugin.skipped_steps

    # ------------------------------------------------------------------ SLURM

    @property
    def is_slurm_managing_tasks(self) -> bool:
        """Whether SLURM starts the processes of this run: never for a single one."""
        return self.strategy.environment.name == "slurm"

    @property
    def slurm_job_id(self) -> int | None:
        """The number of this process's SLURM job; None outside of one, and in a shell."""
        return job_id()

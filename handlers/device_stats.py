"""Logs what the devices do: load, memory, temperature, and the times of steps."""

import time
from importlib import import_module
from shutil import which
from types import ModuleType
from typing import Any, ClassVar

import torch

from leyden.engine.errors import MisconfigurationException, MisconfiguredValue
from leyden.handlers.callback import Callback
from leyden.handlers.loggers.guard import safe_logger

__all__ = ["DeviceStatsMonitor", "GPUStatsMonitor"]

_MEGABYTE = 1 << 20


class GPUStatsMonitor(Callback):
    """Log NVIDIA's numbers for the GPUs of the run, at the steps whose metrics are logged too.

    They are read from the driver's library, not by starting a program; between logged steps nothing
    is read. The names are those of ``nvidia-smi``: ``gpu_id: 0/utilization.gpu (%)``.

    Runs on: the start of training and of its epochs; the starts and ends of batches.

    State: none.

    Source: Lightning 1.1.

    Args:
        memory_utilization: memory used and free (MB), and utilization of the memory (%).
        gpu_utilization: utilization of the GPU (%).
        intra_step_time: milliseconds from the start to the end of a batch.
        inter_step_time: milliseconds from the end of a batch to the start of the next.
        fan_speed: fan speed (%).
        temperature: of the GPU (degrees Celsius).
    """

    state_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        memory_utilization: bool = True,
        gpu_utilization: bool = True,
        intra_step_time: bool = False,
        inter_step_time: bool = False,
        fan_speed: bool = False,
        temperature: bool = False,
    ) -> None:
        super().__init__()
        self.memory_utilization = memory_utilization
        self.gpu_utilization = gpu_utilization
        self.intra_step_time = intra_step_time
        self.inter_step_time = inter_step_time
        self.fan_speed = fan_speed
        self.temperature = temperature
        self._nvml = _nvml()
        self._gpus: list[tuple[int, Any]] = []
        self._step_began: float | None = None
        self._step_ended: float | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the GPUs of the run."""
        _needs_logger(self, trainer)
        gpus = sorted({p.device.index or 0 for p in pl_module.parameters() if p.is_cuda})
        if not gpus:
            raise MisconfiguredValue(
                "GPUStatsMonitor has no GPU to look at, the model is on the CPU: pass "
                "Trainer(gpus=1), "
                "or remove the callback"
            )
        nvml = self._nvml
        nvml.nvmlInit()
        # By the identity torch knows: CUDA_VISIBLE_DEVICES renumbers them for torch alone.
        self._gpus = [
            (
                gpu,
                nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(gpu).uuid}"),
            )
            for gpu in gpus
        ]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Times do not reach over the break between epochs."""
        self._step_began = self._step_ended = None

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Log before a batch."""
        self._step_began = now = time.monotonic()
        if not _due(trainer):
            return
        values = self._read()
        if self.inter_step_time and self._step_ended is not None:
            values["batch_time/inter_step (ms)"] = (now - self._step_ended) * 1000
        safe_logger(trainer).log_metrics(values, step=trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Log after a batch."""
        self._step_ended = now = time.monotonic()
        if not _due(trainer):
            return
        values = self._read()
        if self.intra_step_time and self._step_began is not None:
            values["batch_time/intra_step (ms)"] = (now - self._step_began) * 1000
        safe_logger(trainer).log_metrics(values, step=trainer.global_step)

    def _read(self) -> dict[str, float]:
        rows = [self._stats_of(handle) for _, handle in self._gpus]
        gpus = ",".join(str(gpu) for gpu, _ in self._gpus)
        return self._parse_gpu_stats(gpus, [list(row.values()) for row in rows], list(rows[0]))

    @staticmethod
    def _parse_gpu_stats(
        gpu_ids: str, stats: list[list[float]], keys: list[tuple[str, str]]
    ) -> dict[str, float]:
        """Name the numbers of each GPU as Lightning 1.1 does; ``keys`` are names with units."""
        return {
            f"gpu_id: {gpu}/{name} ({unit})": stats[row][column]
            for row, gpu in enumerate(gpu_ids.split(","))
            for column, (name, unit) in enumerate(keys)
        }

    def _stats_of(self, handle: Any) -> dict[tuple[str, str], float]:
        nvml = self._nvml
        values: dict[tuple[str, str], float] = {}
        if self.gpu_utilization or self.memory_utilization:
            used = nvml.nvmlDeviceGetUtilizationRates(handle)
            if self.gpu_utilization:
                values["utilization.gpu", "%"] = float(used.gpu)
            if self.memory_utilization:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                values["memory.used", "MB"] = memory.used / _MEGABYTE
                values["memory.free", "MB"] = memory.free / _MEGABYTE
                values["utilization.memory", "%"] = float(used.memory)
        if self.fan_speed:
            values["fan.speed", "%"] = float(nvml.nvmlDeviceGetFanSpeed(handle))
        if self.temperature:
            kind = nvml.NVML_TEMPERATURE_GPU
            values["temperature.gpu", "°C"] = float(nvml.nvmlDeviceGetTemperature(handle, kind))
        return values


class DeviceStatsMonitor(Callback):
    """Log the allocator's numbers on a GPU, and load and memory of the CPU.

    Runs on: the starts and ends of batches, at the steps whose metrics are logged too.

    State: none.

    Source: Lightning 2.

    Args:
        cpu_stats: log those of the CPU (needs psutil); None: where the model is on the CPU.
    """

    state_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self, cpu_stats: bool | None = None) -> None:
        super().__init__()
        self.cpu_stats = cpu_stats
        self._psutil: Any = _psutil() if cpu_stats else None
        self._device = torch.device("cpu")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the device."""
        _needs_logger(self, trainer)
        self._device = next((p.device for p in pl_module.parameters()), torch.device("cpu"))
        if self._psutil is None and self.cpu_stats is None and self._device.type == "cpu":
            self._psutil = _psutil()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Log before a batch."""
        self._log(trainer, "on_train_batch_start")

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Log after a batch."""
        self._log(trainer, "on_train_batch_end")

    def _log(self, trainer: Any, hook: str) -> None:
        if not _due(trainer):
            return
        values: dict[str, float] = {}
        if self._device.type == "cuda":
            values.update(torch.cuda.memory_stats(self._device))
        if self._psutil is not None:
            values["cpu_percent"] = self._psutil.cpu_percent()
            values["cpu_vm_percent"] = self._psutil.virtual_memory().percent
            values["cpu_swap_percent"] = self._psutil.swap_memory().percent
        prefix = f"{type(self).__name__}.{hook}/"
        safe_logger(trainer).log_metrics(
            {prefix + name: float(value) for name, value in values.items()},
            step=trainer.global_step,
        )


def _due(trainer: Any) -> bool:
    every = getattr(trainer, "log_every_n_steps", 1)
    return bool((trainer.global_step + 1) % every == 0 or trainer.should_stop)


def _needs_logger(callback: Callback, trainer: Any) -> None:
    if not trainer.logger:
        raise MisconfiguredValue(
            f"{type(callback).__name__} cannot be used with a Trainer that has no logger: pass "
            "Trainer(logger=True) or a logger, or remove the callback"
        )


def _nvml() -> ModuleType:
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except ImportError as error:
        missing = " (and here the NVIDIA driver is not installed either)"
        raise MisconfigurationException(
            "GPUStatsMonitor needs NVIDIA's management library: pip install nvidia-ml-py"
            + ("" if which("nvidia-smi") else missing)
        ) from error
    except Exception as error:  # NVMLError is no fixed class: each code makes its own
        raise MisconfigurationException(
            f"GPUStatsMonitor: the NVIDIA driver is not installed on this machine ({error}): "
            "remove the callback here"
        ) from error
    return nvml


def _psutil() -> ModuleType:
    try:
        return import_module("psutil")
    except ImportError as error:
        raise MisconfigurationException(
            "DeviceStatsMonitor needs psutil for the CPU's numbers: pip install psutil, or pass "
            "cpu_stats=False"
        ) from error

"""Adds the memory in use on the GPUs to every row that goes to the logger."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from leyden.engine.errors import MisconfigurationException

__all__ = ["GPUMemoryRows", "gpu_memory"]

_MEGABYTE = 1 << 20


class GPUMemoryRows:
    """Stands before a logger and adds to its rows what the driver says of memory.

    Nothing of the model or of its streams is waited for; between rows nothing is read.

    Args:
        logger: gets the rows; everything else is the logger's own.
        mode: "all" for one value a GPU, "min_max" for the least and the most of them.
        wanted: whether this run is on a GPU, asked at each row.

    Raises:
        MisconfigurationException: if this run is on a GPU and the driver cannot be asked.

    Source: ``log_gpu_memory`` of PyTorch Lightning 1.1, which started a program for each row.
    """

    def __init__(self, logger: Any, mode: str, wanted: Callable[[], bool]) -> None:
        self._logger = logger
        self._mode = mode
        self._wanted = wanted
        if wanted():
            gpu_memory(mode)  # what is missing is told now, not at the first row

    def log_row(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write a row with the memory in it."""
        row = {**metrics, **gpu_memory(self._mode)} if self._wanted() else metrics
        self._logger.log_row(row, step)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)


def gpu_memory(mode: str = "all") -> dict[str, float]:
    """Return the megabytes in use on this machine's GPUs, of all processes.

    Args:
        mode: "all": ``{"gpu_id: 0/memory.used (MB)": 512.0, ...}``; "min_max":
            ``{"min_gpu_mem": ..., "max_gpu_mem": ...}``.

    Raises:
        MisconfigurationException: if the driver cannot be asked.
    """
    if mode not in ("all", "min_max"):
        raise ValueError(f"mode={mode!r} is unknown: pass 'all' or 'min_max'")
    nvml = _nvml()
    used = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        used.append(float(nvml.nvmlDeviceGetMemoryInfo(handle).used) / _MEGABYTE)
    if mode == "all":
        return {f"gpu_id: {index}/memory.used (MB)": value for index, value in enumerate(used)}
    return {"min_gpu_mem": min(used), "max_gpu_mem": max(used)} if used else {}


def _nvml() -> Any:
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except ImportError as error:
        raise MisconfigurationException(
            "log_gpu_memory needs NVIDIA's management library: pip install nvidia-ml-py, or leave "
            "the argument out"
        ) from error
    except Exception as error:  # NVMLError is no fixed class: each code makes its own
        raise MisconfigurationException(
            f"log_gpu_memory finds no NVIDIA driver on this machine ({error}): leave it out here"
        ) from error
    return nvml

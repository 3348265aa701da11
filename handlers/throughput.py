"""Logs how much data a run gets through."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from leyden.engine.errors import MisconfiguredValue
from leyden.handlers.callback import Callback
from leyden.handlers.loggers.guard import safe_logger

__all__ = ["ThroughputMonitor", "rates", "samples_in"]


class ThroughputMonitor(Callback):
    """Log samples and batches a second, and how much of the device's arithmetic the model uses.

    Each value is of the batches since the last one logged; validation in between is not counted.
    Nothing
    waits for the device: the work of a batch that is still under way counts in the next value.

    Runs on: the start of training, the end of each of its batches, the start and end of validation.

    State: ``samples`` and ``batches`` of the run.

    Source: Lightning 2, where the values go by a sliding window.

    Args:
        batch_size_fn: ``batch_size_fn(batch)`` is the number of samples; None: the length of the
            first tensor found, else 1.
        flops_per_batch: floating point operations for one batch, forward and backward; also a
            function of the batch.
        peak_flops: what the device could do in a second; with ``flops_per_batch`` it gives ``mfu``.
        every_n_steps: batches from one value to the next; None: the run's ``log_every_n_steps``.

    Attributes:
        samples, batches: numbers since the training began.
        last: the values logged last.
    """

    state_keys: ClassVar[tuple[str, ...]] = ("samples", "batches")

    def __init__(
        self,
        batch_size_fn: Callable[[Any], int] | None = None,
        *,
        flops_per_batch: float | Callable[[Any], float] | None = None,
        peak_flops: float | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__()
        if every_n_steps is not None and every_n_steps < 1:
            raise MisconfiguredValue(
                f"ThroughputMonitor(every_n_steps={every_n_steps}) is below 1: pass a number of "
                "batches"
            )
        if peak_flops is not None and (peak_flops <= 0 or flops_per_batch is None):
            raise MisconfiguredValue(
                f"ThroughputMonitor(peak_flops={peak_flops}, flops_per_batch={flops_per_batch}) "
                "gives no "
                "utilisation: pass both, and a peak above 0"
            )
        self.batch_size_fn = batch_size_fn
        self.flops_per_batch = flops_per_batch
        self.peak_flops = peak_flops
        self.every_n_steps = every_n_steps
        self.samples = 0
        self.batches = 0
        self.last: dict[str, float] = {}
        self._every = 1
        self._since = 0.0  # the monotonic clock, in seconds
        self._paused_at = 0.0
        # batches, samples and operations since the last value
        self._counted = [0.0, 0.0, 0.0]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count."""
        if not trainer.logger:
            raise MisconfiguredValue(
                "ThroughputMonitor has no logger to write to: pass Trainer(logger=True) or a "
                "logger, "
                "or remove the callback"
            )
        self._every = self.every_n_steps or getattr(trainer, "log_every_n_steps", None) or 1
        self._begin()

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Count a batch, and log if it is time."""
        size = (self.batch_size_fn or samples_in)(batch)
        self.batches += 1
        self.samples += size
        counted = self._counted
        counted[0] += 1
        counted[1] += size
        flops = self.flops_per_batch
        if flops is not None:
            counted[2] += flops(batch) if callable(flops) else flops
        if counted[0] >= self._every:
            seconds = time.monotonic() - self._since
            self.last = rates(counted[0], counted[1], counted[2], seconds, self.peak_flops)
            self.last["throughput/samples"] = float(self.samples)
            self.last["throughput/batches"] = float(self.batches)
            safe_logger(trainer).log_metrics(self.last, step=trainer.global_step)
            self._begin()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock."""
        self._paused_at = time.monotonic()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Let the clock go on."""
        self._since += time.monotonic() - self._paused_at

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._counted = [0.0, 0.0, 0.0]


def rates(
    batches: float, samples: float, flops: float, seconds: float, peak: float | None = None
) -> dict[str, float]:
    """Return the values by name; empty if no time has passed.

    Example:
        >>> rates(10, 320, 0.0, 2.0)
        {'throughput/batches_per_sec': 5.0, 'throughput/samples_per_sec': 160.0}
    """
    if seconds <= 0:
        return {}
    found = {
        "throughput/batches_per_sec": batches / seconds,
        "throughput/samples_per_sec": samples / seconds,
    }
    if flops:
        found["throughput/flops_per_sec"] = flops / seconds
        if peak:
            found["throughput/mfu"] = flops / seconds / peak
    return found


def samples_in(batch: Any) -> int:
    """Return the number of samples in a batch: the length of its first tensor, else 1.

    Example:
        >>> samples_in({"x": torch.zeros(4, 2), "y": torch.zeros(4)}), samples_in(["a", "b"])
        (4, 1)
    """
    if isinstance(batch, torch.Tensor):
        return int(batch.shape[0]) if batch.dim() else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)) and batch:
        return samples_in(batch[0])
    return 1

"""A logger that fails under the Trainer: the run goes on, and somebody says so."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.backends.devices import Devices
from leyden.callbacks import DeviceStatsMonitor, LearningRateMonitor, ThroughputMonitor
from leyden.exceptions import MisconfigurationException
from leyden.handlers.gpu_memory import GPUMemoryRows, gpu_memory
from leyden.handlers.loggers import CSVLogger, LightningLoggerBase, LoggerGuard
from tests.trainer.tiny import BATCHES, Tiny, data, trainer


class Full(LightningLoggerBase):
    """Its disk is full, from one moment to another."""

    def __init__(self, down: Any = lambda: True) -> None:
        super().__init__()
        self.down = down
        self.rows: list[tuple[int | None, dict[str, Any]]] = []
        self.ended: list[str] = []

    name = "full"  # type: ignore[assignment]
    version = 0  # type: ignore[assignment]
    experiment = None  # type: ignore[assignment]

    def _fail(self) -> None:
        if self.down():
            raise OSError(28, "No space left on device")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._fail()
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._fail()

    def save(self) -> None:
        self._fail()

    def finalize(self, status: str) -> None:
        self._fail()
        self.ended.append(status)


def test_a_failing_logger_does_not_end_the_run(tmp_path: Path) -> None:
    logger = Full()
    made = trainer(tmp_path, max_epochs=2, logger=logger, log_every_n_steps=1)
    model = Tiny()
    with pytest.warns(UserWarning, match="No space left on device") as told:
        made.fit(model, data(), data(2))
    assert made.logger is logger
    assert made.engine.state.iteration == 2 * BATCHES
    assert made.state == "FINISHED"
    assert any("lost" in str(one.message) for one in told), "what is lost is said"
    assert made.callback_metrics["loss_epoch"] > 0


def test_what_failed_is_written_later(tmp_path: Path) -> None:
    made: Any = None
    logger = Full(lambda: made.engine.state.iteration == 2)
    made = trainer(tmp_path, max_epochs=1, logger=logger, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="the logger Full") as told:
        made.fit(Tiny(), data(), data(2))
    assert ["works again" in str(one.message) for one in told] == [False, True]
    steps = [step for step, row in logger.rows if "loss_step" in row]
    assert steps == list(range(BATCHES)), "in order, and none is missing"
    assert logger.ended == ["success"]


def test_one_of_two_fails(tmp_path: Path) -> None:
    good = CSVLogger(str(tmp_path), name="good")
    made = trainer(tmp_path, max_epochs=1, logger=[Full(), good], log_every_n_steps=1)
    with pytest.warns(UserWarning, match="the logger Full"):
        made.fit(Tiny(), data(), data(2))
    rows = [row for row in good.experiment.metrics if "loss_step" in row]
    assert [row["step"] for row in rows] == list(range(BATCHES))


def test_a_mistake_in_a_loggers_code_is_raised(tmp_path: Path) -> None:
    class Wrong(Full):
        def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
            raise TypeError("no such argument")

    made = trainer(tmp_path, max_epochs=1, logger=Wrong(lambda: False), log_every_n_steps=1)
    with pytest.raises(TypeError, match="no such argument"):
        made.fit(Tiny(), data(), data(2))


def scheduled(parameters: Any) -> Any:
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


def test_monitors_write_through_the_same_guard(tmp_path: Path) -> None:
    monitors = [LearningRateMonitor(), ThroughputMonitor(), DeviceStatsMonitor(cpu_stats=True)]
    logger = Full()
    made = trainer(
        tmp_path, max_epochs=2, logger=logger, log_every_n_steps=2, callbacks=list(monitors)
    )
    with pytest.warns(UserWarning, match="No space left"):
        made.fit(Tiny(scheduled), data(), data(2))
    assert made.engine.state.iteration == 2 * BATCHES


def test_what_the_monitors_log(tmp_path: Path) -> None:
    rates, speed = LearningRateMonitor(log_momentum=True), ThroughputMonitor()
    logger = Full(lambda: False)
    made = trainer(
        tmp_path,
        max_epochs=2,
        logger=logger,
        log_every_n_steps=2,
        callbacks=[rates, speed, DeviceStatsMonitor(cpu_stats=True)],
    )
    made.fit(Tiny(scheduled), data(), data(2))
    logged = [(step, row["lr-SGD"]) for step, row in logger.rows if "lr-SGD" in row]
    assert logged == [(0, 0.1), (BATCHES, 0.05)], "one scheduler, stepped each epoch"
    assert rates.lrs == {"lr-SGD": [0.1, 0.05]}
    assert rates.last_momentum_values == {"lr-SGD-momentum": 0.9}
    counts = [row["throughput/samples"] for _, row in logger.rows if "throughput/samples" in row]
    assert counts == [8.0 * (i + 1) for i in range(BATCHES)], "4 samples a batch, each 2 batches"
    key = "DeviceStatsMonitor.on_train_batch_end/cpu_percent"
    assert [step for step, row in logger.rows if key in row] == [1, 3, 5, 7, 9, 11]


def test_gpu_memory_is_not_read_without_a_gpu(tmp_path: Path) -> None:
    logger = Full(lambda: False)
    made = trainer(tmp_path, max_epochs=1, logger=logger, log_every_n_steps=1, log_gpu_memory="all")
    made.fit(Tiny(), data(), data(2))
    assert made.logger is logger
    assert not any("gpu" in key for _, row in logger.rows for key in row)
    assert len([1 for _, row in logger.rows if "loss_step" in row]) == BATCHES


class NVML:
    """A driver with two GPUs."""

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return type("Memory", (), {"used": (handle + 1) * 100 * 2**20})


def test_gpu_memory_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from leyden.handlers import gpu_memory as module

    monkeypatch.setattr(module, "import_module", lambda name: NVML())
    assert gpu_memory("all") == {
        "gpu_id: 0/memory.used (MB)": 100.0,
        "gpu_id: 1/memory.used (MB)": 200.0,
    }
    logger = Full(lambda: False)
    GPUMemoryRows(LoggerGuard(logger), "min_max", lambda: True).log_row({"loss": 1.0}, 3)
    assert logger.rows == [(3, {"loss": 1.0, "min_gpu_mem": 100.0, "max_gpu_mem": 200.0})]
    with pytest.raises(ValueError, match="min_max"):
        gpu_memory("some")


def test_gpu_memory_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from leyden.handlers import gpu_memory as module

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(Exception, match="pip install nvidia-ml-py"):
        gpu_memory()


@pytest.mark.gpu
def test_gpu_memory_of_a_real_driver() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is missing")
    held = torch.zeros(64 * 2**20, device="cuda")  # 256 MB
    values = gpu_memory("all")
    assert len(values) >= torch.cuda.device_count()
    assert max(values.values()) > 256
    assert gpu_memory("min_max")["max_gpu_mem"] > 256
    del held


def test_gpu_memory_that_cannot_be_read_is_told_when_the_trainer_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MisconfigurationException, match="pip install nvidia-ml-py"):
        trainer(tmp_path, logger=Full(), plugins=Devices("cuda", (0,)), log_gpu_memory="all")

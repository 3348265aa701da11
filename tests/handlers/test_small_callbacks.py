"""Accumulation by epoch, the timer, throughput, and device numbers."""

import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leyden.engine import Engine, Events
from leyden.engine.errors import MisconfigurationException
from leyden.handlers.accumulation_scheduler import GradientAccumulationScheduler
from leyden.handlers.device_stats import DeviceStatsMonitor, GPUStatsMonitor
from leyden.handlers.throughput import ThroughputMonitor, rates, samples_in
from leyden.handlers.timer import Timer, parse_duration
from tests.handlers.callback_runs import BATCHES, Run
from tests.handlers.fake_logger import FakeLogger


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, which stands still unless it is moved."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


# ------------------------------------------------------------------ accumulation


def test_the_factor_of_each_epoch(tmp_path: Path) -> None:
    scheduler = GradientAccumulationScheduler({1: 2, 3: 4})
    run, factors = Run(tmp_path, [scheduler]), []
    run.engine.listen(
        Events.EPOCH_STARTED, lambda engine: factors.append(run.state.accumulate_grad_batches)
    )
    run.fit(5)
    assert factors == [1, 2, 2, 4, 4] and run.optimizer_steps == 4 + 2 + 2 + 1 + 1
    assert scheduler.going_to_accumulate_grad_batches()


def test_the_scheduling_given_is_left_as_it_is() -> None:
    given = {4: 2}
    assert GradientAccumulationScheduler(given).epochs == [0, 4] and given == {4: 2}


def test_it_works_without_a_trainer() -> None:
    engine, factors = Engine(lambda engine, batch: None), []
    GradientAccumulationScheduler({0: 3}).attach(engine)
    engine.listen(
        Events.EPOCH_COMPLETED,
        lambda e: factors.append(e.state.accumulate_grad_batches),  # type: ignore[attr-defined]
    )
    engine.run([1], max_epochs=1)
    assert factors == [3]


@pytest.mark.parametrize(
    ("scheduling", "error"),
    [
        ({}, TypeError),
        (None, TypeError),
        ({"a": 1}, TypeError),
        ({0: 1.5}, TypeError),
        ({0: True}, TypeError),
        ({-1: 2}, IndexError),
        ({0: 0}, IndexError),
    ],
)
def test_bad_schedulings_are_refused(scheduling: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="scheduling=") as caught:
        GradientAccumulationScheduler(scheduling)
    assert isinstance(caught.value, MisconfigurationException)


# ------------------------------------------------------------------ timer


@pytest.mark.parametrize(("interval", "iterations"), [("step", 4), ("epoch", 4)])
def test_the_training_ends_when_the_time_is_up(
    tmp_path: Path, clock: list[float], interval: str, iterations: int
) -> None:
    timer = Timer(timedelta(seconds=25), interval=interval)
    run = Run(tmp_path, [timer])
    stops: list[int] = []

    def tick(run: Run) -> None:
        if run.should_stop:
            stops.append(run.state.iteration)
        clock[0] += 10

    run.on_batch = tick
    run.fit(3)
    assert run.state.iteration == iterations and "0:00:25" in timer.stop_reason
    assert stops == ([4] if interval == "step" else [])
    assert timer.time_elapsed() == 40 and timer.time_remaining() == -15


def test_time_of_a_resumed_and_of_a_second_run_counts_on(
    tmp_path: Path, clock: list[float]
) -> None:
    timer = Timer("00:00:01:00")
    run = Run(tmp_path, [timer])
    run.on_batch = lambda run: clock.__setitem__(0, clock[0] + 5)
    run.fit(1)
    clock[0] += 1000  # between the two runs
    run.fit(2)
    assert timer.time_elapsed() == 40
    again = Timer("00:00:01:00")
    again.load_state_dict(timer.state_dict())
    assert again.time_remaining() == 20
    run = Run(tmp_path, [again])
    run.on_batch = lambda run: clock.__setitem__(0, clock[0] + 5)
    run.fit(3)
    assert run.state.iteration == BATCHES and run.should_stop


def test_the_stages_are_timed(tmp_path: Path, clock: list[float]) -> None:
    timer = Timer()
    run = Run(tmp_path, [timer], scores=[1.0])
    run.evaluator.listen(
        Events.ITERATION_COMPLETED, lambda engine: clock.__setitem__(0, clock[0] + 3)
    )
    run.fit(1)
    assert timer.time_elapsed("validate") == 3 and timer.time_elapsed("test") == 0
    assert timer.start_time("validate") == 1000 and timer.end_time("train") == 1003
    assert timer.time_remaining() is None and timer.start_time("test") is None
    with pytest.raises(ValueError, match="stage 'fit' is unknown"):
        timer.time_elapsed("fit")


def test_without_a_duration_nothing_runs_after_batches(tmp_path: Path) -> None:
    run = Run(tmp_path, [Timer()])
    owners = [e for e in run.engine.entries() if isinstance(e.owner, Timer)]
    assert not any(e.event is Events.ITERATION_COMPLETED for e in owners)


def test_durations() -> None:
    assert parse_duration("01:02:03:04") == timedelta(days=1, hours=2, minutes=3, seconds=4)
    assert parse_duration({"weeks": 1, "days": 1}) == timedelta(days=8)
    for bad in ("1:2:3", "00:00:00:00", {"moons": 1}, 30, timedelta(0), {"days": "a"}):
        with pytest.raises(MisconfigurationException, match="the duration"):
            parse_duration(bad)  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match="interval='batch'"):
        Timer(interval="batch")


# ------------------------------------------------------------------ throughput


def test_throughput_leaves_validation_out(tmp_path: Path, clock: list[float]) -> None:
    logger, monitor = FakeLogger(), ThroughputMonitor(flops_per_batch=30.0, peak_flops=60.0)
    run = Run(
        tmp_path, [monitor], logger=logger, log_every_n_steps=2, scores=[1.0], validate_at=(1,)
    )
    run.on_batch = lambda run: clock.__setitem__(0, clock[0] + 0.5)
    run.evaluator.listen(
        Events.ITERATION_COMPLETED, lambda engine: clock.__setitem__(0, clock[0] + 99)
    )
    run.fit(1)
    assert [step for step, _ in logger.rows] == [1, 3]
    expected = {
        "throughput/batches_per_sec": 2.0,
        "throughput/samples_per_sec": 6.0,
        "throughput/flops_per_sec": 60.0,
        "throughput/mfu": 1.0,
        "throughput/samples": 6.0,
        "throughput/batches": 2.0,
    }
    assert logger.rows[0][1] == expected
    assert monitor.state_dict() == {"samples": 12, "batches": 4}


def test_throughput_needs_a_logger_and_fitting_arguments(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="no logger"):
        Run(tmp_path, [ThroughputMonitor()]).fit(1)
    with pytest.raises(MisconfigurationException, match="every_n_steps=0"):
        ThroughputMonitor(every_n_steps=0)
    with pytest.raises(MisconfigurationException, match="pass both"):
        ThroughputMonitor(peak_flops=1.0)
    assert rates(1, 1, 0.0, 0.0) == {}


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(5, 2), 5),
        (torch.tensor(1.0), 1),
        ((torch.zeros(3), torch.zeros(9)), 3),
        ({"ids": [torch.zeros(2, 2)]}, 2),
        (["a", "b"], 1),
        ([], 1),
        (None, 1),
    ],
)
def test_samples_in(batch: Any, size: int) -> None:
    assert samples_in(batch) == size


# ------------------------------------------------------------------ devices


def test_cpu_numbers_are_read_at_logged_steps_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    psutil = SimpleNamespace(
        cpu_percent=lambda: asked.append(1) or 12.5,
        virtual_memory=lambda: SimpleNamespace(percent=50.0),
        swap_memory=lambda: SimpleNamespace(percent=1.0),
    )
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    logger = FakeLogger()
    Run(tmp_path, [DeviceStatsMonitor()], logger=logger, log_every_n_steps=4).fit(1)
    name = "DeviceStatsMonitor.on_train_batch_start/"
    assert logger.rows[0] == (
        3,
        {f"{name}cpu_percent": 12.5, f"{name}cpu_vm_percent": 50.0, f"{name}cpu_swap_percent": 1.0},
    )
    assert len(asked) == len(logger.rows) == 2


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        MisconfigurationException, match="DeviceStatsMonitor cannot .* has no logger"
    ):
        Run(tmp_path, [DeviceStatsMonitor(cpu_stats=False)]).fit(1)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MisconfigurationException, match="pip install psutil"):
        DeviceStatsMonitor(cpu_stats=True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = "pip install nvidia-ml-py .and here the NVIDIA driver is not installed"
    with pytest.raises(MisconfigurationException, match=words):
        GPUStatsMonitor()


def nvml(**more: Any) -> SimpleNamespace:
    """NVIDIA's library, as far as it is used."""
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetUtilizationRates=lambda h: SimpleNamespace(gpu=70, memory=20),
        nvmlDeviceGetMemoryInfo=lambda h: SimpleNamespace(used=3 << 20, free=5 << 20),
        nvmlDeviceGetFanSpeed=lambda h: 40,
        nvmlDeviceGetTemperature=lambda h, kind: 55,
        NVML_TEMPERATURE_GPU=0,
        **more,
    )


def test_gpu_numbers_have_the_names_of_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    logger = FakeLogger()
    monitor = GPUStatsMonitor(
        intra_step_time=True, inter_step_time=True, fan_speed=True, temperature=True
    )
    run = Run(tmp_path, [monitor], logger=logger, log_every_n_steps=2)
    with pytest.raises(MisconfigurationException, match="the model is on the CPU"):
        run.fit(1)
    monkeypatch.setattr(monitor, "on_train_start", lambda *a: None)
    monitor.detach()
    run = Run(tmp_path, [monitor], logger=logger, log_every_n_steps=2)
    monitor._gpus = [(0, "handle")]
    run.on_batch = lambda run: clock.__setitem__(0, clock[0] + 0.25)
    run.fit(1)
    read = {
        "gpu_id: 0/utilization.gpu (%)": 70.0,
        "gpu_id: 0/memory.used (MB)": 3.0,
        "gpu_id: 0/memory.free (MB)": 5.0,
        "gpu_id: 0/utilization.memory (%)": 20.0,
        "gpu_id: 0/fan.speed (%)": 40.0,
        "gpu_id: 0/temperature.gpu (°C)": 55.0,
    }
    assert logger.rows == [
        (1, {**read, "batch_time/inter_step (ms)": 0.0}),
        (1, {**read, "batch_time/intra_step (ms)": 250.0}),
        (3, {**read, "batch_time/inter_step (ms)": 0.0}),
        (3, {**read, "batch_time/intra_step (ms)": 250.0}),
    ]


def test_no_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("NVML Shared Library Not Found")

    library = nvml()
    library.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", library)
    with pytest.raises(
        MisconfigurationException, match="NVIDIA driver is not installed.*Not Found"
    ):
        GPUStatsMonitor()


@pytest.mark.gpu
def test_gpu_numbers_of_a_real_gpu(tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    logger, monitor = FakeLogger(), GPUStatsMonitor(temperature=True)
    model = torch.nn.Linear(2, 1).cuda()
    run = SimpleNamespace(logger=logger, log_every_n_steps=1, global_step=0, should_stop=False)
    monitor.on_train_start(run, model)
    monitor.on_train_batch_start(run, model, None, 0, 0)
    assert 0 <= logger.rows[0][1]["gpu_id: 0/utilization.gpu (%)"] <= 100
    assert logger.rows[0][1]["gpu_id: 0/memory.used (MB)"] > 0


def test_numbers_of_gpus_are_named_by_number_and_unit() -> None:
    keys = [("fan.speed", "%"), ("memory.used", "MB")]
    named = GPUStatsMonitor._parse_gpu_stats("1,3", [[5, 6], [7, 8]], keys)
    assert named == {
        "gpu_id: 1/fan.speed (%)": 5,
        "gpu_id: 1/memory.used (MB)": 6,
        "gpu_id: 3/fan.speed (%)": 7,
        "gpu_id: 3/memory.used (MB)": 8,
    }

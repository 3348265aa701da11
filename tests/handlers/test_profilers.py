"""Profilers: what is measured, the reports, where they go."""

import json
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.handlers import profilers
from leyden.handlers.profilers import (
    AdvancedProfiler,
    BaseProfiler,
    PassThroughProfiler,
    SimpleProfiler,
)
from leyden.handlers.pytorch_profiler import PyTorchProfiler


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Clock:
        now = 100.0

        def perf_counter(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(profilers, "time", made)
    return made


def test_simple_durations_and_report(clock: Any) -> None:
    profiler = SimpleProfiler()
    for seconds in (1.0, 3.0):
        with profiler.profile("outer"):
            with profiler.profile("inner"):
                clock.now += seconds / 2
            clock.now += seconds / 2
    clock.now += 4.0
    assert list(profiler.recorded_durations["outer"]) == [1.0, 3.0]
    assert list(profiler.recorded_durations["inner"]) == [0.5, 1.5]
    rows = [re.split(r"\s+\|\s+", line) for line in profiler.summary().splitlines() if "|" in line]
    assert rows == [
        ["Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %"],
        ["Total", "-", "4", "8.0", "100 %"],
        ["outer", "2.0", "2", "4.0", "50.0"],
        ["inner", "1.0", "2", "2.0", "25.0"],
    ]
    profiler.extended = False
    rows = [re.split(r"\s+\|\s+", line) for line in profiler.summary().splitlines() if "|" in line]
    assert rows == [
        ["Action", "Mean duration (s)", "Total time (s)"],
        ["outer", "2.0", "4.0"],
        ["inner", "1.0", "2.0"],
    ]
    assert profiler.summary().startswith("\n\nProfiler Report\n")
    assert "Profiler Report" in SimpleProfiler(extended=False).summary()  # nothing measured yet


def test_simple_refuses_wrong_nesting() -> None:
    profiler = SimpleProfiler()
    profiler.start("a")
    with pytest.raises(ValueError, match="'a' has been started already"):
        profiler.start("a")
    with pytest.raises(ValueError, match="'b' was never started.*running now: 'a'"):
        profiler.stop("b")


def test_an_exception_ends_the_measurement(clock: Any) -> None:
    profiler = SimpleProfiler()
    with pytest.raises(KeyError), profiler.profile("a"):
        clock.now += 1
        raise KeyError
    assert list(profiler.recorded_durations["a"]) == [1.0] and not profiler.current_actions


@pytest.mark.parametrize("cls", [SimpleProfiler, AdvancedProfiler, PassThroughProfiler])
def test_iterables_are_passed_on(cls: Any, clock: Any) -> None:
    profiler = cls()

    def slow() -> Any:
        for item in range(3):
            clock.now += 1
            yield item

    assert list(profiler.profile_iterable(slow(), "next")) == [0, 1, 2]
    if cls is SimpleProfiler:
        assert list(profiler.recorded_durations["next"]) == [1.0, 1.0, 1.0, 0.0]


def test_report_goes_to_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    profiler = SimpleProfiler()
    with profiler.profile("thing"):
        pass
    profiler.describe()
    assert "thing" in capsys.readouterr().out
    PassThroughProfiler().describe()
    assert capsys.readouterr().out == ""


def test_report_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_logs = SimpleProfiler("report.txt")
    in_logs.setup(str(tmp_path / "logs"))
    in_logs.start("one")
    in_logs.stop("one")
    in_logs.describe()
    in_logs.describe()
    text = (tmp_path / "logs" / "report.txt").read_text()
    assert text.count("Profiler Report") == 2 and "one" in text
    own = AdvancedProfiler("report.txt", dirpath=tmp_path)
    own.setup(str(tmp_path / "logs"))
    own.describe()
    assert "Profiler Report" in (tmp_path / "report.txt").read_text()
    absolute = SimpleProfiler(tmp_path / "absolute.txt")
    absolute.setup(str(tmp_path / "logs"))
    assert absolute.report_path == str(tmp_path / "absolute.txt")
    assert capsys.readouterr().out == ""


def test_only_rank_zero_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    SimpleProfiler(tmp_path / "report.txt").describe()
    assert not list(tmp_path.iterdir())


def work(n: int) -> int:
    return sum(range(n))


def other(n: int) -> int:
    return work(n) + 1


def calls(profiler: AdvancedProfiler, action: str, function: str) -> int:
    stats = profiler.profiled_actions[action].stats  # type: ignore[attr-defined]
    return sum(row[1] for key, row in stats.items() if key[2] == function)


def test_advanced_counts_inner_actions_in_outer_ones() -> None:
    profiler = AdvancedProfiler()
    with profiler.profile("outer"):
        work(10)
        for _ in range(3):
            with profiler.profile("inner"):
                other(10)
        work(10)
    with profiler.profile("inner"):
        other(10)
    assert calls(profiler, "outer", "work") == 5 and calls(profiler, "outer", "other") == 3
    assert calls(profiler, "inner", "work") == 4
    report = profiler.summary()
    assert "Profile stats for: outer" in report and "Profile stats for: inner" in report
    assert "(work)" in report
    with pytest.raises(ValueError, match="'inner' was never started"):
        profiler.stop("inner")


def test_advanced_actions_may_overlap() -> None:
    profiler = AdvancedProfiler()
    profiler.start("a")
    profiler.start("b")
    profiler.stop("a")
    work(1)
    assert calls(profiler, "b", "work") == 1  # readable while it runs
    work(1)
    profiler.stop("b")
    assert calls(profiler, "b", "work") == 2 and calls(profiler, "a", "work") == 0


def test_advanced_shows_as_many_lines_as_asked() -> None:
    def rows(restriction: float) -> int:
        profiler = AdvancedProfiler(line_count_restriction=restriction)
        with profiler.profile("a"):
            re.compile(f"[a-z]{{3}}x+{time.perf_counter()}")
        return len(re.findall(r"^\s+\d+(/\d+)?\s+\d+\.\d+", profiler.summary(), re.MULTILINE))

    assert rows(3) == 3 < rows(0.5) < rows(1.0)


@pytest.mark.slow
def test_pytorch_measures_the_scheduled_batches(tmp_path: Path) -> None:
    def run(profiler: PyTorchProfiler, batches: int) -> str:
        for _ in range(batches):
            with profiler.profile("run_training_batch"), profiler.profile("model_forward"):
                torch.ones(3, 3) @ torch.ones(3, 3)
        return profiler.summary()

    profiler = PyTorchProfiler(
        dirpath=tmp_path,
        trace_filename="trace.json",
        schedule=torch.profiler.schedule(wait=1, warmup=1, active=2, repeat=1),
        activities=[torch.profiler.ProfilerActivity.CPU],
    )
    report = run(profiler, 6)
    assert "aten::matmul" in report and "model_forward" in report
    assert profiler._events is not None
    counts = {event.key: event.count for event in profiler._events}
    assert counts["aten::matmul"] == 2
    names = {
        e.get("name") for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    }
    assert {"run_training_batch", "aten::matmul"} <= names
    short = PyTorchProfiler(activities=[torch.profiler.ProfilerActivity.CPU])
    assert "Nothing was measured" in run(short, 1)
    with pytest.raises(ValueError, match="'x' was never started"):
        short.stop("x")
    with pytest.raises(ValueError, match="record_shapes=True"):
        PyTorchProfiler(group_by_input_shapes=True)


def test_profilers_travel() -> None:
    for profiler in (SimpleProfiler("x"), AdvancedProfiler("x"), PyTorchProfiler("x")):
        profiler.start("a")
        copy = pickle.loads(pickle.dumps(profiler))
        profiler.stop("a")
        assert copy.output_fname == "x"


def test_streams_must_be_functions() -> None:
    class Own(PassThroughProfiler):
        def summary(self) -> str:
            return "text"

    heard: list[str] = []
    own = Own(heard.append)
    own.describe()
    assert heard == ["text"] and isinstance(own, BaseProfiler)
    with pytest.raises(TypeError, match="output_streams holds 3 of type int"):
        Own([heard.append, 3])

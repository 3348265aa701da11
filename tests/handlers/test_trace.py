"""The timeline: spans that lie inside one another, whole at every moment, one track a rank."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.callbacks import ModelCheckpoint
from leyden.handlers.trace import Trace
from leyden.loggers import CSVLogger
from tests.trainer.tiny import BATCHES, Tiny, data, trainer


def events(path: str | Path) -> list[dict[str, Any]]:
    """Read a trace, and hold it to the Trace Event Format that Chrome and Perfetto read.

    perfetto's own parser is a program that its Python package downloads, so a test that has to pass
    offline checks what the format asks of the events that we write: metadata and complete spans.
    """
    trace = json.loads(Path(path).read_bytes(), parse_constant=_no_constants)
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    tracks: dict[tuple[int, int], str] = {}
    processes: dict[int, str] = {}
    for event in trace["traceEvents"]:
        assert type(event["pid"]) is int and type(event["tid"]) is int
        if event["ph"] == "M":
            assert set(event) == {"name", "ph", "pid", "tid", "args"}
            argument = {"process_sort_index": "sort_index"}.get(event["name"], "name")
            assert set(event["args"]) == {argument}
            if event["name"] == "thread_name":
                key, name = (event["pid"], event["tid"]), event["args"]["name"]
                assert tracks.setdefault(key, name) == name, "a track keeps its name"
            elif event["name"] == "process_name":
                processes[event["pid"]] = event["args"]["name"]
            else:
                assert event["name"] == "process_sort_index"
        else:
            assert set(event) == {"name", "ph", "pid", "tid", "ts", "dur"} and event["ph"] == "X"
            assert type(event["name"]) is str and event["name"]
            # Microseconds as plain decimals.
            assert type(event["ts"]) is float and type(event["dur"]) is float
            assert event["ts"] >= 0 and event["dur"] >= 0
    seen = {(event["pid"], event["tid"]) for event in trace["traceEvents"] if event["ph"] == "X"}
    assert seen <= set(tracks) and {pid for pid, _ in seen} <= set(processes)
    return trace["traceEvents"]  # type: ignore[no-any-return]


def _no_constants(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def spans(path: str | Path) -> list[dict[str, Any]]:
    return [event for event in events(path) if event["ph"] == "X"]


def test_a_run(tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        profiler="trace",
        max_epochs=2,
        logger=CSVLogger(str(tmp_path), name="run"),
        checkpoint_callback=True,
        gradient_clip_val=0.5,
    )
    made.fit(Tiny(), data(), data(2))
    path = tmp_path / "run" / "version_0" / "trace.json"
    assert made.profiler.path == str(path)
    found = spans(path)
    names = [span["name"] for span in found]
    assert names.count("get_train_batch") == 2 * (BATCHES + 1)
    assert names.count("run_training_batch") == 2 * BATCHES
    assert names.count("GradientClipping.clip") == 2 * BATCHES
    assert names.count("run_evaluation") == names.count("save_checkpoint") == 2
    assert "ModelCheckpoint.on_validation_end" in names
    assert "on_train_batch_end" not in names, "hooks that nobody has are left out"
    inside(found)
    meta = {event["name"]: event["args"] for event in events(path) if event["ph"] == "M"}
    assert meta["process_name"] == {"name": "rank 0"}
    assert meta["thread_name"] == {"name": "training"}


def inside(found: list[dict[str, Any]]) -> None:
    """Every two spans of a track either lie inside one another or apart."""
    open_until: list[float] = []
    for span in sorted(found, key=lambda one: (one["tid"], one["ts"], -one["dur"])):
        end = span["ts"] + span["dur"]
        while open_until and open_until[-1] <= span["ts"] + 1e-3:
            open_until.pop()
        assert not open_until or end <= open_until[-1] + 2e-3, span
        open_until.append(end)


def test_a_second_run_is_added(tmp_path: Path) -> None:
    made, model = trainer(tmp_path, profiler="trace", max_epochs=1), Tiny()
    made.fit(model, data(), data(2))
    first = len(spans(made.profiler.path))
    made.max_epochs = 2
    made.fit(model, data(), data(2))
    assert len(spans(made.profiler.path)) > 1.5 * first


class Clock:
    """Moves by a millisecond with each look."""

    now = 0

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


def test_the_file(tmp_path: Path) -> None:
    trace = Trace(dirpath=tmp_path, clock=Clock())
    with trace.profile('a "quoted" name'):
        with trace.profile("inner"):
            pass
    trace.describe()
    assert spans(trace.path) == [
        {"name": "inner", "ph": "X", "pid": 0, "tid": 1, "ts": 2000.0, "dur": 1000.0},
        {"name": 'a "quoted" name', "ph": "X", "pid": 0, "tid": 1, "ts": 1000.0, "dur": 3000.0},
    ]
    trace.start("open")
    trace.describe()
    assert len(spans(trace.path)) == 2
    trace.stop("open")
    trace.describe()
    assert len(spans(trace.path)) == 3


def test_threads_have_tracks_of_their_own(tmp_path: Path) -> None:
    trace = Trace(dirpath=tmp_path)

    def write() -> None:
        with trace.profile("write"):
            pass

    with trace.profile("train"):
        thread = threading.Thread(target=write, name="leyden-checkpoint")
        thread.start()
        thread.join()
    with pytest.raises(ValueError, match="never started in this thread"):
        trace.stop("write")
    trace.describe()
    tracks = {span["name"]: span["tid"] for span in spans(trace.path)}
    names = {e["tid"]: e["args"]["name"] for e in events(trace.path) if e["name"] == "thread_name"}
    assert names[tracks["write"]] == "leyden-checkpoint"
    assert names[tracks["train"]] == "training"


def test_a_thread_goes_on_with_the_track_of_one_that_has_ended(tmp_path: Path) -> None:
    trace = Trace(dirpath=tmp_path)
    barrier = threading.Barrier(2)

    def write(together: bool) -> None:
        with trace.profile("write"):
            if together:
                barrier.wait(timeout=10)

    def started(together: bool) -> threading.Thread:
        thread = threading.Thread(target=write, args=(together,), name="leyden-checkpoint")
        thread.start()
        return thread

    for _ in range(3):
        started(False).join()
    trace.describe()
    assert [span["tid"] for span in spans(trace.path)] == [1, 1, 1]
    for thread in [started(True), started(True)]:
        thread.join()
    trace.describe()
    assert sorted(span["tid"] for span in spans(trace.path)) == [1, 1, 1, 1, 2]


def test_no_span_of_another_thread_is_lost(tmp_path: Path) -> None:
    trace = Trace(dirpath=tmp_path)

    def write() -> None:
        for _ in range(5000):
            with trace.profile("write"):
                pass

    threads = [threading.Thread(target=write, name=f"writer {i}") for i in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        trace._flush()
    trace.describe()
    assert len(spans(trace.path)) == trace.count == 15_000


def test_checkpoints_that_are_written_in_a_thread(tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        profiler="trace",
        max_epochs=2,
        logger=CSVLogger(str(tmp_path), name="run"),
        callbacks=[ModelCheckpoint(asynchronous=True)],
        checkpoint_callback=True,
    )
    made.fit(Tiny(), data(), data(2))
    path = made.profiler.path
    tracks = {e["args"]["name"]: e["tid"] for e in events(path) if e["name"] == "thread_name"}
    assert set(tracks) == {"training", "leyden-checkpoint"}
    written = [span for span in spans(path) if span["tid"] == tracks["leyden-checkpoint"]]
    assert [span["name"] for span in written] == ["write_checkpoint"] * 2


def test_a_full_trace_says_so_once_and_stays_small(tmp_path: Path) -> None:
    trace = Trace(dirpath=tmp_path, limit=3)
    for _ in range(5):
        with trace.profile("a"):
            pass
    with pytest.warns(UserWarning, match="full after limit=3"):
        trace.describe()
    with trace.profile("a"):
        pass
    trace.describe()
    assert len(spans(trace.path)) == trace.count == 3
    with pytest.raises(ValueError, match="limit=0"):
        Trace(limit=0)


def test_memory_does_not_grow(tmp_path: Path) -> None:
    trace = Trace(dirpath=tmp_path)
    for _ in range(10_000):
        trace.start("a")
        trace.stop("a")
    assert len(trace._spans) < 5000 and trace.count > 5000
    trace.describe()
    assert len(spans(trace.path)) == 10_000


def test_another_process_begins_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace(dirpath=tmp_path, limit=7)
    trace.start("a")
    copied = pickle.loads(pickle.dumps(trace))
    assert copied.limit == 7 and copied.count == 0
    monkeypatch.setenv("RANK", "2")
    with copied.profile("b"):
        pass
    copied.describe()
    assert copied.path == str(tmp_path / "trace.rank2.json")
    assert {span["pid"] for span in spans(copied.path)} == {2}


def _rank(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    trace = Trace(dirpath=folder)
    with trace.profile(f"of rank {rank}"):
        pass
    trace.gather()
    with trace.profile("later"):
        pass
    trace.gather()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_end_in_one_file(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    found = {(span["pid"], span["name"]) for span in spans(tmp_path / "trace.json")}
    assert found == {(0, "of rank 0"), (1, "of rank 1"), (0, "later"), (1, "later")}
    named = [e["args"]["name"] for e in events(tmp_path / "trace.json") if e["ph"] == "M"
             and e["name"] == "process_name"]  # fmt: skip
    assert set(named) == {"rank 0", "rank 1"}
    assert not (tmp_path / "trace.rank1.json").exists()


@pytest.mark.slow
def test_perfetto_reads_it(tmp_path: Path) -> None:
    program = os.environ.get("PERFETTO_TRACE_PROCESSOR")
    if not program:
        pytest.skip(
            "set PERFETTO_TRACE_PROCESSOR to perfetto's trace_processor_shell: left alone, the "
            "package perfetto downloads it"
        )
    perfetto = pytest.importorskip("perfetto.trace_processor", reason="perfetto is missing")
    made = trainer(tmp_path, profiler="trace", max_epochs=1)
    made.fit(Tiny(), data(), data(2))
    config = perfetto.TraceProcessorConfig(bin_path=program)
    with perfetto.TraceProcessor(trace=made.profiler.path, config=config) as processor:
        rows = processor.query("select name, count(*) as n from slice group by name")
        counted = {row.name: row.n for row in rows}
    assert counted["run_training_batch"] == BATCHES

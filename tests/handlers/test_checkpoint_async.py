"""Saving beside the training: a real copy, one at a time, and no error is lost."""

import pathlib
import subprocess
import sys
import threading
from collections import OrderedDict
from typing import Any

import pytest
import torch

from leyden.handlers import checkpoint_io
from leyden.handlers.checkpoint_async import AsyncWriter, Snapshot


class Gate:
    """A writer that waits until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.written: list[Any] = []

    def __call__(self, obj: Any, path: Any) -> None:
        self.entered.set()
        assert self.open.wait(30)
        self.written.append((path, obj["x"].clone()))


def test_the_file_holds_what_was_there_when_it_was_asked_for(tmp_path: pathlib.Path) -> None:
    layer = torch.nn.Linear(8, 8)
    optimizer = torch.optim.Adam(layer.parameters())

    def train() -> None:
        layer(torch.ones(1, 8)).sum().backward()
        optimizer.step()

    train()
    state = {"state_dict": layer.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    checkpoint_io.save(state, tmp_path / "now.ckpt")
    gate = Gate()
    gate.written = []
    writer = AsyncWriter(lambda obj, path: (gate.open.wait(30), checkpoint_io.save(obj, path))[1])
    writer.save(state, tmp_path / "later.ckpt")
    train()  # weights, moments and Adam's step tensors change in place
    gate.open.set()
    writer.close()
    now, later = (checkpoint_io.load(tmp_path / f"{name}.ckpt") for name in ("now", "later"))
    torch.testing.assert_close(later, now, rtol=0, atol=0)
    assert later["state_dict"]._metadata == now["state_dict"]._metadata


def test_one_save_is_in_flight() -> None:
    gate = Gate()
    writer = AsyncWriter(gate)
    writer.save({"x": torch.zeros(1)}, "a")
    assert gate.entered.wait(30) and writer.busy
    writer.check()  # does not wait
    second = threading.Thread(target=writer.save, args=({"x": torch.ones(1)}, "b"))
    second.start()
    assert gate.written == []
    gate.open.set()
    second.join()
    writer.join()
    assert [(path, float(x)) for path, x in gate.written] == [("a", 0.0), ("b", 1.0)]
    assert not writer.busy


def test_then_follows_the_durable_file(tmp_path: pathlib.Path) -> None:
    seen = []
    writer = AsyncWriter()
    path = tmp_path / "a.ckpt"
    writer.save({"epoch": 1}, path, then=lambda: seen.append(checkpoint_io.load(path)["epoch"]))
    writer.join()
    assert seen == [1]


@pytest.mark.parametrize("call", ["check", "join", "close", "save"])
def test_a_failed_save_is_raised_once_by_the_next_call(tmp_path: pathlib.Path, call: str) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = AsyncWriter()
    writer.save({}, tmp_path / "file" / "a.ckpt")
    assert writer._thread is not None
    writer._thread.join()
    with pytest.raises(OSError, match="a.ckpt"):
        getattr(writer, call)(*([{}, tmp_path / "b.ckpt"] if call == "save" else []))
    writer.save({}, tmp_path / "b.ckpt")
    writer.close()
    assert checkpoint_io.load(tmp_path / "b.ckpt") == {}


@pytest.mark.slow
def test_the_process_does_not_end_before_the_file_is_written(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, torch\n"
        "from leyden.handlers.checkpoint_async import AsyncWriter\n"
        "AsyncWriter().save({'x': torch.ones(1_000_000)}, sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
    assert int(checkpoint_io.load(tmp_path / "a")["x"].sum()) == 1_000_000


def test_buffers_are_used_again_and_freed() -> None:
    snapshot = Snapshot()
    state = {"a": torch.ones(3), "b": [torch.zeros(2), {"c": torch.ones(1)}], "n": [1, {"x"}]}
    first = snapshot.take(state)
    assert first["a"] is not state["a"] and torch.equal(first["a"], state["a"])
    state["a"] += 1  # type: ignore[operator]
    state["b"][0] = torch.full((2,), 7.0)  # type: ignore[index]
    second = snapshot.take(state)
    assert second["a"] is first["a"] and float(second["a"][0]) == 2.0
    assert second["b"][0] is first["b"][0] and float(second["b"][0][0]) == 7.0
    assert second["n"] == [1, {"x"}] and second["n"][1] is not state["n"][1]  # type: ignore[index]
    third = snapshot.take({"a": torch.ones(4)})
    assert third["a"].shape == (4,)
    assert list(snapshot._buffers) == [("a",)]
    snapshot.clear()
    assert snapshot._buffers == {}


def test_tensors_of_all_kinds_are_copied(tmp_path: pathlib.Path) -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    state = OrderedDict(
        tied=weight,
        again=weight,
        turned=weight.T,
        expanded=torch.ones(1).expand(4),
        part=torch.arange(10)[2:5],
        sparse=torch.eye(3).to_sparse(),
        empty=torch.empty(0, 3),
        scalar=torch.tensor(5),
        half=torch.ones(2, dtype=torch.bfloat16),
    )
    copied = Snapshot().take(state)
    assert copied["tied"] is copied["again"]
    assert type(copied) is OrderedDict
    checkpoint_io.save(copied, tmp_path / "a")
    loaded = checkpoint_io.load(tmp_path / "a")
    for name, value in state.items():
        assert torch.equal(loaded[name].to_dense(), value.detach().to_dense()), name
        assert loaded[name].dtype == value.dtype
    # A view does not bring along what it is a view of.
    assert loaded["part"].untyped_storage().nbytes() == 24


@pytest.mark.gpu
def test_devices_are_copied_to_pinned_memory(tmp_path: pathlib.Path) -> None:
    state = {"x": torch.arange(1000.0, device="cuda"), "y": torch.ones(3)}
    copied = Snapshot().take(state)
    state["x"].zero_()
    assert copied["x"].is_pinned() and copied["x"].device.type == "cpu"
    assert torch.equal(copied["x"], torch.arange(1000.0))
    writer = AsyncWriter()
    writer.save({"x": torch.ones(5, device="cuda")}, tmp_path / "a")
    writer.close()
    assert torch.equal(checkpoint_io.load(tmp_path / "a")["x"], torch.ones(5))

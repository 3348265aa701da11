"""Unfinished files of killed writers go at once, those of living ones never."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from leyden.handlers import checkpoint_leftovers as leftovers
from leyden.handlers.checkpoint_io import save
from tests.handlers.checkpoint_cases import names

ON_LINUX = os.path.exists("/proc/self/stat")


@pytest.fixture(autouse=True)
def linux() -> None:
    if not ON_LINUX:
        pytest.skip("this system does not say when a process began")


def _unfinished(folder: Path, name: str, *, old: bool = False) -> Path:
    path = folder / name
    path.write_bytes(b"half")
    if old:
        os.utime(path, (1, 1))
    return path


def _name_of(process: int, begun: str = "1") -> str:
    _, place, _, _, token = leftovers.unfinished_name().split("-")
    return f".leyden-{place}-{process:x}-{begun}-{token}"


def _writes(folder: str, began: Any, goes_on: Any) -> None:
    _unfinished(Path(folder), leftovers.unfinished_name())
    began.set()
    goes_on.wait(60)


@pytest.mark.slow
def test_a_writer_that_was_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    began, goes_on = context.Event(), context.Event()
    writer = context.Process(target=_writes, args=(str(tmp_path), began, goes_on))
    writer.start()
    assert began.wait(60)
    before = names(tmp_path)
    leftovers.remove_leftovers(str(tmp_path))
    assert names(tmp_path) == before and len(before) == 1, "it lives"
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has asked yet
    leftovers.remove_leftovers(str(tmp_path))
    assert names(tmp_path) == []
    writer.join()


def test_another_process_has_its_number_now(tmp_path: Path) -> None:
    stale = _unfinished(tmp_path, _name_of(os.getpid(), begun="1"))
    own = _unfinished(tmp_path, leftovers.unfinished_name(), old=True)
    save({}, tmp_path / "a.ckpt")
    assert names(tmp_path) == sorted([own.name, "a.ckpt"])
    assert stale.name.split("-")[2] == own.name.split("-")[2]


def test_a_dead_writers_file_that_somebody_holds_stays(tmp_path: Path) -> None:
    held = _unfinished(tmp_path, _name_of(2**22 + 1), old=True)
    with open(held, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        leftovers.remove_leftovers(str(tmp_path))
        assert held.exists()
    leftovers.remove_leftovers(str(tmp_path))
    assert not held.exists()


@pytest.mark.parametrize("name", [".leyden-elsewhere-1-1-0.part", ".leyden-1-old.part"])
def test_writers_elsewhere_have_a_minute(tmp_path: Path, name: str) -> None:
    path = _unfinished(tmp_path, name)
    leftovers.remove_leftovers(str(tmp_path))
    assert path.exists()
    os.utime(path, (1, 1))
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        leftovers.remove_leftovers(str(tmp_path))
        assert path.exists()
    leftovers.remove_leftovers(str(tmp_path))
    assert not path.exists()


@pytest.mark.parametrize("name", ["notes.part", ".leyden-x.ckpt", "last.ckpt"])
def test_other_files_are_none_of_its_business(tmp_path: Path, name: str) -> None:
    path = _unfinished(tmp_path, name, old=True)
    leftovers.remove_leftovers(str(tmp_path))
    assert path.exists()


def test_a_command_with_brackets_in_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    text = "77 (a) b (c)) S " + " ".join(map(str, range(4, 30)))
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert int(leftovers._begun("77"), 16) == 22
    monkeypatch.setattr(Path, "read_text", lambda self: text.replace(" S ", " Z "))
    assert leftovers._begun("77") == ""


def test_a_run_clears_up_before_it_saves(tmp_path: Path) -> None:
    from leyden.callbacks import ModelCheckpoint
    from tests.trainer.tiny import Bare, data, trainer

    (tmp_path / "c").mkdir()
    left = _unfinished(tmp_path / "c", _name_of(2**22 + 1))
    saver = ModelCheckpoint(dirpath=tmp_path / "c", period=5)
    kept = {"callbacks": [saver], "checkpoint_callback": True}
    made = trainer(tmp_path, max_epochs=1, limit_train_batches=1, **kept)
    made.fit(Bare(), data())
    assert not left.exists()

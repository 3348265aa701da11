"""The journal: what it says, when it is on the disk, and what is left of it after a kill."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers import journal as journal_module
from leyden.handlers.journal import Journal, bits, read_journal, recorded_losses
from tests.trainer.resume_runs import run


def _events(root: Path) -> list[dict[str, Any]]:
    (path,) = root.rglob("journal.jsonl")
    return list(read_journal(path))


def test_what_a_run_writes(tmp_path: Path) -> None:
    run(tmp_path, callbacks=(ModelCheckpoint(monitor="val"),), max_epochs=1)
    lines = _events(tmp_path)
    names = [line["event"] for line in lines]
    assert names == ["start", "checkpoint", "validation", "end"]
    start, saved, validated, end = lines
    assert start["arguments"]["max_epochs"] == 1
    assert start["versions"]["torch"] == str(torch.__version__)
    assert start["seed"] == "5"
    assert Path(saved["path"]).exists()
    assert (saved["batch"], saved["step"]) == (6, 6)
    assert set(validated["metrics"]) >= {"val", "loss_epoch"}
    assert end["how"] == "finished"


def test_it_is_on_the_disk_with_the_checkpoint(tmp_path: Path) -> None:
    class Look(leyden.Callback):
        seen: list[str] = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            if trainer.batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "here.ckpt")
                self.seen += [line["event"] for line in _events(tmp_path)]

    look = Look()
    run(tmp_path, callbacks=(look, Journal()), max_epochs=1)
    assert look.seen == ["start", "checkpoint"]


def test_no_directory_no_journal(tmp_path: Path) -> None:
    run(tmp_path, logger=False, callbacks=(ModelCheckpoint(monitor="val"),), max_epochs=1)
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_no_checkpoints_no_journal(tmp_path: Path) -> None:
    run(tmp_path, max_epochs=1)
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_losses_bit_for_bit(tmp_path: Path) -> None:
    found = run(tmp_path, callbacks=(Journal(losses=True),), max_epochs=2)
    (path,) = tmp_path.rglob("journal.jsonl")
    assert list(recorded_losses(path).values()) == [loss for _, _, loss in found["seen"]]


def test_by_default_nothing_runs_in_an_iteration(tmp_path: Path) -> None:
    found: list[Any] = []
    run(
        tmp_path,
        callbacks=(ModelCheckpoint(monitor="val"),),
        change=found.append,
        max_epochs=1,
    )
    trainer = found[0]
    assert "Journal" in trainer.handlers
    owners = [e.owner for e in trainer.engine.entries() if e.event == Events.ITERATION_COMPLETED]
    assert trainer.handlers["Journal"] not in owners


def test_warnings_and_exceptions_are_told(tmp_path: Path) -> None:
    class Fails(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            warnings.warn("this looks wrong", RuntimeWarning, stacklevel=1)
            raise ZeroDivisionError("told")

    before = warnings.showwarning
    with pytest.raises(ZeroDivisionError), warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        run(tmp_path, callbacks=(Fails(), Journal()), max_epochs=1)
    lines = _events(tmp_path)
    assert [line["text"] for line in lines if line["event"] == "warning"] == ["this looks wrong"]
    assert lines[-1]["how"] == "ZeroDivisionError: told"
    assert warnings.showwarning is before


def test_a_torn_line_is_left_out_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"event": "start"}\n{"event": "check')
    journal = Journal(path)
    journal.note("end")
    journal.flush()
    assert [line["event"] for line in read_journal(path)] == ["start", "end"]
    assert len(path.read_text().splitlines()) == 3


def test_on_a_bare_engine(tmp_path: Path) -> None:
    engine = Engine(lambda engine, batch: batch)
    journal = Journal(tmp_path / "j.jsonl")
    journal.attach(engine)
    engine.run([1, 2], max_epochs=1)
    engine.fire_event(TrainerEvents.TRAINING_ENDED)
    assert [line["event"] for line in read_journal(tmp_path / "j.jsonl")] == ["start", "end"]


@pytest.mark.parametrize("value", [0.1, -0.0, float("inf"), 1e-310])
def test_bits_keep_all(value: float) -> None:
    assert json.loads(json.dumps(bits(value))) == value.hex()
    assert float.fromhex(bits(value)).hex() == value.hex()


def _journals(count: int, folder: Path) -> list[tuple[Journal, Engine]]:
    out = []
    for i in range(count):
        engine, journal = Engine(lambda engine, batch: None), Journal(folder / f"{i}.jsonl")
        journal.attach(engine)
        out.append((journal, engine))
    return out


def _told(folder: Path, number: int) -> list[str]:
    lines = read_journal(folder / f"{number}.jsonl")
    return [line["text"] for line in lines if line["event"] == "warning"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_journals_end_in_any_order(order: tuple[int, ...], tmp_path: Path) -> None:
    before = warnings.showwarning
    journals = _journals(3, tmp_path)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        inside = warnings.showwarning
        for journal, engine in journals:
            journal.begin(engine)
        for ended, number in enumerate(order):
            warnings.warn(f"after {ended}", RuntimeWarning, stacklevel=1)
            journals[number][0].end(journals[number][1])
        assert warnings.showwarning is inside
        warnings.warn("after all", RuntimeWarning, stacklevel=1)
    assert warnings.showwarning is before
    for ended, number in enumerate(order):
        assert _told(tmp_path, number) == [f"after {i}" for i in range(ended + 1)]
    assert len(shown) == 4


def test_a_journal_that_is_put_back_after_its_end_hands_on(tmp_path: Path) -> None:
    (journal, engine), (second, other) = _journals(2, tmp_path)
    seen: list[str] = []
    before = warnings.showwarning
    try:
        warnings.showwarning = lambda message, *rest, **named: seen.append(str(message))
        journal.begin(engine)
        with warnings.catch_warnings():
            second.begin(other)
            journal.end(engine)
            second.end(other)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("later", RuntimeWarning, stacklevel=1)
    finally:
        warnings.showwarning = before
    assert seen == ["later"] and not _told(tmp_path, 0) and not _told(tmp_path, 1)


def test_a_full_disk_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, real = Journal(tmp_path / "j.jsonl"), journal_module._append

    def full(path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_module, "_append", full)
    journal.note("start")
    with pytest.warns(UserWarning, match="j.jsonl cannot be written.*No space left"):
        journal.flush()
    journal.note("checkpoint")
    journal.flush()  # said once
    monkeypatch.setattr(journal_module, "_append", real)
    journal.note("end")
    journal.flush()
    lines = read_journal(tmp_path / "j.jsonl")
    assert [line["event"] for line in lines] == ["start", "checkpoint", "end"]

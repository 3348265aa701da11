"""``"last"`` and ``"best"`` are files that are whole; what is not is named and skipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.loggers import CSVLogger
from tests.trainer.resume_runs import run


def _saver(**arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(monitor="val", save_top_k=-1, filename="{epoch}", **arguments)


def _files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run(tmp_path, callbacks=(_saver(),), max_epochs=2)
    return tmp_path


def _resumed(root: Path, word: Any, **arguments: Any) -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = run(
        root, resume=word, callbacks=(_saver(),), max_epochs=3, **arguments
    )["seen"]
    return found


def test_last_is_the_newest(root: Path) -> None:
    assert {epoch for epoch, _, _ in _resumed(root, "last")} == {2}


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_one_is_named_and_skipped(root: Path, damage: str) -> None:
    newest = _files(root)[-1]
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content) if damage == "flip" else content[: len(content) // 2])
    if damage == "empty":
        newest.write_bytes(b"")
    os.utime(newest, (2e9, 2e9))
    with pytest.warns(UserWarning, match=f"skipped: .*{newest.name}"):
        assert {epoch for epoch, _, _ in _resumed(root, "last")} == {1, 2}


def test_best_is_what_the_newest_remembers(root: Path) -> None:
    assert len(_files(root)) == 2
    scores = {
        epoch: float(row["val"]) for epoch, row in enumerate(r for r in _rows(root) if r["val"])
    }
    begins = {_resumed(root, "best")[0][0]}
    assert begins == {1 if scores[0] < scores[1] else 2}


def _rows(root: Path) -> list[dict[str, str]]:
    import csv

    with open(root / "log" / "version_0" / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("word", ["last", "best", "no/such/file.ckpt"])
def test_nothing_there_begins_from_scratch(tmp_path: Path, word: str) -> None:
    with pytest.warns(UserWarning, match=f"no checkpoint {word}: training starts from scratch"):
        seen = run(tmp_path, resume=word, callbacks=(_saver(),), max_epochs=1)["seen"]
    assert seen[0][:2] == (0, 0)


def test_the_earlier_version_of_a_numbered_log(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path), name="log")
    run(tmp_path, callbacks=(_saver(),), max_epochs=1, logger=logger)
    again = CSVLogger(str(tmp_path), name="log")
    assert (logger.version, again.version) == (0, 1)
    seen = run(tmp_path, resume="last", callbacks=(_saver(),), max_epochs=2, logger=again)["seen"]
    assert {epoch for epoch, _, _ in seen} == {1}


def test_fit_takes_the_words_too(root: Path) -> None:
    from tests.trainer.resume_runs import BATCH, Average, DataLoader, Drawing, Noisy

    trainer = leyden.Trainer(
        default_root_dir=str(root),
        logger=CSVLogger(str(root), name="log", version=0),
        callbacks=[_saver(), Average()],
        max_epochs=3,
        progress_bar_refresh_rate=0,
        weights_summary=None,
    )
    model = Drawing()
    trainer.fit(
        model,
        DataLoader(Noisy(), batch_size=BATCH, shuffle=True),
        DataLoader(Noisy(), batch_size=8),
        ckpt_path="last",
    )
    assert {epoch for epoch, _, _ in model.seen} == {2}

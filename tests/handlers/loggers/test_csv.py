"""CSVLogger: files, rows, columns, failures, resumption."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.handlers.loggers import CSVLogger


def text(logger: CSVLogger, name: str = "metrics.csv") -> str:
    return Path(logger.log_dir, name).read_text()


def test_files_rows_and_hparams(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, prefix="pre")
    logger.log_hyperparams({"a": 1, "b": "two"})
    logger.log_metrics({"x": 1.0})
    logger.log_metrics({"x": torch.tensor(2.0), "y": 3.0}, step=10)
    assert not list(tmp_path.rglob("*.*"))
    logger.save()
    assert text(logger) == "pre-x,step,pre-y\n1.0,0,\n2.0,10,3.0\n"
    assert text(logger, "hparams.yaml") == "a: 1\nb: two\n"
    assert logger.log_dir == str(tmp_path / "default" / "version_0")
    assert (logger.version, logger.name, logger.save_dir) == (0, "default", str(tmp_path))


def test_versions_count_up_past_gaps(tmp_path: Path) -> None:
    (tmp_path / "default" / "version_7").mkdir(parents=True)
    (tmp_path / "default" / "version_x").mkdir()
    (tmp_path / "default" / "version_9").write_text("a file")
    assert CSVLogger(tmp_path).version == 8
    assert CSVLogger(tmp_path, name="other").version == 0
    assert CSVLogger(tmp_path, version="mine").log_dir == str(tmp_path / "default" / "mine")
    assert CSVLogger(tmp_path, name=None, version=3).log_dir == str(tmp_path / "version_3")


def test_saving_appends_and_a_new_column_rewrites(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1}, 0)
    logger.save()
    before = os.stat(Path(logger.log_dir, "metrics.csv")).st_ino
    logger.log_metrics({"a": 2}, 1)
    logger.save()
    assert os.stat(Path(logger.log_dir, "metrics.csv")).st_ino == before
    logger.log_metrics({"b": 0.5}, 1)
    logger.save()
    assert text(logger) == "a,step,b\n1,0,\n2,1,\n,1,0.5\n"
    assert logger.experiment.metrics == [
        {"a": 1, "step": 0},
        {"a": 2, "step": 1},
        {"step": 1, "b": 0.5},
    ]
    assert not logger.experiment._pending


def test_a_failed_save_keeps_its_rows(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1}, 0)
    logger.save()
    path = Path(logger.log_dir, "metrics.csv")
    with open(path, "a") as file:
        file.write("2,")  # half a row, as a full disk leaves it
    moved = path.with_name("away")
    path.rename(moved)
    path.mkdir()
    logger.log_metrics({"a": 2}, 1)
    with pytest.raises(IsADirectoryError):
        logger.save()
    path.rmdir()
    moved.rename(path)
    logger.save()
    assert text(logger) == "a,step\n1,0\n2,1\n"


def test_an_earlier_run_is_replaced_with_a_warning(tmp_path: Path) -> None:
    for value in (1, 2):
        logger = CSVLogger(tmp_path, version=0)
        logger.log_metrics({"a": value}, 5)
        if value == 1:
            logger.save()
    with pytest.warns(UserWarning, match="of an earlier run and is replaced"):
        logger.save()
    assert text(logger) == "a,step\n2,5\n"


def test_resume_keeps_the_rows_below_the_step(tmp_path: Path) -> None:
    first = CSVLogger(tmp_path, version=0)
    for step in range(4):
        first.log_metrics({"a": step / 2}, step)
    first.log_metrics({"late": 1.0}, 3)
    first.save()
    with open(Path(first.log_dir, "metrics.csv"), "a") as file:
        file.write("7.5")  # torn by a kill: no step
    second = CSVLogger(tmp_path, version=0)
    second.resume(2)
    second.log_metrics({"a": 9.0}, 2)
    second.save()
    assert text(second) == "a,step\n0.0,0\n0.5,1\n9.0,2\n"
    third = CSVLogger(tmp_path, version=0)
    third.resume(0)
    third.log_metrics({"b": 1}, 0)
    third.save()
    assert text(third) == "b,step\n1,0\n"


def test_only_rank_zero_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()
    logger.experiment.anything("at all")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.ones(2), ValueError, r"'net/a' is a tensor of shape \(2,\).*mean\(\)"),
        (torch.ones(0), ValueError, r"shape \(0,\)"),
    ],
)
def test_a_value_that_is_no_number_is_refused(
    tmp_path: Path, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        CSVLogger(tmp_path).log_metrics({"net": {"a": value}}, 0)


def test_a_wrong_folder_is_refused() -> None:
    with pytest.raises(TypeError, match=r"save_dir=3\).*int"):
        CSVLogger(3)  # type: ignore[arg-type]


def test_a_process_that_writes_nothing_counts_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = CSVLogger(tmp_path)
    monkeypatch.setenv("RANK", "1")
    logger.log_metrics({"loss": 0.5}, 1)
    logger.finalize("success")
    assert logger.state_dict() == {"rows": 0} and not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    logger.log_metrics({"loss": 0.5}, 1)
    assert logger.state_dict() == {"rows": 1}

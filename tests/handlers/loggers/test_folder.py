"""Loggers whose folder is elsewhere: what arrives there, when, and what is left here."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.cli_objects import SaveConfigCallback
from leyden.exceptions import MisconfigurationException
from leyden.handlers.journal import Journal, read_journal
from leyden.handlers.loggers import CSVLogger, LightningLoggerBase, TensorBoardLogger
from leyden.handlers.loggers.folder import Mirror, next_version
from tests.trainer.tiny import BATCHES, Tiny, data, trainer

fsspec = pytest.importorskip("fsspec", reason="the package fsspec is missing")


@pytest.fixture
def store() -> Iterator[Any]:
    """The file system ``memory://``, empty."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    yield found
    found.store.clear()
    found.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the temporary folders go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def files(store: Any) -> list[str]:
    return sorted(store.find("/"))


def test_rows_arrive_with_save(store: Any) -> None:
    logger = CSVLogger("memory://runs", name="mine")
    assert logger.log_dir == "memory://runs/mine/version_0" and logger.version == 0
    assert logger.save_dir == "memory://runs" and not files(store)
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"loss": 0.5}, 1)
    assert not files(store)
    logger.save()
    assert files(store) == [f"/runs/mine/version_0/{n}" for n in ("hparams.yaml", "metrics.csv")]
    assert store.cat("/runs/mine/version_0/hparams.yaml") == b"lr: 0.1\n"
    logger.log_metrics({"loss": 0.25}, 2)
    logger.finalize("success")
    assert store.cat("/runs/mine/version_0/metrics.csv").split() == [
        b"loss,step",
        b"0.5,1",
        b"0.25,2",
    ]
    assert CSVLogger("memory://runs", name="mine").version == 1


def test_a_run_goes_on_with_what_is_there(store: Any) -> None:
    first = CSVLogger("memory://runs", version="v")
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step)
    first.save()
    state = {"rows": 2}
    second = CSVLogger("memory://runs", version="v")
    second.resume(2, state)
    second.log_metrics({"loss": 9.0}, 2)
    second.save()
    rows = store.cat("/runs/default/v/metrics.csv").split()
    assert rows == [b"loss,step", b"0.0,0", b"1.0,1", b"9.0,2"]
    again = CSVLogger("memory://runs", version="v")
    again.resume(0)
    again.finalize("success")
    there = files(store)
    assert there == ["/runs/default/v/hparams.yaml"], "a file without rows is removed there too"


def test_an_earlier_file_is_replaced_with_a_warning(store: Any) -> None:
    first = CSVLogger("memory://runs", version="v")
    first.log_metrics({"a": 1.0}, 0)
    first.save()
    second = CSVLogger("memory://runs", version="v")
    second.log_metrics({"b": 2.0}, 0)
    with pytest.warns(UserWarning, match="is of an earlier run and is replaced"):
        second.save()
    assert store.cat("/runs/default/v/metrics.csv").split() == [b"b,step", b"2.0,0"]


def test_event_files_arrive(store: Any, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="the package tensorboard is missing",
    )
    logger = TensorBoardLogger("memory://runs", name="tb", version=3)
    logger.log_hyperparams({"lr": 0.1})
    for step in range(3):
        logger.log_metrics({"loss": torch.tensor(step / 2)}, step)
    logger.experiment.add_histogram("weights", torch.arange(10.0), 0)
    logger.close()
    (name,) = [one for one in files(store) if "tfevents" in one]
    assert name.startswith("/runs/tb/version_3/")
    assert "/runs/tb/version_3/hparams.yaml" in files(store)
    (tmp_path / "events").mkdir()
    store.get_file(name, str(tmp_path / "events" / name.rpartition("/")[2]))
    found = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(row.step, row.value) for row in found.Scalars("loss")] == [(0, 0), (1, 0.5), (2, 1)]
    assert found.Tags()["histograms"] == ["weights"]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_run(kind: Any, store: Any, tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        max_epochs=2,
        logger=kind("memory://runs", name="mine"),
        checkpoint_callback=True,
        log_every_n_steps=1,
        profiler="trace",
    )
    made.fit(Tiny(), data(), data(2))
    assert made.log_dir == "memory://runs/mine/version_0"
    there = files(store)
    assert any(name.endswith(".ckpt") for name in there)
    lines = list(read_journal("memory://runs/mine/version_0/journal.jsonl"))
    assert [line["event"] for line in lines][-3:] == ["checkpoint", "validation", "end"]
    assert lines[0]["event"] == "start"
    assert made.profiler.path == str(tmp_path / "trace.json")
    assert os.path.exists(made.profiler.path)
    assert not os.path.exists("memory:")
    if kind is CSVLogger:
        rows = store.cat("/runs/mine/version_0/metrics.csv").decode().splitlines()
        assert len(rows) == 1 + 2 * (BATCHES + 2)


def test_the_configuration_of_a_command_line_goes_there(store: Any, tmp_path: Path) -> None:
    def fit() -> None:
        made = trainer(
            tmp_path,
            max_epochs=1,
            logger=CSVLogger("memory://runs", version="v"),
            callbacks=[SaveConfigCallback("a: 1\n")],
        )
        made.fit(Tiny(), data(), data(2))

    fit()
    assert store.cat("/runs/default/v/config.yaml") == b"a: 1\n"
    assert not os.path.exists("memory:")
    with pytest.raises(MisconfigurationException, match="memory://runs.*is there already"):
        fit()


def test_the_default_logger_follows_the_root(store: Any) -> None:
    made = trainer("memory://root", max_epochs=1, logger=True, log_every_n_steps=1)
    made.fit(Tiny(), data(), data(2))
    (name,) = [one for one in files(store) if "tfevents" in one]
    assert name.startswith("/root/lightning_logs/version_0/")


def test_a_checkpoint_finds_its_rows(store: Any) -> None:
    logger = CSVLogger("memory://runs", version="v")
    logger.log_metrics({"loss": 0.5}, 1)
    logger.save()
    assert logger._mirror is not None
    logger._mirror._next = float("inf")
    logger.log_metrics({"loss": 0.25}, 2)
    logger.save()
    assert store.cat("/runs/default/v/metrics.csv").count(b"\n") == 2, "the last copy is too new"
    assert logger.state_dict() == {"rows": 2}
    assert store.cat("/runs/default/v/metrics.csv").count(b"\n") == 3


def test_slow_copies_are_rare(store: Any, tmp_path: Path) -> None:
    now = [100.0]
    mirror = Mirror("memory://slow", clock=lambda: now[0])
    copied: list[float] = []

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def put_file(self, *given: Any) -> None:
            copied.append(now[0])
            now[0] += 2.0

    mirror._filesystem = Slow()
    path = Path(mirror.folder, "a")
    for size in range(100):
        path.write_text("x" * (size + 1))
        mirror.push()
        now[0] += 1.0
    assert copied == [100.0, 142.0, 184.0]
    mirror.push(force=True)
    assert len(copied) == 4


def test_a_failed_copy_is_told_and_made_good(store: Any) -> None:
    logger = CSVLogger("memory://runs", version="v")
    logger.log_metrics({"loss": 0.5}, 1)
    logger.save()
    mirror = logger._mirror
    assert mirror is not None

    class Down:
        def __getattr__(self, name: str) -> Any:
            raise OSError("no route to host")

    mirror._filesystem = Down()
    logger.log_metrics({"loss": 0.25}, 2)
    assert logger.state_dict() == {"rows": 2}, "a checkpoint is saved all the same"
    with pytest.raises(OSError, match="no route"):
        logger.finalize("success")
    mirror._filesystem = store
    logger.finalize("success")
    assert store.cat("/runs/default/v/metrics.csv").count(b"\n") == 3


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_nothing_stays_here(kind: Any, store: Any, temporary: Path) -> None:
    logger = kind("memory://runs", version="v")
    logger.log_metrics({"loss": 0.5}, 1)
    logger.save()
    assert len(list(temporary.iterdir())) == 1
    copied = pickle.loads(pickle.dumps(logger))
    assert copied.log_dir == logger.log_dir
    del logger
    assert not list(temporary.iterdir())
    copied.resume(2)
    copied.log_metrics({"loss": 0.25}, 2)
    copied.close()
    assert len(list(temporary.iterdir())) == 1
    if kind is CSVLogger:
        assert store.cat("/runs/default/v/metrics.csv").split()[1:] == [b"0.5,1", b"0.25,2"]


def test_a_journal_is_appended_to(store: Any) -> None:
    for number in range(2):
        journal = Journal("memory://runs/j.jsonl")
        journal.note("start", number=number)
        journal.flush()
        journal.flush()
    store.pipe_file("/runs/j.jsonl", store.cat("/runs/j.jsonl") + b'{"event": "to')
    journal.note("end")
    journal.flush()
    lines = list(read_journal("memory://runs/j.jsonl"))
    assert [line["event"] for line in lines] == ["start", "start", "end"]


def test_versions_are_counted_by_folders(store: Any, tmp_path: Path) -> None:
    assert next_version("memory://runs") == 0
    for name in ("version_2/a", "version_7", "version_x/a", "other/a"):
        store.pipe_file(f"/runs/{name}", b"")
    assert next_version("memory://runs") == 3
    for name in ("version_4", "old"):
        (tmp_path / name).mkdir()
    (tmp_path / "version_9").touch()
    assert next_version(str(tmp_path)) == 5
    assert next_version(str(tmp_path / "none")) == 0


def test_a_file_address_is_an_address(tmp_path: Path) -> None:
    logger = CSVLogger(f"file://{tmp_path}/runs", name="deep")
    logger.log_metrics({"loss": 0.5}, 1)
    logger.close()
    assert (tmp_path / "runs" / "deep" / "version_0" / "metrics.csv").exists()
    assert CSVLogger(f"file://{tmp_path}/runs", name="deep").version == 1


def test_both_are_one_kind() -> None:
    for kind in (CSVLogger, TensorBoardLogger):
        assert issubclass(kind, LightningLoggerBase)
        assert kind.NAME_HPARAMS_FILE == "hparams.yaml" and kind.LOGGER_JOIN_CHAR == "-"

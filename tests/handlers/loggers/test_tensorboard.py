"""TensorBoardLogger: what tensorboard's own reader finds in its files."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.handlers.loggers import TensorBoardLogger, event_file

pytest.importorskip("tensorboardX", reason="the package tensorboardX is missing")
accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="the package tensorboard, which reads the files back, is missing",
)


def read(folder: str | Path) -> Any:
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    return found.Reload()


def scalars(folder: str | Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def event_files(folder: str | Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("events.out.tfevents"))


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[TensorBoardLogger]:
    made = TensorBoardLogger(tmp_path, name="tb", version="v", prefix="")
    yield made
    made.close()


def test_scalars_are_read_back_with_step_and_time(logger: TensorBoardLogger) -> None:
    for step in range(30):
        logger.log_metrics({"a": torch.tensor(step / 2), "b/c d": step, "epoch": 0}, step)
    # Nothing was flushed or closed: a killed run has lost nothing.
    assert scalars(logger.log_dir, "a") == [(step, step / 2) for step in range(30)]
    assert scalars(logger.log_dir, "b/c_d") == [(step, float(step)) for step in range(30)]
    times = [event.wall_time for event in read(logger.log_dir).Scalars("a")]
    assert times == sorted(times) and times[0] > 1.7e9


def test_hyperparameters_bring_their_metric_once(logger: TensorBoardLogger) -> None:
    logger.log_hyperparams({"lr": 0.1, "net": {"width": 4, "act": None}})
    logger.log_metrics({"hp_metric": 0.5}, 3)
    logger.log_hyperparams({"lr": 0.1})
    logger.save()
    assert scalars(logger.log_dir, "hp_metric") == [(0, -1.0), (3, 0.5)]
    metadata = read(logger.log_dir).summary_metadata
    session = metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"lr" in session
    assert "_hparams_/experiment" in metadata
    yaml = Path(logger.log_dir, "hparams.yaml").read_text()
    assert yaml == "lr: 0.1\nnet:\n  act: null\n  width: 4\n"


def test_hyperparameters_with_metrics_or_without(tmp_path: Path) -> None:
    one = TensorBoardLogger(tmp_path, version=0)
    one.log_hyperparams({"lr": 1}, {"score": 2.0})
    one.close()
    assert scalars(one.log_dir, "score") == [(0, 2.0)]
    number = TensorBoardLogger(tmp_path, version=1)
    number.log_hyperparams({"lr": 1}, 7)
    number.close()
    assert scalars(number.log_dir, "hp_metric") == [(0, 7.0)]
    none = TensorBoardLogger(tmp_path, version=2, default_hp_metric=False)
    none.log_hyperparams({"lr": 1})
    none.close()
    assert os.listdir(none.log_dir) == ["hparams.yaml"]


def test_folders_and_versions(tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path)
    assert (first.version, first.log_dir) == (0, str(tmp_path / "default" / "version_0"))
    assert not list(tmp_path.iterdir())  # nothing is made before something is logged
    first.log_metrics({"a": 1.0}, 0)
    first.close()
    assert TensorBoardLogger(tmp_path).version == 1
    assert TensorBoardLogger(tmp_path, name="", version="x").log_dir == str(tmp_path / "x")


def test_logging_after_finalize_loses_nothing(logger: TensorBoardLogger) -> None:
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    logger.log_metrics({"a": 2.0}, 1)
    logger.finalize("success")
    assert len(event_files(logger.log_dir)) == 2
    assert scalars(logger.log_dir, "a") == [(0, 1.0), (1, 2.0)]


def test_resume_drops_what_comes_again(tmp_path: Path) -> None:
    killed = TensorBoardLogger(tmp_path, version=0)
    for step in range(5):
        killed.log_metrics({"a": float(step)}, step)
    killed.close()
    resumed = TensorBoardLogger(tmp_path, version=0)
    resumed.resume(3)
    resumed.log_metrics({"a": 30.0}, 3)
    resumed.close()
    assert scalars(resumed.log_dir, "a") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_full_disk_raises_and_leaves_a_readable_file(
    logger: TensorBoardLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger.log_metrics({"a": 1.0}, 0)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(event_file.os, "write", lambda fd, data: real(fd, data[:7]))
        with pytest.raises(OSError, match="No space left"):
            logger.log_metrics({"a": 2.0}, 1)
    logger.log_metrics({"a": 3.0}, 2)
    assert scalars(logger.log_dir, "a") == [(0, 1.0), (2, 3.0)]


@pytest.mark.slow
def test_graph_leaves_the_model_and_the_random_state_alone(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, version=0, log_graph=True)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout())
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    logger.log_graph(model, torch.ones(4, 2))
    logger.close()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True]
    assert len(read(logger.log_dir).Graph().node) > 3


def test_graph_without_an_input_warns(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.warns(UserWarning, match="example_input_array"):
        TensorBoardLogger(tmp_path, log_graph=True).log_graph(model)
    TensorBoardLogger(tmp_path).log_graph(model)  # switched off: silent
    assert not list(tmp_path.iterdir())


def test_the_experiment_does_the_rest(logger: TensorBoardLogger) -> None:
    logger.experiment.add_histogram("weights", torch.arange(10.0), 1)
    logger.experiment.add_image("picture", torch.zeros(3, 2, 2), 1)
    logger.experiment.add_text("note", "hello", 1)
    logger.log_metrics({"pair": {"x": 1.0, "y": 2.0}}, 5)
    logger.save()
    found = read(logger.log_dir).Tags()
    assert found["histograms"] == ["weights"] and found["images"] == ["picture"]
    assert scalars(Path(logger.log_dir, "pair", "x"), "pair") == [(5, 1.0)]
    logger.experiment.add_scalars("pair", {"x": 3.0, "z": 4.0}, 6)
    assert scalars(Path(logger.log_dir, "pair", "x"), "pair") == [(5, 1.0), (6, 3.0)]
    assert scalars(Path(logger.log_dir, "pair", "z"), "pair") == [(6, 4.0)]
    assert len(event_files(Path(logger.log_dir, "pair", "x"))) == 1
    with pytest.raises(ValueError, match="the metric 'pair/x' is 'text'"):
        logger.log_metrics({"pair": {"x": "text"}}, 7)


def test_nothing_is_written_where_that_is_asked_for(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, write_to_disk=False)
    logger.log_metrics({"a": 1.0, "pair": {"x": 2.0}}, 1)
    logger.experiment.add_scalar("b", 1.0)
    logger.close()
    assert not list(tmp_path.rglob("*tfevents*"))


def test_what_is_no_number_is_refused(logger: TensorBoardLogger) -> None:
    with pytest.raises(ValueError, match=r"'a' is 'text' of type str.*logger.experiment"):
        logger.log_metrics({"a": "text"}, 0)


def test_a_logger_travels_to_another_process(logger: TensorBoardLogger) -> None:
    logger.log_metrics({"a": 1.0}, 0)
    copy = pickle.loads(pickle.dumps(logger))
    copy.log_metrics({"a": 2.0}, 1)
    copy.close()
    assert len(event_files(logger.log_dir)) == 2


def test_what_use_metadata_says_counts(logger: TensorBoardLogger) -> None:
    with logger.experiment.use_metadata(global_step=7, walltime=1.75e9):
        logger.log_metrics({"a": 1.0})
        logger.log_metrics({"a": 2.0}, 8)
    found = [(row.step, row.value, row.wall_time) for row in read(logger.log_dir).Scalars("a")]
    assert found == [(7, 1.0, 1.75e9), (8, 2.0, 1.75e9)]

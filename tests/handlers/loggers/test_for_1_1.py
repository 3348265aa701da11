"""What loggers written for Lightning 1.1 call, and what tests of theirs stand in for."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import leyden
from leyden.engine.errors import MisconfigurationException
from leyden.handlers.loggers import (
    LightningLoggerBase,
    LoggerCollection,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
    rank_zero_only,
)
from tests.trainer.tiny import Tiny, data


class Mine(LightningLoggerBase):
    def __init__(self) -> None:
        super().__init__()
        self._prefix = "p"
        self.rows: list[Mapping[str, Any]] = []
        self.params: Any = None

    @property
    def experiment(self) -> str:
        return "mine"

    @property
    def name(self) -> str:
        return "mine"

    @property
    def version(self) -> str:
        return "1"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.rows.append(self._add_prefix(metrics))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        flat = self._flatten_dict(self._convert_params(params))
        self.params = self._sanitize_params(self._sanitize_callable_params(flat))


def test_parameters_become_flat_and_plain() -> None:
    logger = Mine()
    logger.log_hyperparams(Namespace(net={"act": None, 3: 2}, sizes=[1, 2], make=lambda: 7))
    assert logger.params == {"net/act": "None", "net/3": 2, "sizes": "[1, 2]", "make": 7}
    logger.log_metrics({"a": 1.0})
    assert logger.rows == [{"p-a": 1.0}]


def test_the_rank_can_be_read_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert rank_zero_only.rank == 3
    monkeypatch.delenv("RANK")
    logger = Mine()
    with mock.patch.object(rank_zero_only, "rank", 1):
        logger.log_metrics({"a": 1.0})
    assert logger.rows == [] and rank_zero_only.rank == 0


def test_a_row_is_handed_over_by_name_and_the_graph_alone() -> None:
    logger, model = Mine(), Tiny()
    trainer = leyden.Trainer(
        max_epochs=1,
        logger=logger,
        checkpoint_callback=False,
        progress_bar_refresh_rate=0,
        weights_summary=None,
        log_every_n_steps=1,
    )
    with (
        mock.patch.object(logger, "log_metrics") as rows,
        mock.patch.object(logger, "log_graph") as graph,
    ):
        trainer.fit(model, data(), data())
    assert rows.call_args_list and all(
        set(k) == {"metrics", "step"} for _, k in rows.call_args_list
    )
    graph.assert_called_once_with(model)


def test_a_collection_takes_what_logs() -> None:
    one = mock.MagicMock()
    LoggerCollection([one]).log_metrics({"a": 1.0}, 2)
    assert one.log_metrics.called
    with pytest.raises(TypeError, match="is no logger"):
        LoggerCollection(["not one"])  # type: ignore[list-item]


class Writer(mock.MagicMock):
    """Stands for a SummaryWriter of another package."""


def test_tensorboard_writes_through_a_writer_of_the_users(tmp_path: Path) -> None:
    writer = Writer()

    class Mine(TensorBoardLogger):
        @property
        def experiment(self) -> Any:
            return writer

    logger = Mine(tmp_path, prefix="p")
    logger.log_metrics({"loss": 0.5, "two": {"a": 1, "b": 2}}, 3)
    writer.add_scalar.assert_called_once_with("p-loss", 0.5, 3)
    writer.add_scalars.assert_called_once_with("p-two", {"a": 1, "b": 2}, 3)
    logger.resume(2)
    writer._get_file_writer.return_value.add_event.assert_not_called()


def test_hyperparameters_through_torchs_writer(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is missing")
    logger = TensorBoardLogger(tmp_path)
    logger._experiment = tensorboard.SummaryWriter(tmp_path / "torch")
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("success")
    assert list((tmp_path / "torch").iterdir())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a package in wandb's place that has begun a run."""
    package = mock.MagicMock()
    package.run.id = "r1"
    monkeypatch.setattr("leyden.handlers.loggers.wandb.wandb", package, raising=False)
    return package.run


def test_wandb_logs_to_the_run_that_is_there(run: Any) -> None:
    run.project_name.return_value = "demo"
    logger = WandbLogger()
    logger.log_metrics({"loss": 0.5}, 3)
    run.log.assert_called_once_with({"loss": 0.5, "trainer/global_step": 3})
    assert (logger.version, logger.name) == ("r1", "demo")


def test_wandb_begins_a_run_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    package = mock.MagicMock(run=None)
    monkeypatch.setattr("leyden.handlers.loggers.wandb.wandb", package, raising=False)
    _ = WandbLogger("n", None, True, "id", True).experiment
    package.init.assert_called_once_with(
        name="n", dir=None, project=None, id="id", resume="allow", mode="offline", anonymous="allow"
    )
    with pytest.raises(MisconfigurationException, match="log_model=True.*in offline mode"):
        WandbLogger(offline=True, log_model=True)


def test_mlflow_gets_no_names_that_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    client, package = mock.MagicMock(), mock.MagicMock()
    monkeypatch.setattr("leyden.handlers.loggers.mlflow.MlflowClient", client, raising=False)
    monkeypatch.setattr("leyden.handlers.loggers.mlflow.mlflow", package, raising=False)
    logger = MLFlowLogger("demo")
    with pytest.warns(RuntimeWarning, match="special characters.*'a/b c.d-e\\[0\\]'"):
        logger.log_metrics({"a/b c.d-e[0]": 1.0})
    assert package.entities.Metric.call_args.args[:2] == ("a/b c.d-e0", 1.0)
    client.return_value.log_batch.assert_called_once()

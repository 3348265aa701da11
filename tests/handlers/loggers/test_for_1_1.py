"""What loggers written for Lightning 1.1 call, and what tests of theirs stand in for."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest

import leyden
from leyden.handlers.loggers import LightningLoggerBase, LoggerCollection, rank_zero_only
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

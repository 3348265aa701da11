"""LearningRateMonitor: what is logged, when, and under which name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.lr_monitor import LearningRateMonitor
from tests.handlers.callback_runs import Run
from tests.handlers.fake_logger import FakeLogger


def monitored(tmp_path: Path, entries: Any, epochs: int = 2, **arguments: Any) -> tuple[Any, Any]:
    """The monitor after a run, and what it logged; the run steps no scheduler itself."""
    monitor, logger = LearningRateMonitor(**arguments), FakeLogger()
    run = Run(tmp_path, [monitor], logger=logger, log_every_n_steps=2)
    run.lr_schedulers = entries(run.optimizers[0])
    rates = iter([1.0, 0.5, 0.25, 0.125, 0.1, 0.05, 0.025, 0.0125])

    def change(run: Run) -> None:
        run.optimizers[0].param_groups[0]["lr"] = next(rates)

    run.on_batch = change
    run.fit(epochs)
    return monitor, logger.rows


def entry(optimizer: Any, **more: Any) -> dict[str, Any]:
    return {"scheduler": StepLR(optimizer, 1), "interval": "epoch", "name": None, **more}


def test_by_step(tmp_path: Path) -> None:
    monitor, rows = monitored(tmp_path, lambda o: [entry(o)], logging_interval="step")
    assert rows == [
        (1, {"lr-SGD": 1.0}),
        (3, {"lr-SGD": 0.25}),
        (5, {"lr-SGD": 0.1}),
        (7, {"lr-SGD": 0.025}),
    ]
    assert monitor.lrs == {"lr-SGD": [1.0, 0.25, 0.1, 0.025]}


def test_by_epoch(tmp_path: Path) -> None:
    monitor, rows = monitored(tmp_path, lambda o: [entry(o)], logging_interval="epoch")
    assert rows == [(0, {"lr-SGD": 0.1}), (4, {"lr-SGD": 0.125})]


def test_each_by_its_own_interval_and_name(tmp_path: Path) -> None:
    entries = lambda o: [entry(o), entry(o, interval="step", name="mine")]  # noqa: E731
    monitor, rows = monitored(tmp_path, entries, epochs=1, log_momentum=True)
    assert rows == [
        (0, {"lr-SGD": 0.1, "lr-SGD-momentum": 0.9}),
        (1, {"mine": 1.0, "mine-momentum": 0.9}),
        (3, {"mine": 0.25, "mine-momentum": 0.9}),
    ]
    assert monitor.lr_sch_names == ["lr-SGD", "mine"]


def test_names_of_groups_and_of_several_of_a_class(tmp_path: Path) -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = torch.optim.Adam(
        [{"params": [w], "lr": 0.1 * (i + 1)} for i, w in enumerate(weights)], weight_decay=0.5
    )
    entries = lambda o: [entry(o), entry(o), entry(groups)]  # noqa: E731
    monitor, rows = monitored(
        tmp_path, entries, 1, logging_interval="epoch", log_momentum=True, log_weight_decay=True
    )
    assert monitor.lr_sch_names == ["lr-SGD", "lr-SGD-1", "lr-Adam"]
    assert list(monitor.lrs) == ["lr-SGD", "lr-SGD-1", "lr-Adam/pg1", "lr-Adam/pg2"]
    values = rows[0][1]
    assert values["lr-Adam/pg2"] == 0.2 and values["lr-Adam-momentum/pg1"] == 0.9
    assert values["lr-Adam-weight_decay/pg2"] == 0.5 and values["lr-SGD-1-weight_decay"] == 0.0


def test_no_logger_no_scheduler_no_momentum(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="no logger"):
        Run(tmp_path, [LearningRateMonitor()]).fit(1)
    with pytest.warns(RuntimeWarning, match="have no learning rate schedulers"):
        assert monitored(tmp_path, lambda o: [], epochs=1)[1] == []
    rough = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))])
    with pytest.warns(RuntimeWarning, match="do not have momentum, 0 is logged"):
        rows = monitored(tmp_path, lambda o: [entry(rough)], 1, log_momentum=True)[1]
    assert rows[0][1]["lr-Adagrad-momentum"] == 0.0


def test_a_bad_interval_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="logging_interval='batch'"):
        LearningRateMonitor("batch")

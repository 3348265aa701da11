"""Schedulers: when each steps, and what is said where its metric is missing."""

from typing import Any

import pytest
import torch

from leyden.engine.errors import MisconfigurationException
from leyden.handlers import GradientAccumulation, LRSchedulers
from tests.handlers.small_runs import BATCHES, Small


def rate(entry: dict[str, Any], *handlers: Any, epochs: int = 2, metrics: Any = None) -> float:
    """The factor by which the rate fell: 0.5 to the number of steps."""
    run = Small(*handlers)
    scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 1, 0.5)
    defaults = {"frequency": 1, "reduce_on_plateau": False, "monitor": None, "strict": True}
    LRSchedulers([{"scheduler": scheduler, **defaults, **entry}], metrics or dict).attach(
        run.engine
    )
    run.run(epochs)
    return run.optimizer.param_groups[0]["lr"] / 0.1


@pytest.mark.parametrize(
    ("entry", "steps"),
    [
        ({"interval": "epoch"}, 3),
        ({"interval": "epoch", "frequency": 2}, 1),
        ({"interval": "step"}, 3 * BATCHES),
        ({"interval": "step", "frequency": 2}, 3 * BATCHES // 2),
        ({"interval": "step", "frequency": 3}, 3),
    ],
)
def test_by_interval_and_frequency(entry: dict[str, Any], steps: int) -> None:
    assert rate(entry, epochs=3) == 0.5**steps


def test_by_step_only_where_the_optimizer_stepped() -> None:
    assert rate({"interval": "step"}, GradientAccumulation(2)) == 0.5**4


def plateau(strict: bool, metrics: dict[str, Any], **arguments: Any) -> float:
    run = Small()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(run.optimizer, factor=0.5, patience=0)
    entry = {
        "scheduler": scheduler,
        "interval": "epoch",
        "frequency": 1,
        "reduce_on_plateau": True,
        "monitor": "score",
        "strict": strict,
    }
    LRSchedulers([entry], lambda: metrics, **arguments).attach(run.engine)
    run.run(3)
    return float(run.optimizer.param_groups[0]["lr"])


def test_a_plateau_reads_its_metric() -> None:
    assert plateau(True, {"score": torch.tensor(1.0)}) == 0.1 * 0.5**2


def test_a_missing_metric_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(MisconfigurationException, match=r"'score' which is not available.*'other'"):
        plateau(True, {"other": 1.0})


def test_or_a_warning_where_it_is_not_strict() -> None:
    said: list[str] = []
    assert plateau(False, {"other": 1.0}, warn=said.append) == 0.1
    assert len(said) == 3 and "skips a step: 'score' is not among ['other']" in said[0]

"""What self.log costs: the call alone, and all of it in a training iteration with default settings.

Bounds, in microseconds: the call 2; one value a step 3 an iteration; ten values 25.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leyden.handlers.metrics import MetricRecorder

BATCHES = 1000
"""Iterations a round: twenty written rows and sixteen folds of the running means are in it."""


class Sink:
    """A logger that costs nothing."""

    def __init__(self) -> None:
        self.rows = 0

    def log_row(self, metrics: dict[str, float], step: int) -> None:
        self.rows += 1


class Setting:
    """A recorder in a training step over a batch of 32."""

    def __init__(self) -> None:
        self.sink = Sink()
        batch = (torch.zeros(32, 64), torch.zeros(32))
        self.state = SimpleNamespace(
            epoch=1, global_step=0, batch=batch, optimizer_idx=None, split_idx=None
        )
        self.recorder = MetricRecorder(logger=self.sink)
        self.recorder.bind(self.state)
        self.recorder.train_epoch_started()
        self.recorder.hook = "training_step"

    def iterations(self, values: list[Any], on_step: Any, on_epoch: Any) -> Callable[[], None]:
        log, ended, state, mean = (
            self.recorder.log,
            self.recorder.train_batch_ended,
            self.state,
            torch.mean,
        )
        named = [(f"value_{i}", value) for i, value in enumerate(values)]

        def run() -> None:
            for step in range(BATCHES):
                state.global_step = step
                for name, value in named:
                    log(
                        None, name, value, False, True, on_step, on_epoch, mean, False, False,
                        "mean", None, True, None, False,
                    )  # fmt: skip
                ended(write=True)

        return run


def _value(kind: str) -> Any:
    if kind == "number":
        return 0.5
    weight = torch.tensor(2.0, requires_grad=True)
    loss = weight * 3
    return loss if kind == "loss" else loss.detach()


@pytest.mark.parametrize("kind", ["loss", "plain", "number"])
@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("when", ["step", "step_and_epoch"])
def test_log_in_an_iteration(benchmark: Any, kind: str, count: int, when: str) -> None:
    setting = Setting()
    on_epoch = None if when == "step" else True
    benchmark.extra_info["iterations_a_round"] = BATCHES
    if when == "step":
        benchmark.extra_info["bound_us"] = 3 if count == 1 else 25
    benchmark(setting.iterations([_value(kind)] * count, None, on_epoch))
    assert setting.sink.rows and setting.sink.rows % (BATCHES // 50) == 0
    expected = _value(kind)
    shown = setting.recorder.callback_metrics["value_0"]
    assert shown == expected
    if on_epoch:
        setting.recorder.train_epoch_ended(None)
        assert setting.recorder.callback_metrics["value_0_epoch"] == expected


def test_log_call(benchmark: Any) -> None:
    """One call with on_step and on_epoch and a loss that has a graph, without the batch's end."""
    setting = Setting()
    recorder, loss, mean = setting.recorder, _value("loss"), torch.mean
    names = [f"value_{i}" for i in range(BATCHES)]

    def clear() -> tuple[Any, Any]:
        recorder.train_batch_ended(write=False)
        return (), {}

    def run() -> None:
        log = recorder.log
        for name in names:
            log(
                None, name, loss, False, True, True, True, mean, False, False, "mean", None, True,
                None, False,
            )  # fmt: skip

    run()  # the first call of each name makes its record
    benchmark.extra_info["iterations_a_round"] = BATCHES
    benchmark.extra_info["bound_us"] = 2
    benchmark.pedantic(run, setup=clear, rounds=30)
    recorder.train_epoch_ended(None)
    assert recorder.callback_metrics["value_0_epoch"] == 6.0

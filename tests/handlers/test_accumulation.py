"""Accumulation: the factor in force in each epoch, and its effect on the weights."""

from typing import Any

import pytest
import torch

from leyden.engine import Engine, Events
from leyden.handlers import GradientAccumulation
from leyden.handlers.accumulation import factor_at
from tests.handlers.small_runs import BATCHES, Small, by_hand


@pytest.mark.parametrize("factor", [2, 3, BATCHES, 9])
def test_the_last_batch_of_an_epoch_always_steps(factor: int) -> None:
    run = Small(GradientAccumulation(factor)).run(epochs=3)
    assert run.state.optimizer_steps == 3 * -(-BATCHES // factor)
    assert torch.equal(run.weights, by_hand(epochs=3, factor=factor))


def test_a_schedule_changes_the_factor_where_it_says() -> None:
    factors: list[int] = []
    run = Small(GradientAccumulation({1: 2, 3: 4}))
    run.engine.listen(
        Events.EPOCH_COMPLETED, lambda engine: factors.append(run.state.accumulate_grad_batches)
    )
    run.run(epochs=5)
    assert factors == [1, 2, 2, 4, 4]
    assert [factor_at({1: 2, 3: 4}, epoch) for epoch in range(5)] == factors


def test_a_step_of_ones_own_reads_the_factor_from_the_state() -> None:
    seen = []
    engine = Engine(lambda engine, batch: seen.append(engine.state.accumulate_grad_batches))
    GradientAccumulation(3).attach(engine)
    engine.run([1, 2], max_epochs=1)
    assert seen == [3, 3]


@pytest.mark.parametrize(
    ("factor", "error", "message"),
    [
        (0, ValueError, "the factor 0 is below 1"),
        (True, TypeError, "the factor True is not an int"),
        (2.0, TypeError, "the factor 2.0 is not an int"),
        ({}, ValueError, "is empty"),
        ({-1: 2}, ValueError, "the epoch -1 is below 0"),
        ({"a": 2}, TypeError, "the epoch 'a' is not an int"),
    ],
)
def test_bad_factors_are_refused(factor: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradientAccumulation(factor)

"""Stopping: steps, requests, and the least that must run, on an engine without a Trainer."""

from typing import Any

import pytest

from leyden.engine import Events
from leyden.handlers import GradientAccumulation, Stopping
from tests.handlers.small_runs import BATCHES, Small


def stopped(at: int | None, epochs: int = 6, **arguments: Any) -> Small:
    """Run; ask for the stop once after batch ``at``."""
    stopping = Stopping(**arguments)
    run = Small(stopping)
    if at is not None:
        run.engine.listen(Events.ITERATION_COMPLETED(once=at), lambda engine: stopping.stop())
    return run.run(epochs)


@pytest.mark.parametrize("steps", [1, BATCHES, BATCHES + 1, 3 * BATCHES])
def test_max_steps(steps: int) -> None:
    ends: list[int] = []
    run = Small(Stopping(max_steps=steps))
    run.engine.listen(Events.EPOCH_COMPLETED, lambda engine: ends.append(run.state.iteration))
    run.run(epochs=9)
    assert run.state.optimizer_steps == steps == ends[-1]


def test_max_steps_counts_optimizer_steps_not_batches() -> None:
    run = Small(Stopping(max_steps=3), GradientAccumulation(2)).run(epochs=9)
    assert run.state.optimizer_steps == 3 and run.state.iteration == 6


@pytest.mark.parametrize(
    ("at", "arguments", "iterations"),
    [
        (None, {}, 24),
        (2, {}, 2),
        (4, {}, 4),
        (2, {"min_epochs": 3}, 12),
        (2, {"min_steps": 7}, 7),
        (2, {"min_steps": 8}, 8),
        (2, {"min_epochs": 2, "min_steps": 3}, 8),
        (10, {"min_epochs": 3}, 10),
        (2, {"min_epochs": 0}, 2),
        (2, {"min_epochs": 3, "max_steps": 5}, 5),
    ],
)
def test_a_stop_waits_for_what_must_run(
    at: int | None, arguments: dict[str, Any], iterations: int
) -> None:
    assert stopped(at, **arguments).state.iteration == iterations


def test_it_says_so_when_a_stop_has_to_wait() -> None:
    said: list[str] = []
    stopped(1, min_epochs=2, say=said.append)
    assert len(said) == 1 and "min_epochs=2 and min_steps=None are not reached yet" in said[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 0}, "max_steps=0 is below 1"),
        ({"min_steps": -1}, "min_steps=-1 is below 0"),
        ({"min_epochs": -1}, "min_epochs=-1 is below 0"),
    ],
)
def test_impossible_counts_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stopping(**arguments)


@pytest.mark.parametrize("event", [Events.GET_BATCH_STARTED, Events.ITERATION_STARTED])
@pytest.mark.parametrize("listened", [False, True])
def test_a_stop_before_the_step_lets_the_batch_that_begins_run(event: Any, listened: bool) -> None:
    stopping = Stopping()
    run = Small(stopping)
    steps: list[int] = []
    if listened:
        run.engine.listen(
            Events.ITERATION_COMPLETED, lambda engine: steps.append(engine.state.iteration)
        )
    at = event(once=2 if event is Events.ITERATION_STARTED else 1)
    run.engine.listen(at, lambda engine: stopping.stop())
    run.run(epochs=3)
    assert run.state.optimizer_steps == run.state.iteration == 2
    assert steps == ([1, 2] if listened else [])

"""The running loss: its window, undivided by accumulation, and nothing read early."""

import math

import pytest
import torch

from leyden.engine import Events
from leyden.handlers import GradientAccumulation, RunningLoss
from tests.handlers.small_runs import Small


def test_the_mean_of_the_last_steps() -> None:
    losses: list[torch.Tensor] = []
    running = RunningLoss(window=3)
    run = Small(running)
    run.engine.listen(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(run.state.output.clone())
    )
    assert running.mean() is None
    run.run()
    mean = running.mean()
    assert mean is not None and torch.equal(mean, torch.stack(losses[-3:]).mean())
    assert len(running.losses) == 3 and not mean.requires_grad


def test_a_group_counts_with_the_mean_of_its_batches() -> None:
    losses: list[torch.Tensor] = []
    running = RunningLoss()
    run = Small(running, GradientAccumulation(2))
    run.engine.listen(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(run.state.output.clone())
    )
    run.run(epochs=1, count=2)
    (found,) = running.losses
    # Divided by the factor and multiplied again.
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_before_the_first_step_of_a_group_it_is_not_a_number() -> None:
    running = RunningLoss()
    run = Small(running, GradientAccumulation(2))
    run.engine.listen(Events.ITERATION_COMPLETED(once=1), lambda engine: engine.terminate())
    run.run(epochs=1, count=4)
    mean = running.mean()
    assert mean is not None and math.isnan(float(mean))


def test_the_window_is_the_state() -> None:
    running = RunningLoss(window=2)
    Small(running).run()
    other = RunningLoss(window=2)
    other.load_state_dict(running.state_dict())
    first, second = running.mean(), other.mean()
    assert first is not None and second is not None and torch.equal(first, second)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window=0 is below 1"):
        RunningLoss(0)


def test_asked_for_late_the_last_batch_stands_for_its_group() -> None:
    running = RunningLoss()
    run = Small(GradientAccumulation(2))
    run.engine.listen(Events.ITERATION_COMPLETED(once=3), lambda engine: running.start(engine))
    run.run(epochs=1, count=4)
    (found,) = running.losses
    assert math.isfinite(float(found))

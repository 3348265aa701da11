"""Flushing: on the steps that are due, and at once where a stop was asked for."""

import pytest

from leyden.handlers import GradientAccumulation, LoggerFlush
from tests.handlers.small_runs import Small


@pytest.mark.parametrize(("every", "expected"), [(1, list(range(1, 9))), (3, [3, 6]), (9, [])])
def test_every_so_many_steps(every: int, expected: list[int]) -> None:
    saved: list[int] = []
    run = Small()
    LoggerFlush(lambda: saved.append(run.state.iteration), every_n_steps=every).attach(run.engine)
    run.run()
    assert saved == expected


def test_at_once_whatever_the_step() -> None:
    saved: list[int] = []
    run = Small(GradientAccumulation(2))
    LoggerFlush(
        lambda: saved.append(run.state.iteration), at_once=lambda: run.state.iteration == 5
    ).attach(run.engine)
    run.run()
    assert saved == [5]


def test_a_step_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="every_n_steps=0 is below 1"):
        LoggerFlush(lambda: None, every_n_steps=0)

"""How often processes ask one another: by the count of batches, and by the slowest one's time."""

from __future__ import annotations

import pytest

from leyden.handlers.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(pace: Pace, batches: int, seconds: float, clock: Clock, first: int = 1) -> list[int]:
    """After which of these batches, of so many seconds each, there is a question."""
    found = []
    for batch in range(first, first + batches):
        clock.now += seconds
        if pace.due(batch):
            found.append(batch)
            pace.heard(pace.measured(batch))
    return found


def test_quick_batches_have_fewer_and_fewer_questions() -> None:
    clock = Clock()
    found = asked(Pace(32, clock=clock), 130, 0.002, clock)
    assert found == [1, 2, 4, 8, 16, 32, 64, 96, 128]


@pytest.mark.parametrize(
    ("seconds", "apart"), [(0.02, 32), (0.04, 16), (0.1, 8), (0.3, 2), (0.6, 1), (60.0, 1)]
)
def test_not_more_than_a_second_goes_by_between_two(seconds: float, apart: int) -> None:
    clock = Clock()
    found = asked(Pace(32, clock=clock), 400, seconds, clock)
    assert {b - a for a, b in zip(found[10:], found[11:], strict=False)} == {apart}


def test_it_follows_batches_that_become_slow_and_quick_again() -> None:
    clock = Clock()
    pace = Pace(8, clock=clock)
    assert asked(pace, 16, 0.01, clock)[-2:] == [8, 16]
    assert asked(pace, 16, 0.5, clock, first=17) == [24, 26, 28, 30, 32]
    assert asked(pace, 24, 0.01, clock, first=33) == [34, 36, 40, 48, 56]


def test_the_slowest_process_counts() -> None:
    pace = Pace(32)
    for _ in range(9):
        pace.heard(100_000)
    assert pace.every == 8


def test_what_is_no_batch_is_not_measured() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    assert pace.measured(1) == 0
    clock.now += 0.5
    assert pace.measured(6) == 100_000
    pace.rest()
    clock.now += 900
    assert pace.measured(7) == 0


def test_most_is_a_bound_and_one_asks_after_each_batch() -> None:
    clock = Clock()
    assert asked(Pace(1, clock=clock), 5, 0.001, clock) == [1, 2, 3, 4, 5]
    assert asked(Pace(10, clock=clock), 33, 0.001, clock) == [1, 2, 4, 8, 16, 24, 32]

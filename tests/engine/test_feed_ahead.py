"""A feed that fetches one batch ahead and begins on it: the same numbers, and the same resume."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils.data import DataLoader

from leyden.engine.feed import Feed
from tests.engine.loader_runs import Noisy, loader, resumed, run, same, seed, stopped

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def begun(batch: Any) -> tuple[str, Any]:
    return "begun", batch


def ended(staged: tuple[str, Any]) -> Any:
    word, batch = staged
    assert word == "begun"
    return batch


def ahead(source: Any, **more: Any) -> Feed:
    return Feed(source, stage=begun, transfer=ended, ahead=True, **more)


def test_the_next_batch_has_begun_before_this_one_is_taken() -> None:
    told: list[str] = []

    def stage(batch: int) -> int:
        told.append(f"begin {batch}")
        return batch

    def transfer(batch: int) -> int:
        told.append(f"take {batch}")
        return -batch

    assert list(Feed([1, 2, 3], stage=stage, transfer=transfer, ahead=True)) == [-1, -2, -3]
    assert told == ["begin 1", "begin 2", "take 1", "begin 3", "take 2", "take 3"]
    told.clear()
    assert list(Feed([1, 2, 3], stage=stage, transfer=transfer, limit=2)) == [-1, -2]
    assert told == ["begin 1", "take 1", "begin 2", "take 2"]


def test_the_limit_holds_and_the_last_batch_is_known() -> None:
    fetched: list[int] = []
    feed = ahead((fetched.append(n) or n for n in range(9)), limit=3)  # type: ignore[func-returns-value]
    assert [(batch, feed.is_last(k)) for k, batch in enumerate(feed, 1)] == [
        (0, False),
        (1, False),
        (2, True),
    ]
    assert fetched == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_with_workers_the_numbers_are_those_of_the_plain_loader(workers: int) -> None:
    seed(1)
    expected = run(loader(num_workers=workers), 2)
    seed(1)
    found = run(ahead(loader(num_workers=workers)), 2)
    assert same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("position", [1, 3])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_that_was_stopped_goes_on_exactly(workers: int, position: int, epoch: int) -> None:
    def make() -> Feed:
        return ahead(DataLoader(Noisy(12, own=False), 3, shuffle=True, num_workers=workers))

    seed(0)
    whole = run(make(), 3)
    seen, state = stopped(make, epoch, position)
    assert same(seen + resumed(make, state, 2 - epoch), whole)

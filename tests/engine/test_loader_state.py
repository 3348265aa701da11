"""Loaders without indices, and states that do not fit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from leyden.engine.feed import Feed
from tests.engine.loader_runs import (
    Noisy,
    Stream,
    loader,
    resumed,
    run,
    same,
    seed,
    stopped,
)

EPOCHS = 3
# More workers than this machine has cores are what some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=pytest.mark.slow)], ids=["here", "two workers"]
)
def test_an_iterable_dataset_is_read_again(workers: int, lookahead: bool) -> None:
    def make() -> Feed:
        loader = DataLoader(Stream(10), batch_size=2, num_workers=workers)
        return Feed(loader, lookahead=lookahead)

    seed(0)
    expected = run(make(), 2)
    for position in (0, 2, len(expected) // 2):
        seen, state = stopped(make, 0, position)
        assert same(seen + resumed(make, state, 1), expected), position


@pytest.mark.parametrize("lookahead", [False, True])
def test_a_generator_that_runs_on_over_the_epochs_is_read_again(lookahead: bool) -> None:
    def numbers() -> Iterator[torch.Tensor]:
        while True:
            yield torch.rand(2)

    def make() -> Feed:
        return Feed(numbers(), limit=4, lookahead=lookahead)

    seed(0)
    expected = run(make(), 3)
    for epochs, position in ((0, 3), (1, 0), (1, 2), (1, 4)):
        seen, state = stopped(make, epochs, position)
        assert same(seen + resumed(make, state, 2 - epochs), expected), (epochs, position)


def test_a_list_of_batches_goes_on() -> None:
    data = [torch.full((2,), float(k)) for k in range(5)]
    seed(0)
    expected = run(data, 2)
    seen, state = stopped(lambda: Feed(data), 0, 3)
    assert same(seen + resumed(lambda: Feed(data), state, 1), expected)


class Stateful:
    """Keeps its own position, as torchdata's loader does."""

    def __init__(self) -> None:
        self.next = 0
        self.loads = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.next < 6:
            self.loads += 1
            self.next += 1
            yield torch.full((2,), float(self.next))
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


@pytest.mark.parametrize("lookahead", [False, True])
def test_a_loader_with_a_state_of_its_own_is_used_through_it(lookahead: bool) -> None:
    seed(0)
    expected = run(Stateful(), 2)
    seen, state = stopped(lambda: Feed(Stateful(), lookahead=lookahead), 0, 4)
    again = Stateful()
    seen += resumed(lambda: Feed(again, lookahead=lookahead), state, 1)
    assert same(seen, expected)
    assert again.loads == 2 + 6


def test_what_cannot_be_positioned_is_refused_by_option() -> None:
    def make() -> Feed:
        return Feed(DataLoader(Stream(10)), unknown="refuse")

    possible, why = make().resumable()
    assert not possible and "DataLoader over Stream can only be read from its start" in why
    _, state = stopped(make, 0, 2)
    with pytest.raises(RuntimeError, match="stopped after batch 2, and cannot be resumed there"):
        make().load_state_dict(state)
    assert Feed([1, 2], unknown="refuse").resumable()[0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_workers": 2, "in_order": False}, "in_order=False"),
        ({"num_workers": 2, "dataset": Stream(4), "persistent_workers": True}, "persistent"),
    ],
)
def test_what_is_not_exact_says_so_and_warns(options: dict[str, Any], text: str) -> None:
    feed = Feed(DataLoader(**{"dataset": Noisy(4), **options}))
    possible, why = feed.resumable()
    assert not possible and text in why
    state = {**Feed([1]).state_dict(0), "position": 2}
    with pytest.warns(UserWarning, match="stopped after batch 2, and what follows may differ"):
        feed.load_state_dict(state)


def test_without_the_workers_states_it_is_not_exact_and_says_so() -> None:
    possible, why = Feed(loader(num_workers=2), exact=False).resumable()
    assert not possible and "exact=False" in why
    assert Feed(loader(num_workers=0), exact=False).resumable()[0]
    assert Feed(loader(num_workers=2)).resumable() == (True, "indices are skipped")


def test_a_state_of_another_loader_is_refused() -> None:
    _, state = stopped(lambda: Feed(loader()), 0, 2)
    with pytest.raises(ValueError, match=r"samples 36 -> 40, batches 9 -> 10"):
        Feed(DataLoader(Noisy(40), batch_size=4)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"batch_size 4 -> 6, batches 9 -> 6"):
        Feed(loader(batch_size=6)).load_state_dict(state)
    with pytest.raises(ValueError, match="saved by way of 'indexed'"):
        Feed([1, 2, 3]).load_state_dict(state)
    feed = Feed(DataLoader(Noisy(36, own=False), batch_size=4))
    feed.load_state_dict(state)
    with pytest.raises(ValueError, match="holds 2 random generators"):
        iter(feed)
    with pytest.raises(ValueError, match="form 7"):
        Feed(loader()).load_state_dict({**state, "version": 7})


def test_data_that_end_too_early_are_refused() -> None:
    feed = Feed(iter([1, 2, 3]))
    batches = iter(feed)
    for _ in range(3):
        next(batches)
    again = Feed(iter([1, 2]))
    again.load_state_dict(feed.state_dict(3))
    with pytest.raises(ValueError, match="stopped after batch 3, but list_iterator ended after 2"):
        iter(again)


def test_a_position_that_cannot_be_is_refused() -> None:
    feed = Feed([1, 2])
    with pytest.raises(ValueError, match="no epoch was begun"):
        feed.state_dict(1)
    iter(feed)
    with pytest.raises(ValueError, match="position=-1"):
        feed.state_dict(-1)


def test_a_state_that_was_loaded_and_not_used_is_kept() -> None:
    _, state = stopped(lambda: Feed(loader()), 0, 2)
    feed = Feed(loader())
    feed.load_state_dict(state)
    assert feed.state_dict(0) is state


class GoesOnOnce:
    """A loader that goes on where its state says, once, and begins anew after that."""

    def __init__(self) -> None:
        self.at, self.goes_on = 0, False

    def __iter__(self) -> Iterator[int]:
        if not self.goes_on:
            self.at = 0
        self.goes_on = False
        while self.at < 6:
            self.at += 1
            yield self.at

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at, self.goes_on = state["at"], True


@pytest.mark.parametrize("limit", [None, 4, 6])
@pytest.mark.parametrize("ended", [False, True])
def test_a_loader_with_a_state_at_the_end_of_an_epoch(limit: int | None, ended: bool) -> None:
    """Its epochs are those of the loader that never stopped, cut by a limit or not."""
    first = Feed(GoesOnOnce(), limit=limit)
    whole = list(first)
    state = first.state_dict(len(whole), ended=ended)
    again = Feed(GoesOnOnce(), limit=limit)
    again.load_state_dict(state)
    assert [list(again) for _ in range(2 if ended else 3)][-2:] == [whole, whole]

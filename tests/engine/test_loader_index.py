"""A DataLoader goes on from any batch, bit for bit, with every number of workers."""

import gc
import multiprocessing
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, WeightedRandomSampler

from leyden.engine.feed import Feed
from tests.engine.loader_runs import (
    Noisy,
    loader,
    resumed,
    round_trip,
    run,
    same,
    seed,
    step,
    stopped,
)

EPOCHS = 3
# More workers than this machine has cores are what some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("generator", [False, True])
def test_every_batch_of_two_epochs_is_a_place_to_go_on(limit: int | None, generator: bool) -> None:
    def plain() -> DataLoader[torch.Tensor]:
        return loader(generator=torch.Generator().manual_seed(7) if generator else None)

    def make() -> Feed:
        return Feed(plain(), limit=limit)

    seed(0)
    expected = run(plain(), EPOCHS, limit)
    seed(0)
    assert same(run(make(), EPOCHS), expected)
    for epochs in (0, 1):
        for position in range((limit or 9) + 1):
            seen, state = stopped(make, epochs, position)
            assert same(seen + resumed(make, state, EPOCHS - 1 - epochs), expected), (
                epochs,
                position,
            )


WORKERS = {
    "fresh": {"num_workers": 2},
    "persistent": {"num_workers": 2, "persistent_workers": True},
    "three, one batch ahead": {"num_workers": 3, "prefetch_factor": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("fresh", None),
        ("fresh", 5),
        ("persistent", None),
        ("persistent", 5),
        ("three, one batch ahead", 4),
    ],
)
def test_every_batch_with_workers_is_a_place_to_go_on(name: str, limit: int | None) -> None:
    def make() -> Feed:
        return Feed(loader(**WORKERS[name]), limit=limit)

    seed(0)
    expected = run(loader(**WORKERS[name]), EPOCHS, limit)
    for epochs in (0, 1):
        for position in range((limit or 9) + 1):
            seen, state = stopped(make, epochs, position)
            assert same(seen + resumed(make, state, EPOCHS - 1 - epochs), expected), (
                epochs,
                position,
            )


@pytest.mark.slow
def test_spawned_workers_go_on_too() -> None:
    def make(**options: Any) -> Feed:
        # torch cannot send a dataset with a torch.Generator to a spawned worker.
        return Feed(DataLoader(Noisy(20, own=False), batch_size=4, num_workers=2, **options))

    seed(0)
    expected = run(make(), 1)
    seen, state = stopped(lambda: make(multiprocessing_context="spawn"), 0, 3)
    seen += resumed(lambda: make(multiprocessing_context="spawn"), state, 0)
    assert same(seen, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fresh", "persistent"])
def test_stopped_twice(name: str) -> None:
    def make() -> Feed:
        return Feed(loader(**WORKERS[name]))

    seed(0)
    expected = run(loader(**WORKERS[name]), 2)
    seen, state = stopped(make, 0, 3)
    feed = make()
    feed.load_state_dict(state)
    batches = iter(feed)
    seen += [step(next(batches)) for _ in range(4)]
    state = round_trip(feed.state_dict(7))
    del batches, feed
    assert same(seen + resumed(make, state, 1), expected)


@pytest.mark.parametrize(
    "name", ["none", *(pytest.param(name, marks=pytest.mark.slow) for name in list(WORKERS)[:2])]
)
@pytest.mark.parametrize("limit", [None, 5])
def test_an_ended_epoch_is_followed_by_the_next(name: str, limit: int | None) -> None:
    def make() -> Feed:
        return Feed(loader(**WORKERS.get(name, {})), limit=limit)

    seed(0)
    plain = loader(**WORKERS.get(name, {}))
    torch.rand(1)
    expected = [step(batch) for _ in range(2) for batch in islice(plain, limit)]
    seed(0)
    torch.rand(1)
    feed = make()
    seen = [step(batch) for batch in feed]
    state = round_trip(feed.state_dict(limit or 9, ended=True))
    assert same(seen + resumed(make, state, 0), expected)


def test_skipped_samples_are_never_loaded() -> None:
    _, state = stopped(lambda: Feed(loader()), 0, 6)
    again = loader()
    feed = Feed(again)
    feed.load_state_dict(state)
    for _ in feed:
        pass
    assert len(again.dataset.loaded) == 12  # type: ignore[attr-defined]


def test_numbers_drawn_between_the_start_and_the_first_batch_do_no_harm() -> None:
    def begin(feed: Feed) -> Iterator[torch.Tensor]:
        batches = iter(feed)
        torch.rand(3)
        return batches

    seed(0)
    expected = [step(batch) for batch in begin(Feed(loader()))]
    seed(0)
    feed = Feed(loader())
    batches = begin(feed)
    seen = [step(next(batches)) for _ in range(4)]
    state = feed.state_dict(4)
    assert same(seen + resumed(lambda: Feed(loader()), state, 0), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 2), (2, 3)])
def test_other_numbers_of_workers_keep_the_order(before: int, after: int) -> None:
    seed(0)
    expected = run(loader(num_workers=before), 1)
    seen, state = stopped(lambda: Feed(loader(num_workers=before)), 0, 4)
    seen += resumed(lambda: Feed(loader(num_workers=after)), state, 0)
    assert [s[:24:6].tolist() for s in seen] == [s[:24:6].tolist() for s in expected]


def test_the_users_loader_is_not_touched() -> None:
    mine = loader(worker_init_fn=print)
    before = dict(vars(mine))
    for _ in Feed(mine):
        pass
    assert vars(mine) == before


@pytest.mark.slow
def test_workers_end_with_the_feed() -> None:
    others = set(multiprocessing.active_children())  # ranks that wait for other tests
    feed = Feed(loader(num_workers=2, persistent_workers=True))
    batches = iter(feed)
    next(batches)
    gc.disable()  # by counting references alone, as with the plain loader
    try:
        known = weakref.ref(batches)
        del feed, batches
        assert known() is None
    finally:
        gc.enable()
    assert set(multiprocessing.active_children()) <= others


# -------------------------------------------------------------------------------- other samplers


class Careless(BatchSampler):
    """Draws from the global stream for each batch."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.size):
            yield torch.randint(36, (4,)).tolist()

    def __len__(self) -> int:
        return self.size


class Careful(Careless):
    """Draws once."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from torch.randint(36, (self.size, 4)).tolist()


def test_a_sampler_that_draws_once_is_exact_and_checked() -> None:
    def make() -> Feed:
        return Feed(DataLoader(Noisy(36), batch_sampler=Careful(6)))

    seed(0)
    expected = run(DataLoader(Noisy(36), batch_sampler=Careful(6)), 2)
    seen, state = stopped(make, 0, 4)
    assert state["loader"]["order"] is not None
    assert same(seen + resumed(make, state, 1), expected)
    assert "Careful must not draw" in make().resumable()[1]


def test_a_sampler_that_draws_for_each_batch_is_found_out() -> None:
    def make() -> Feed:
        return Feed(DataLoader(Noisy(36), batch_sampler=Careless(6)))

    _, state = stopped(make, 0, 4)
    with pytest.raises(RuntimeError, match="Careless gave other indices for the first 4 batches"):
        resumed(make, state, 0)


def test_weighted_and_distributed_samplers_are_exact() -> None:
    def weighted() -> DataLoader[torch.Tensor]:
        return DataLoader(
            Noisy(36), batch_size=4, sampler=WeightedRandomSampler([1.0, 2.0] * 18, 36)
        )

    seed(0)
    expected = run(weighted(), 2)
    seen, state = stopped(lambda: Feed(weighted()), 0, 4)
    assert same(seen + resumed(lambda: Feed(weighted()), state, 1), expected)

    def distributed() -> DataLoader[torch.Tensor]:
        data = Noisy(36)
        sampler = torch.utils.data.DistributedSampler(data, num_replicas=2, rank=1)
        return DataLoader(data, batch_size=4, sampler=sampler)

    seed(0)
    plain = distributed()
    plain.sampler.set_epoch(3)  # type: ignore[attr-defined]
    expected = run(plain, 1)
    seed(0)
    first = distributed()
    first.sampler.set_epoch(3)  # type: ignore[attr-defined]
    feed = Feed(first)
    torch.rand(1)
    batches = iter(feed)
    seen = [step(next(batches)) for _ in range(2)]
    assert same(seen + resumed(lambda: Feed(distributed()), feed.state_dict(2), 0), expected)

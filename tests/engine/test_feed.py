"""The feed: what it passes on, and that a run goes on from any batch bit for bit."""

import gc
import io
import multiprocessing
import random
import sys
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, WeightedRandomSampler

from leyden.engine.feed import Feed
from tests.engine.loader_runs import (
    Noisy,
    Stream,
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


# ------------------------------------------------------------------------------------- iteration


def test_what_the_loop_gets_is_the_loaders_own_iterator() -> None:
    data = [1, 2, 3]
    assert type(iter(Feed(data))) is type(iter(data))
    frames = []
    sys.setprofile(lambda frame, event, arg: frames.append(frame.f_code) if event == "call" else 0)
    try:
        for _ in iter(Feed(data, limit=2)):
            frames.clear()  # what making the iterator called
    finally:
        sys.setprofile(None)
    assert frames == []


def test_limit_ends_an_epoch_without_fetching_one_more() -> None:
    fetched = []

    class Endless:
        def __iter__(self) -> Iterator[int]:
            number = 0
            while True:
                fetched.append(number)
                yield number
                number += 1

    feed = Feed(Endless(), limit=3)
    assert list(feed) == [0, 1, 2]
    assert fetched == [0, 1, 2]
    assert list(Feed([1, 2], limit=0)) == []


def test_length_is_known_or_a_type_error() -> None:
    assert len(Feed([1, 2, 3])) == 3
    assert len(Feed([1, 2, 3], limit=2)) == 2
    assert len(Feed([1, 2, 3], limit=9)) == 3
    feed = Feed(DataLoader(Stream(4)))
    assert feed.length() is None
    with pytest.raises(TypeError, match=r"DataLoader over Stream has no length"):
        len(feed)


def test_transfer_sees_each_batch() -> None:
    assert list(Feed([1, 2, 3], limit=2, transfer=lambda batch: -batch)) == [-1, -2]


def test_is_last_is_known_with_a_length_or_a_look_ahead() -> None:
    assert [Feed([1, 2, 3]).is_last(k) for k in (1, 2, 3)] == [False, False, True]
    feed = Feed(iter([1, 2, 3]), lookahead=True)
    assert [(batch, feed.is_last(k)) for k, batch in enumerate(feed, 1)] == [
        (1, False),
        (2, False),
        (3, True),
    ]
    feed = Feed(iter([1, 2, 3]), limit=2)
    batches = iter(feed)
    next(batches)
    with pytest.raises(RuntimeError, match="lookahead=True"):
        feed.is_last(1)
    next(batches)
    assert feed.is_last(2)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"loader": 3}, TypeError, "loader=3 cannot be iterated"),
        ({"loader": [], "limit": -1}, ValueError, "limit=-1 is negative"),
        ({"loader": [], "limit": 0.5}, TypeError, "limit=0.5 is not a number of batches"),
        ({"loader": [], "unknown": "x"}, ValueError, "neither 'drain' nor 'refuse'"),
        ({"loader": [], "seed_per_sample": True}, TypeError, "needs a DataLoader"),
        (
            {"loader": DataLoader(Noisy(3), batch_size=None), "seed_per_sample": 1},
            ValueError,
            "batch_size=None",
        ),
    ],
)
def test_bad_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Feed(**arguments)


# ------------------------------------------------------------------------------------ exactness


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
    assert multiprocessing.active_children() == []


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


# --------------------------------------------------------------------------------- other loaders


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


# ---------------------------------------------------------------------------------- wrong states


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


# -------------------------------------------------------------------------------- seed_per_sample


class Draws(Dataset[torch.Tensor]):
    """Its samples are numbers from all streams."""

    def __init__(self) -> None:
        self.own = np.random.default_rng(1)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [index, random.random(), np.random.rand(), float(torch.rand(())), self.own.random()]
        return torch.tensor(drawn, dtype=torch.float64)


def collate(samples: list[torch.Tensor]) -> torch.Tensor:
    """Draw for the batch as well."""
    return torch.cat([torch.stack(samples), torch.rand(1, 5, dtype=torch.float64)])


def seeded(**options: Any) -> Feed:
    options = {"shuffle": True, **options}
    loader = DataLoader(Draws(), batch_size=4, collate_fn=collate, **options)
    return Feed(loader, seed_per_sample=11)


def test_seeding_each_sample_leaves_the_models_numbers_alone() -> None:
    seed(0)
    first = run(seeded(), 2)
    seed(0)
    plain = run(DataLoader([torch.zeros(1)] * 12, batch_size=4, shuffle=True), 2)
    assert [s[-2:].tolist() for s in first] == [s[-2:].tolist() for s in plain]
    assert not torch.equal(first[0][:5], first[3][:5])
    seen, state = stopped(seeded, 1, 2)
    assert same(seen + resumed(seeded, state, 0), first)


@pytest.mark.slow
def test_seeding_each_sample_does_not_depend_on_the_workers() -> None:
    results = []
    for options in (
        {},
        {"num_workers": 3},
        {"num_workers": 2, "persistent_workers": True},
        {"num_workers": 1, "multiprocessing_context": "spawn"},
    ):
        seed(0)
        # The model's two numbers aside: persistent workers take no seed for the second epoch.
        results.append([seen[:-2] for seen in run(seeded(shuffle=False, **options), 2)])
    assert all(same(results[0], other) for other in results[1:])


def test_a_sample_that_fails_leaves_the_streams_as_they_were() -> None:
    class Failing(Draws):
        def __getitem__(self, index: int) -> torch.Tensor:
            raise LookupError("no such sample")

    batches = iter(Feed(DataLoader(Failing(), batch_size=4), seed_per_sample=1))
    before = torch.get_rng_state()
    with pytest.raises(LookupError):
        next(batches)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_is_plain_data() -> None:
    _, state = stopped(lambda: Feed(loader()), 0, 1)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    assert len(buffer.getvalue()) < 100_000

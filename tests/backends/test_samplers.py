"""Which samples each process gets: all of them, none too much, none twice where it counts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from leyden.backends.samplers import EvaluationShare, SharedSampler, filler_of, is_shared, shared
from leyden.engine.errors import MisconfigurationException

DATA = list(range(10))


def rows(loader: Any) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def both(loader: Any, *, train: bool, replicas: int = 2) -> list[list[list[int]]]:
    return [rows(shared(loader, replicas, rank, train=train)) for rank in range(replicas)]


class Backwards(Sampler[int]):
    """A sampler of the user's own, that draws from everybody's random numbers."""

    def __iter__(self) -> Iterator[int]:
        first = random.randrange(10)
        order = [*range(first, 10), *range(first)]
        return iter([order[i] for i in torch.randperm(10).tolist()])

    def __len__(self) -> int:
        return 10


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 1


class TestTraining:
    def test_in_order_each_takes_every_so_manieth(self) -> None:
        assert both(DataLoader(DATA, 2), train=True) == [
            [[0, 2], [4, 6], [8]],
            [[1, 3], [5, 7], [9]],
        ]

    def test_shares_are_filled_up_to_equal_length(self) -> None:
        found = both(DataLoader(DATA, 2), train=True, replicas=3)
        assert [sum(map(len, batches)) for batches in found] == [4, 4, 4]
        assert {row for batches in found for batch in batches for row in batch} == set(DATA)

    def test_a_shuffled_loader_stays_shuffled_anew_each_epoch_and_all_rows_come(self) -> None:
        made = [shared(DataLoader(DATA, 2, shuffle=True), 2, r, train=True) for r in range(2)]
        epochs = []
        for epoch in range(2):
            for loader in made:
                loader.sampler.set_epoch(epoch)
            epochs.append([row for loader in made for batch in rows(loader) for row in batch])
        assert epochs[0] != epochs[1]
        assert all(sorted(epoch) == DATA for epoch in epochs)

    def test_the_seed_of_the_run_deals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loader = DataLoader(DATA, 2, shuffle=True)
        first = both(loader, train=True)
        monkeypatch.setenv("PL_GLOBAL_SEED", "7")
        assert shared(loader, 2, 0, train=True).sampler.seed == 7
        assert both(loader, train=True) != first

    def test_a_sampler_of_the_users_own_is_dealt_out(self) -> None:
        loader = DataLoader(DATA, 2, sampler=Backwards())
        random.seed(1)
        before = random.getstate(), torch.get_rng_state()
        found = []
        for rank in range(2):
            random.seed(rank)  # what else the processes drew makes no difference
            found.append(rows(shared(loader, 2, rank, train=True)))
        assert sorted(row for batches in found for batch in batches for row in batch) == DATA
        random.seed(1)
        list(shared(loader, 2, 0, train=True))
        assert random.getstate() == before[0]  # and the run's own numbers stay as they were

    def test_each_epoch_of_it_is_another(self) -> None:
        sampler = SharedSampler(Backwards(), 2, 0)
        first = list(sampler)
        order = sampler.order
        sampler.set_epoch(1)
        assert list(sampler) != first
        assert sampler.order != order

    def test_weighted_samples_are_drawn_alike_on_all(self) -> None:
        weighted = WeightedRandomSampler([1.0, 3.0] * 5, 9)
        made = [shared(DataLoader(DATA, 3, sampler=weighted), 2, r, train=True) for r in range(2)]
        assert [len(rows(loader)) for loader in made] == [2, 2]
        assert made[0].sampler.order == made[1].sampler.order is not None

    def test_drawing_with_replacement_is_not_made_a_plain_shuffle(self) -> None:
        loader = DataLoader(DATA, 2, sampler=RandomSampler(DATA, replacement=True, num_samples=40))
        found = both(loader, train=True)
        assert [sum(map(len, batches)) for batches in found] == [20, 20]

    def test_whole_batches_of_a_batch_sampler_are_dealt_out(self) -> None:
        batches = [[0], [1, 2], [3], [4, 5, 6], [7]]
        loader = DataLoader(DATA, batch_sampler=batches)  # type: ignore[arg-type]
        assert both(loader, train=True) == [[[0], [3], [7]], [[1, 2], [4, 5, 6], [0]]]

    def test_a_sampler_without_a_length_is_refused(self) -> None:
        loader = DataLoader(DATA, 2, sampler=Endless())
        with pytest.raises(MisconfigurationException, match="Endless has no length, so it cannot"):
            shared(loader, 2, 0, train=True)

    def test_the_users_loader_and_what_else_it_says_stay(self) -> None:
        class Own(DataLoader[Any]):
            kind = "mine"

        loader = Own(DATA, 2, drop_last=True, collate_fn=list)
        made = shared(loader, 2, 1, train=True)
        assert (type(made), made.kind, made.collate_fn) == (Own, "mine", list)
        assert list(made) == [[1, 3], [5, 7]]
        assert isinstance(loader.sampler, SequentialSampler) and len(loader) == 5


class TestLeftAlone:
    def test_a_distributed_sampler(self) -> None:
        loader = DataLoader(DATA, sampler=DistributedSampler(DATA, 2, 1))
        assert is_shared(loader) and shared(loader, 2, 1, train=True) is loader

    def test_one_inside_of_a_batch_sampler(self) -> None:
        inner = BatchSampler(DistributedSampler(DATA, 2, 1), 2, False)
        loader = DataLoader(DATA, batch_sampler=inner)
        assert shared(loader, 2, 1, train=False) is loader

    def test_iterable_data_and_lists(self, caplog: pytest.LogCaptureFixture) -> None:
        class Stream(IterableDataset[int]):
            def __iter__(self) -> Iterator[int]:
                return iter(DATA)

        for loader in (DataLoader(Stream()), [1, 2]):
            assert shared(loader, 2, 1, train=True) is loader
        with caplog.at_level("INFO", logger="leyden.backends.samplers"):
            shared(DataLoader(Stream()), 2, 0, train=True)
        assert "Stream is iterable: every process reads all of it" in caplog.text


class TestEvaluation:
    @settings(max_examples=40, deadline=None)
    @given(
        count=st.integers(0, 40),
        size=st.integers(1, 5),
        replicas=st.integers(1, 5),
        drop_last=st.booleans(),
    )
    def test_each_sample_counts_once_and_all_have_as_many_batches(
        self, count: int, size: int, replicas: int, drop_last: bool
    ) -> None:
        loader = DataLoader(list(range(count)), size, drop_last=drop_last)
        made = [shared(loader, replicas, rank, train=False) for rank in range(replicas)]
        counted: list[int] = []
        lengths = set()
        for one in made:
            batches = rows(one)
            assert len(batches) == len(one)
            lengths.add(len(batches))
            filler = filler_of(one)
            assert filler in (None, len(batches) - 1)
            kept = [batch for number, batch in enumerate(batches) if number != filler]
            counted += [row for batch in kept for row in batch]
        whole = count - count % (size * replicas) if drop_last else count
        assert sorted(counted) == list(range(whole))
        assert len(lengths) == 1

    def test_a_shuffled_loader_is_read_in_order(self) -> None:
        found = both(DataLoader(DATA, 5, shuffle=True), train=False)
        assert found == [[[0, 2, 4, 6, 8]], [[1, 3, 5, 7, 9]]]

    def test_batches_of_a_batch_sampler_count_once(self) -> None:
        loader = DataLoader(DATA, batch_sampler=[[0, 1], [2], [3, 4]])  # type: ignore[arg-type]
        made = [shared(loader, 2, rank, train=False) for rank in range(2)]
        assert [rows(one) for one in made] == [[[0, 1], [3, 4]], [[2], [0, 1]]]
        assert [filler_of(one) for one in made] == [None, 1]

    def test_a_loader_without_automatic_batches(self) -> None:
        loader = DataLoader(DATA[:3], batch_size=None)
        made = [shared(loader, 2, rank, train=False) for rank in range(2)]
        assert [list(one) for one in made] == [[0, 2], [1, 0]]
        assert [filler_of(one) for one in made] == [None, 1]

    def test_a_share_by_itself(self) -> None:
        share = EvaluationShare(range(7), 2, 1, batch_size=3)
        assert (list(share), len(share), share.filler) == ([1, 3, 5, 0], 4, 1)

"""Datasets and loops for the tests of the feed; at module level, for spawned workers."""

import io
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden.engine.feed import Feed

__all__ = ["Noisy", "Stream", "round_trip", "run", "seed", "step"]


class Noisy(Dataset[torch.Tensor]):
    """Draws from every stream there is: the global ones, and generators of its own."""

    def __init__(self, size: int, *, own: bool = True) -> None:
        self.size = size
        self.loaded: list[int] = []
        self.numpy = np.random.default_rng(5) if own else None
        self.torch = torch.Generator().manual_seed(3) if own else None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        self.loaded.append(index)
        drawn = [index, float(torch.rand(())), random.random(), float(np.random.rand())]
        if self.numpy is not None:
            drawn += [self.numpy.random(), float(torch.rand((), generator=self.torch))]
        return torch.tensor(drawn, dtype=torch.float64)


class Stream(IterableDataset[torch.Tensor]):
    """Has no length and no indices."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in range(self.size):
            yield torch.tensor([index, float(torch.rand(()))], dtype=torch.float64)


def seed(number: int) -> None:
    """Seed all global streams."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def step(batch: torch.Tensor) -> torch.Tensor:
    """Draw as a model with dropout does, and give all that was seen."""
    return torch.cat([batch.flatten().double(), torch.rand(2).double()])


def run(batches: Any, epochs: int, limit: int | None = None) -> list[torch.Tensor]:
    """Run a plain loop, with numbers drawn between the epochs."""
    seen = []
    for _ in range(epochs):
        torch.rand(1)
        seen += [step(batch) for batch in islice(batches, limit)]
    return seen


def round_trip(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load as data only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def loader(**options: Any) -> DataLoader[torch.Tensor]:
    """Make the loader that most tests use."""
    return DataLoader(Noisy(36), **{"batch_size": 4, "shuffle": True, **options})


def stopped(make: Any, epochs: int, position: int, *, ended: bool = False) -> tuple[Any, Any]:
    """Run ``epochs`` whole epochs and ``position`` batches, and return what was seen and kept."""
    seed(0)
    feed: Feed = make()
    seen = run(feed, epochs)
    torch.rand(1)
    batches = iter(feed)
    seen += [step(next(batches)) for _ in range(position)]
    return seen, round_trip(feed.state_dict(position, ended=ended))


def resumed(make: Any, state: Any, epochs_after: int) -> list[torch.Tensor]:
    """Go on in a new feed, with other numbers drawn before."""
    seed(99)
    feed: Feed = make()
    feed.load_state_dict(state)
    seen = [step(batch) for batch in feed]
    return seen + run(feed, epochs_after)


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Compare bit for bit."""
    return len(left) == len(right) and all(map(torch.equal, left, right))

"""Each process its share of the samples: samplers, and loaders that use them."""

from __future__ import annotations

import copy
import logging
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from leyden.engine.errors import MisconfigurationException, MisconfiguredValue
from leyden.engine.rng import isolate, seed_all

__all__ = [
    "EvaluationShare",
    "SharedSampler",
    "deals_batches",
    "filler_of",
    "is_shared",
    "order_of",
    "shared",
]

log = logging.getLogger(__name__)
SEED_VARIABLE = "PL_GLOBAL_SEED"


class SharedSampler(Sampler[Any]):
    """Gives a process its share of what any sampler, or batch sampler, gives.

    Every process draws the whole order, from random numbers that are the same on all of them and
    other ones each epoch, and takes every so manieth of it: process ``rank`` takes the entries
    ``rank``, ``rank + replicas`` and so on. Where they do not come out even, the order goes on with
    its beginning, so that all processes have equally many. Drawing it leaves the random numbers of
    the run as they were. A sampler with a generator of its own draws from that; it must be seeded
    alike on all processes, and that is checked (see :attr:`order`).

    Args:
        sampler: of indices or of batches of indices; it needs a length.
        replicas: how many processes there are.
        rank: which one this is.
        seed: of the random numbers, the same on all processes.

    Attributes:
        order: a checksum of the whole order that was drawn last; None before. It is the same on all
            processes, or else they train on shares that overlap.

    Example:
        >>> [list(SharedSampler(range(5), 2, rank)) for rank in (0, 1)]
        [[0, 2, 4], [1, 3, 0]]
    """

    def __init__(self, sampler: Any, replicas: int, rank: int, *, seed: int = 0) -> None:
        try:
            len(sampler)
        except TypeError as error:
            raise MisconfigurationException(
                f"the sampler {type(sampler).__name__} has no length, so it cannot be shared out "
                "over processes: give it __len__, or pass replace_sampler_ddp=False and let it "
                "give each process its own samples (torch.distributed.get_rank() tells which)"
            ) from error
        self.sampler = sampler
        self.replicas = replicas
        self.rank = rank
        self.seed = seed
        self.epoch = 0
        self.order: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, 0-based; a sampler that asks for it is told, too."""
        self.epoch = epoch
        tell = getattr(self.sampler, "set_epoch", None)
        if callable(tell):
            tell(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.replicas)

    def __iter__(self) -> Iterator[Any]:
        order = self._drawn()
        if order:
            wanted = math.ceil(len(order) / self.replicas) * self.replicas
            order += (order * self.replicas)[: wanted - len(order)]
        return iter(order[self.rank :: self.replicas])

    def _drawn(self) -> list[Any]:
        with isolate():
            seed_all(self.seed + self.epoch)
            order = list(self.sampler)
        self.order = order_of(order)
        return order


class EvaluationShare(Sampler[Any]):
    """Gives a process its share of an evaluation: each sample is seen once, by one of them.

    Nothing is filled up, so sums over all processes are those of one process. Only where a process
    would have a batch less than another it gets one more, the :attr:`filler`: what is done with it
    in the step happens on all processes equally often, so that none waits for another in vain; what
    comes out of it has to be left out.

    Args:
        sampler: of indices, or of batches of indices where ``batch_size`` is None.
        replicas: how many processes there are.
        rank: which one this is.
        batch_size: samples in a batch.
        drop_last: leave out what does not fill a batch on every process.

    Attributes:
        filler: the number of the batch that counts nothing, 0-based; None if all count.

    Example:
        >>> [list(EvaluationShare(range(5), 2, rank, batch_size=2)) for rank in (0, 1)]
        [[0, 2, 4], [1, 3, 0]]
        >>> EvaluationShare(range(5), 2, 1, batch_size=2).filler
        1
    """

    def __init__(
        self,
        sampler: Any,
        replicas: int,
        rank: int,
        *,
        batch_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.sampler = sampler
        self.replicas = replicas
        self.rank = rank
        self.batch_size = batch_size
        self.drop_last = drop_last

    @property
    def filler(self) -> int | None:
        size = self.batch_size or 1
        whole = math.ceil(self._share(0) / size)
        mine = math.ceil(self._share(self.rank) / size)
        return mine if mine < whole else None

    def _used(self) -> int:
        count = len(self.sampler)
        if self.drop_last:
            count -= count % ((self.batch_size or 1) * self.replicas)
        return count

    def _share(self, rank: int) -> int:
        return len(range(rank, self._used(), self.replicas))

    def __len__(self) -> int:
        return self._share(self.rank) + (self.filler is not None)

    def __iter__(self) -> Iterator[Any]:
        order = list(self.sampler)[: self._used()]
        mine = order[self.rank :: self.replicas]
        if self.filler is not None:
            mine.append(order[0])
        return iter(mine)


def shared(loader: Any, replicas: int, rank: int, *, train: bool, batches: bool = False) -> Any:
    """Return a loader over a process's share; the given one is left as it is.

    A loader over an iterable data set, one whose sampler is distributed already, and what is no
    ``DataLoader`` comes back as it is.

    Args:
        loader: the user's.
        replicas: how many processes there are.
        rank: which one this is.
        train: shares are filled up to equal length, and the order is shuffled if the loader's is;
            otherwise every sample is seen once, in the loader's order, a shuffled one in the order
            of the data set.
        batches: deal whole batches out, not samples: the batches stay those of one process.
    """
    if not isinstance(loader, DataLoader) or is_shared(loader):
        return loader
    if isinstance(loader.dataset, IterableDataset):
        if rank == 0:
            log.info(
                "%s is iterable: every process reads all of it, unless its __iter__ gives each its "
                "share (torch.distributed.get_rank(), get_world_size())",
                type(loader.dataset).__name__,
            )
        return loader
    seed = int(os.environ.get(SEED_VARIABLE, 0))
    own_batches = loader.batch_sampler is not None and (
        type(loader.batch_sampler) is not BatchSampler or loader.batch_size is None
    )
    made = copy.copy(loader)
    parts = made.__dict__  # a DataLoader refuses to have its sampler set
    parts["_iterator"] = None
    if own_batches or (batches and loader.batch_sampler is not None):
        dealt: Any = loader.batch_sampler
        if not own_batches and isinstance(loader.sampler, RandomSampler):
            assert loader.batch_size is not None
            in_order: Any = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
            dealt = BatchSampler(in_order, loader.batch_size, loader.drop_last)
        parts["batch_sampler"] = (
            SharedSampler(dealt, replicas, rank, seed=seed)
            if train
            else EvaluationShare(dealt, replicas, rank)
        )
        return made
    sampler: Any = loader.sampler
    plain = type(sampler) in (SequentialSampler, RandomSampler) and not _draws_otherwise(sampler)
    if train and plain:
        sampler = DistributedSampler(
            loader.dataset,
            replicas,
            rank,
            shuffle=isinstance(sampler, RandomSampler),
            seed=seed,
        )
    elif train:
        sampler = SharedSampler(sampler, replicas, rank, seed=seed)
    else:
        if isinstance(sampler, RandomSampler):
            sampler = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
        sampler = EvaluationShare(
            sampler,
            replicas,
            rank,
            batch_size=loader.batch_size,
            drop_last=bool(loader.drop_last),
        )
    return with_sampler(loader, sampler)


def with_sampler(dataloader: Any, sampler: Any) -> Any:
    """Return a loader that draws its samples by ``sampler``; the given one is left as it is.

    Raises:
        MisconfiguredValue: it has a batch sampler of its own, which would draw them.
    """
    made = copy.copy(dataloader)
    parts = made.__dict__  # a DataLoader refuses to have its sampler set
    parts["_iterator"] = None
    if dataloader.batch_sampler is not None:
        if dataloader.batch_size is None:
            raise MisconfiguredValue(
                f"the loader draws its batches by {type(dataloader.batch_sampler).__name__}, so "
                f"{type(sampler).__name__} would change nothing: give the loader a batch_size"
            )
        parts["batch_sampler"] = BatchSampler(sampler, dataloader.batch_size, dataloader.drop_last)
    parts["sampler"] = sampler
    return made


def is_shared(loader: Any) -> bool:
    """Whether the samplers of a loader give each process its own share already."""
    found: Any = getattr(loader, "batch_sampler", None)
    for candidate in (getattr(loader, "sampler", None), found, getattr(found, "sampler", None)):
        if isinstance(candidate, (DistributedSampler, SharedSampler, EvaluationShare)):
            return True
    return False


def deals_batches(loader: Any) -> bool:
    """Whether each process gets every so manieth batch of what one process would see."""
    batches = getattr(loader, "batch_sampler", None)
    entry = getattr(loader, "sampler", None) if batches is None else batches
    return isinstance(entry, EvaluationShare)


def filler_of(loader: Any) -> int | None:
    """Which batch of a loader counts nothing, 0-based; None if all count."""
    for name in ("sampler", "batch_sampler"):
        found = getattr(loader, name, None)
        if isinstance(found, EvaluationShare):
            return found.filler
    return None


def order_of(indices: Any) -> int:
    """Return a checksum of indices, or of batches of them."""
    return zlib.crc32(repr(indices).encode())


def _draws_otherwise(sampler: Any) -> bool:
    """Whether a RandomSampler does more than shuffle: repeats samples, or takes some of them."""
    return isinstance(sampler, RandomSampler) and (
        sampler.replacement or sampler._num_samples is not None
    )

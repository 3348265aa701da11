"""What runs beside the dataset, in the worker processes of a ``DataLoader`` or in this one.

Everything here reaches spawned workers by pickling, so it lives in a module and holds nothing of
the main process but shared memory.
"""

import ctypes
import pickle
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from leyden.engine import rng

__all__ = ["SeededSamples", "WorkerStates", "tagged"]

_HEADER = 8  # bytes: the length of the record
# What the record may grow by: states are longer when pickled, and some grow while they are used.
_SLACK = 4096
_MASK = (1 << 64) - 1


class WorkerStates:
    """The ``collate_fn`` and ``worker_init_fn`` of a loader that records its workers' randomness.

    After each batch a worker writes its random state into a ring in shared memory, before the batch
    goes on its way: who has received the batch can read the state. The main process does nothing
    until it asks.

    Args:
        loader: The loader whose two functions are wrapped.
        initial: The states to begin with, one a worker, as :meth:`read` gave them. ``None`` leaves
            torch's seeds.
    """

    def __init__(self, loader: "DataLoader[Any]", initial: list[Any] | None = None) -> None:
        self.initial = initial
        self._done = 0
        self._collate: Callable[[Any], Any] = loader.collate_fn
        self._init = loader.worker_init_fn
        self._held = rng.generators(loader.dataset)
        # A worker is ahead by its prefetched batches at most, one round may be half done, and one
        # batch be looked ahead.
        self._depth = (loader.prefetch_factor or 2) + 4
        self._size = _HEADER + len(self._record()) + _SLACK
        # One slot more, for the state before the first batch.
        self._ring = torch.zeros(loader.num_workers, self._depth + 1, self._size, dtype=torch.uint8)
        self._ring.share_memory_()  # type: ignore[no-untyped-call]

    def begin(self, worker: int) -> None:
        """Run in the worker, as its ``worker_init_fn``."""
        if self._init is not None:
            self._init(worker)
        info = get_worker_info()
        # The worker's own copy of the dataset, not the one that came along in here.
        self._held = rng.generators(None if info is None else info.dataset)
        self._done = 0
        if self.initial is not None:
            state = self.initial[worker]
            rng.restore(state["global"])
            for item, kept in zip(self._held, state["held"], strict=True):
                rng.write(item, kept)
        self._write(worker, self._depth)

    def __call__(self, samples: Any) -> Any:
        """Run in the worker, as its ``collate_fn``."""
        batch = self._collate(samples)
        info = get_worker_info()
        if info is not None:
            slot = self._done % self._depth
            self._done += 1
            self._write(info.id, slot)
        return batch

    def read(self, worker: int, done: int) -> dict[str, Any] | None:
        """Read the state of a worker after ``done`` batches, or None if it is not there."""
        row = self._ring[worker, (done - 1) % self._depth if done else self._depth]
        data = ctypes.string_at(row.data_ptr(), self._size)
        length = int.from_bytes(data[:_HEADER], "little")
        if not length:
            return None
        number, python, cpu, numpy, held = pickle.loads(data[_HEADER : _HEADER + length])
        if number != done:
            return None
        state = {"python": python, "torch": _tensor(cpu)}
        if numpy is not None:
            state["numpy"] = rng.plain_state(numpy)
        return {"global": state, "held": [_unraw(item) for item in held]}

    def _write(self, worker: int, slot: int) -> None:
        record = self._record()
        fits = len(record) <= self._size - _HEADER
        data = len(record).to_bytes(_HEADER, "little") + record if fits else bytes(_HEADER)
        ctypes.memmove(self._ring[worker, slot].data_ptr(), data, len(data))

    def _record(self) -> bytes:
        # Tensors as bytes: pickling a tensor takes longer than all the rest.
        return pickle.dumps(
            (
                self._done,
                random.getstate(),
                _raw(torch.default_generator.get_state()),
                # Asked like this, NumPy hands out its array, and tolist() is for who reads it.
                sys.modules["numpy"].random.get_state(legacy=False)
                if "numpy.random" in sys.modules
                else None,
                [_raw(rng.read(item)) for item in self._held],
            ),
            pickle.HIGHEST_PROTOCOL,
        )


class _Tagged(list[Any]):
    """The indices of a batch, with the epoch they are of."""

    def __init__(self, indices: Iterable[Any] = (), epoch: int = 0) -> None:
        super().__init__(indices)
        self.epoch = epoch


def tagged(batches: Iterator[Any], epoch: int) -> Iterator[Any]:
    """Write the epoch on each batch of indices, for :class:`SeededSamples` to read."""
    return map(_Tagged, batches, repeat(epoch))


class SeededSamples:
    """A dataset whose samples depend on (seed, epoch, index) alone, and its ``collate_fn``.

    All random streams are seeded before each sample and before the samples are put together, so
    that neither the number of workers nor that of ranks nor the order changes a sample. In the main
    process the streams are put back after each batch: the model's numbers do not depend on the
    data.
    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], seed: int) -> None:
        self.dataset = dataset
        self._seeded_collate = collate
        self._seed = seed
        self._held = rng.generators(dataset)
        self._outside: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # What user code asks get_worker_info().dataset for. Not before there is a dataset: pickle
        # looks for its methods on the empty object.
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitems__(self, indices: _Tagged) -> list[Any]:
        """Give the samples of a batch."""
        if get_worker_info() is None:
            self._outside = rng.capture()
        held = self._held
        samples = []
        try:
            for index in indices:
                self._seed_for(indices.epoch, index, held)
                samples.append(self.dataset[index])
        except BaseException:
            self._put_back()
            raise
        # For collate(): not the state that the last sample left, which may have drawn or not.
        self._seed_for(~indices.epoch, indices[0] if indices else 0, held)
        return samples

    def collate(self, samples: Any) -> Any:
        """Put the samples of a batch together, which may draw as well (mixup does)."""
        try:
            return self._seeded_collate(samples)
        finally:
            self._put_back()

    def _seed_for(self, epoch: int, index: Any, held: Sequence[Any]) -> None:
        number = index if isinstance(index, int) else zlib.crc32(repr(index).encode())
        seed = _mix(self._seed, epoch, number)
        rng.seed_all(seed)
        for item in held:
            rng.reseed(item, seed)

    def _put_back(self) -> None:
        if self._outside is not None:
            rng.restore(self._outside)
            self._outside = None


def _mix(seed: int, epoch: int, index: int) -> int:
    """Spread three numbers over 63 bits (the finaliser of splitmix64)."""
    x = seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + index * 0x94D049BB133111EB
    x &= _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return (x ^ x >> 31) >> 1


def _raw(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return ctypes.string_at(state.data_ptr(), state.numel())
    return state


def _unraw(state: Any) -> Any:
    return _tensor(state) if isinstance(state, bytes) else state


def _tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)

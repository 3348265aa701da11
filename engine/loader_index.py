"""Put a ``DataLoader`` on any batch by its indices: no skipped sample is loaded.

How it is exact (`k` batches of the epoch are done, `W` worker processes):

1. The random streams are kept at the start of the epoch, and again at the moment when the index
   iterator is first advanced: there the sampler draws, after torch drew the workers' base seed, and
   with ``W=0`` only when the first batch is fetched.
2. To resume, the streams of the start are put back and the epoch is begun. The index iterator, when
   it is first advanced, puts back the streams of (1), lets the sampler draw, and drops `k` batches
   of indices. The caller then puts back the streams of the moment when the state was taken.
3. With workers, `k - k % W` batches of indices are dropped, so that each worker gets its own again;
   each begins with the random state that it had after its last dropped batch
   (:class:`~leyden.engine.loader_workers.WorkerStates`), and `k % W` batches are loaded again.
4. Persistent workers never begin anew: their states are counted over all epochs.

The user's loader is not changed: a shallow copy with another batch sampler is iterated, a new one
each epoch (one for all with persistent workers). The indices pass through
:func:`itertools.chain`, so that no Python frame of ours runs for a batch.
"""

import copy
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from torch.utils.data import DataLoader

from leyden.engine.loader_state import Position, describe, drop
from leyden.engine.loader_workers import SeededSamples, WorkerStates, tagged
from leyden.engine.rng import Streams

__all__ = ["IndexedPosition"]

# These draw all their numbers from the global streams when they are first advanced.
_TORCH_SAMPLERS = ("torch.utils.data.sampler", "torch.utils.data.distributed")


class IndexedPosition(Position):
    """Skips indices.

    Args:
        loader: A ``DataLoader`` over a dataset with indices.
        exact: Record the random states of the workers.
        seed: Seed each sample by (seed, epoch, index).
    """

    kind = "indexed"

    def __init__(
        self, loader: "DataLoader[Any]", *, exact: bool = True, seed: int | None = None
    ) -> None:
        sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
        super().__init__(loader, (loader.generator, sampler, loader.dataset))
        if seed is not None and loader.batch_sampler is None:
            raise ValueError(
                "seed_per_sample needs a DataLoader that makes batches, but this one has "
                "batch_size=None: give it a batch size, or leave seed_per_sample out"
            )
        self._workers = loader.num_workers
        self._persistent = bool(self._workers and loader.persistent_workers)
        self._records = bool(exact and self._workers and seed is None)
        self._seed = seed
        self.draws_here = not self._workers
        self._sampler: Iterable[Any] = sampler
        ahead = self._workers * ((loader.prefetch_factor or 0) + 1) + 2
        self._copy: Any = None
        self._states: WorkerStates | None = None
        self._indices = _Indices(sampler, self.streams, ahead)
        # Batches that each worker had done when the epoch began, and where in the epoch this
        # process began it.
        self._done = [0] * self._workers
        self._first = 0

    def start(self, epoch: int) -> Iterator[Any]:
        self._start = self.streams.read()
        return self._begin(epoch)

    def state(self, position: int) -> dict[str, Any]:
        turn = position % self._workers if self._workers else 0
        whole = position - turn
        states = self._worker_states(whole) if self._records else None
        return {
            "kind": self.kind,
            "start": self._start,
            "sampler": self._indices.drawn_from,
            "order": self._indices.order_at(position),
            "num_workers": self._workers,
            "recorded": self._records,
            "worker_states": states,
            "batches": _length(self._sampler),
            "samples": _length(self.loader.dataset),
            "batch_size": self.loader.batch_size,
            "sampler_epoch": _sampler_epoch(self._sampler),
        }

    def check(self, state: dict[str, Any]) -> None:
        super().check(state)
        found = {
            "samples": _length(self.loader.dataset),
            "batch_size": self.loader.batch_size,
            "batches": _length(self._sampler),
        }
        # None: the samples are dealt out to another number of processes now.
        other = [
            f"{key} {state[key]} -> {now}"
            for key, now in found.items()
            if state[key] not in (now, None)
        ]
        if other:
            raise ValueError(
                f"{describe(self.loader)} is not the loader that the state was saved with "
                f"({', '.join(other)}), so the position has no meaning in it: resume with the same "
                "data and batch size, or begin a new epoch"
            )

    def resume(self, state: dict[str, Any], position: int, epoch: int) -> Iterator[Any]:
        _set_sampler_epoch(self._sampler, state["sampler_epoch"])
        self._start = state["start"]
        self.streams.write(state["start"])
        same = self._records and state["recorded"] and state["num_workers"] == self._workers
        # Other workers: nothing of theirs to go on from, but the order is the same.
        first = position - position % self._workers if same else position
        self._copy = None
        batches = self._begin(
            epoch, first, state["sampler"], state["worker_states"] if same else None
        )
        if state["sampler"] is not None:  # its numbers were drawn
            self._indices.advance()
        drop(batches, position - first, self.loader)
        self._check_order(state, position)
        return batches

    def rejoin(self, state: dict[str, Any], position: int, epoch: int) -> None:
        # The next epoch of fresh workers needs nothing of this one; persistent ones go through it.
        if self._persistent:
            self.resume(state, position, epoch)

    def resumable(self) -> tuple[bool, str]:
        if self._workers and not getattr(self.loader, "in_order", True):
            return False, "in_order=False gives batches in the order of their arrival"
        if self._workers and not self._records and self._seed is None:
            return False, (
                "the order of the samples will be the same, but exact=False leaves out the random "
                "states of the workers: only a dataset that draws no numbers is exact"
            )
        note = ""
        if not _is_torchs(self._sampler):
            note = (
                f"; {type(self._sampler).__name__} must not draw from the global random streams "
                "after its first batch (checked when resuming)"
            )
        how = (
            "every sample is seeded by itself" if self._seed is not None else "indices are skipped"
        )
        return True, how + note

    # ------------------------------------------------------------------------------------ epochs

    def _begin(
        self,
        epoch: int,
        first: int = 0,
        sampler_streams: dict[str, Any] | None = None,
        worker_states: list[Any] | None = None,
    ) -> Iterator[Any]:
        if self._persistent and getattr(self._copy, "_iterator", None) is not None:
            self._count_sent()
        else:
            self._done = [0] * self._workers
            self._copy = self._make_copy(worker_states)
        self._first = first
        self._indices.reset(first, sampler_streams, None if self._seed is None else epoch)
        return iter(self._copy)

    def _make_copy(self, worker_states: list[Any] | None) -> Any:
        loader = self.loader
        made = copy.copy(loader)
        own = made.__dict__  # DataLoader refuses to have these attributes set
        own["_iterator"] = None
        own["batch_sampler" if loader.batch_sampler is not None else "sampler"] = self._indices
        if self._seed is not None:
            samples = SeededSamples(loader.dataset, loader.collate_fn, self._seed)
            own["dataset"], own["collate_fn"] = samples, samples.collate
        if self._records:
            self._states = WorkerStates(loader, worker_states)
            own["collate_fn"], own["worker_init_fn"] = self._states, self._states.begin
        return made

    def _count_sent(self) -> None:
        """Add what the epoch before gave to persistent workers, fetched by us or not."""
        sent = self._copy._iterator._send_idx
        count = self._workers
        self._done = [done + (sent - w + count - 1) // count for w, done in enumerate(self._done)]

    def _worker_states(self, whole: int) -> list[Any] | None:
        rounds = (whole - self._first) // self._workers
        if self._states is None:
            return None
        if not rounds and not any(self._done):
            return self._states.initial  # None: torch seeds them again as it did
        found = [self._states.read(w, done + rounds) for w, done in enumerate(self._done)]
        lost = [w for w, state in enumerate(found) if state is None]
        if lost:
            raise RuntimeError(
                f"the random state of worker {lost[0]} after its batch "
                f"{self._done[lost[0]] + rounds} is not there: the position passed to state_dict() "
                "must be that of the batch which was fetched last"
            )
        return found

    def _check_order(self, state: dict[str, Any], position: int) -> None:
        here = self._indices.order_at(position)
        if state["order"] is not None and here is not None and state["order"] != here:
            raise RuntimeError(
                f"{type(self._sampler).__name__} gave other indices for the first {position} "
                "batches than before the stop: it draws from the global random streams after its "
                "first batch. Give it a generator of its own, or state_dict and load_state_dict to "
                "the loader"
            )


class _Indices:
    """Stands in for the batch sampler of the copy that is iterated.

    Attributes:
        drawn_from: The random streams when the epoch's indices began to be drawn, None before.
    """

    def __init__(self, sampler: Iterable[Any], streams: Streams, ahead: int) -> None:
        self._sampler = sampler
        # Not the IndexedPosition: a cycle through the copy would keep its workers alive.
        self._streams = streams
        self._ahead = ahead
        self._traces = not _is_torchs(sampler)
        self.reset(0, None, None)

    def reset(self, skip: int, streams: dict[str, Any] | None, epoch: int | None) -> None:
        """Get ready for an epoch: what to skip, where the sampler draws from, and its tag."""
        self._skip = skip
        self._begin_at = streams
        self._epoch = epoch
        self._last: list[Iterator[Any]] = []
        self.drawn_from: dict[str, Any] | None = None
        # (batches, checksum of all their indices), as far back as the workers may be ahead.
        self._trail: deque[tuple[int, int]] = deque([(0, 0)], maxlen=self._ahead)

    def __iter__(self) -> Iterator[Any]:
        # With workers torch asks twice and uses the second: nothing may happen before it is used.
        opened: list[Iterator[Any]] = []
        self._last = opened
        return chain.from_iterable(self._lazily(opened))

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]

    def advance(self) -> None:
        """Draw the indices now, unless they are."""
        self._open(self._last)

    def order_at(self, position: int) -> int | None:
        """Return the checksum of the first ``position`` batches' indices, if it was computed."""
        return dict(self._trail).get(position) if self._traces else None

    def _lazily(self, opened: list[Iterator[Any]]) -> Iterator[Iterator[Any]]:
        yield self._open(opened)

    def _open(self, opened: list[Iterator[Any]]) -> Iterator[Any]:
        if not opened:
            if self._begin_at is not None:
                self._streams.write(self._begin_at)
            self.drawn_from = self._streams.read()
            batches = iter(self._sampler)
            if self._traces:
                batches = self._traced(batches)
            drop(batches, self._skip, self._sampler)
            opened.append(batches if self._epoch is None else tagged(batches, self._epoch))
        return opened[0]

    def _traced(self, batches: Iterator[Any]) -> Iterator[Any]:
        number, checksum = 0, 0
        for batch in batches:
            number += 1
            checksum = zlib.crc32(repr(batch).encode(), checksum)
            self._trail.append((number, checksum))
            yield batch


def _is_torchs(sampler: Any) -> bool:
    """Say whether a sampler, and those inside it, draw only when they are first advanced."""
    for _ in range(8):
        if isinstance(sampler, (list, tuple, range)):
            return True
        if type(sampler).__module__ not in _TORCH_SAMPLERS:
            return False
        inner = getattr(sampler, "sampler", None)
        if inner is None:
            return True
        sampler = inner
    return False


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None


def _with_epoch(sampler: Any) -> Any:
    """Find the sampler whose order depends on an epoch that somebody sets."""
    for candidate in (sampler, getattr(sampler, "sampler", None)):
        if hasattr(candidate, "set_epoch") and isinstance(getattr(candidate, "epoch", None), int):
            return candidate
    return None


def _sampler_epoch(sampler: Any) -> int | None:
    found = _with_epoch(sampler)
    return None if found is None else int(found.epoch)


def _set_sampler_epoch(sampler: Any, epoch: int | None) -> None:
    found = _with_epoch(sampler)
    if found is not None and epoch is not None:
        found.set_epoch(epoch)

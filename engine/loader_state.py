"""Put a loader back on any batch, with the same stream of random numbers as if never stopped.

Three ways, chosen by what the loader is (:func:`position_of`):

* :class:`~leyden.engine.loader_index.IndexedPosition`: a ``DataLoader`` over a dataset with
  indices. To resume, indices are skipped: no skipped sample is loaded.
* :class:`OwnPosition`: a loader that brings ``state_dict`` and ``load_state_dict``.
* :class:`DrainedPosition`: anything else is read again from the start of the epoch, from the random
  state of that moment, which is exact if the same batches come again, and costs the loading.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import compress, count, islice
from typing import Any

from torch.utils.data import DataLoader

from leyden.engine.rng import Streams

__all__ = ["DrainedPosition", "OwnPosition", "Position", "drop"]


class Position(ABC):
    """Begins epochs of a loader and puts it back on a batch.

    Args:
        loader: The loader.
        owners: The objects whose own random generators belong to the stream.

    Attributes:
        kind: Names the way in the state.
        streams: All random streams that the batches may come from.
        draws_here: Fetching a batch may draw from the random streams of this process.
    """

    kind = ""
    draws_here = True

    def __init__(self, loader: Any, owners: Sequence[Any]) -> None:
        self.loader = loader
        self.streams = Streams(*owners)
        self._start: dict[str, Any] | None = None

    @abstractmethod
    def resumable(self) -> tuple[bool, str]:
        """Say whether a resumed epoch will be exact, and why."""

    def note(self) -> dict[str, Any]:
        """Keep what looking one batch ahead will change in the state."""
        return {"streams": self.streams.read()} if self.draws_here else {}

    def start(self, epoch: int) -> Iterator[Any]:
        """Begin an epoch."""
        self._start = self.streams.read()
        return iter(self.loader)

    def state(self, position: int) -> dict[str, Any]:
        """Say where the running epoch is, after ``position`` batches of it."""
        return {"kind": self.kind, "start": self._start}

    def check(self, state: dict[str, Any]) -> None:
        """Refuse a state that is not of this loader."""
        if state["kind"] != self.kind:
            raise ValueError(
                f"the state was saved by way of {state['kind']!r}, but this loader, "
                f"{describe(self.loader)}, resumes by way of {self.kind!r}: resume with the "
                "loader that it was saved with"
            )

    def resume(self, state: dict[str, Any], position: int, epoch: int) -> Iterator[Any]:
        """Begin an epoch after ``position`` batches of it; the random streams are left anyhow."""
        self._start = state["start"]
        self.streams.write(state["start"])
        return drop(iter(self.loader), position, self.loader)

    def rejoin(self, state: dict[str, Any], position: int, epoch: int) -> None:
        """Get ready for the epoch after the one that ``state`` is the end of."""
        self._start = None


class DrainedPosition(Position):
    """Reads the skipped batches again."""

    kind = "drained"

    def __init__(self, loader: Any) -> None:
        dataset = getattr(loader, "dataset", None)
        super().__init__(loader, (loader, dataset))
        self.draws_here = not getattr(loader, "num_workers", 0)
        self._once = isinstance(loader, Iterator)
        # An iterator runs on over the epochs: what the epochs before took must be skipped too.
        self._before = 0
        self._count: count[int] = count(1)

    def start(self, epoch: int) -> Iterator[Any]:
        if not self._once:
            return super().start(epoch)
        self._before = self._taken()
        self._start = self._start or self.streams.read()
        return self._counted()

    def state(self, position: int) -> dict[str, Any]:
        return {**super().state(position), "before": self._before}

    def resume(self, state: dict[str, Any], position: int, epoch: int) -> Iterator[Any]:
        if not self._once:
            return super().resume(state, position, epoch)
        self._start = state["start"]
        self.streams.write(state["start"])
        self._before = state["before"]
        drop(self.loader, self._before + position, self.loader)
        self._count = count(self._before + position + 1)
        return self._counted()

    def rejoin(self, state: dict[str, Any], position: int, epoch: int) -> None:
        if self._once:
            self.resume(state, position, epoch)

    def resumable(self) -> tuple[bool, str]:
        loader = self.loader
        if isinstance(loader, Sequence):
            return True, "a sequence: skipping batches costs nothing"
        if self._once:
            return True, (
                f"exact if a new {type(loader).__name__} gives the same batches again: the skipped "
                "ones are read and dropped"
            )
        if isinstance(loader, DataLoader):
            if loader.num_workers and loader.persistent_workers:
                return False, (
                    "persistent workers of an IterableDataset carry what it holds from epoch to "
                    "epoch, and nobody can read that: set persistent_workers=False, or give the "
                    "loader state_dict and load_state_dict"
                )
            if loader.num_workers and not getattr(loader, "in_order", True):
                return False, "in_order=False gives batches in the order of their arrival"
        return True, (
            f"exact if {describe(loader)} gives the same batches each time: the skipped ones are "
            "loaded and dropped"
        )

    def seekable(self) -> tuple[bool, str]:
        """Say whether batches can be skipped without being loaded."""
        if isinstance(self.loader, Sequence):
            return self.resumable()
        return False, (
            f"{describe(self.loader)} can only be read from its start: give it state_dict and "
            "load_state_dict, or allow unknown='drain', which loads the skipped batches again"
        )

    def _counted(self) -> Iterator[Any]:
        # compress() counts the batches (no count is false, from 1 on) without a Python frame each.
        return compress(self.loader, self._count)

    def _taken(self) -> int:
        # A count() says where it is only in its text; copying one is deprecated.
        return int(repr(self._count)[len("count(") : -1]) - 1


class OwnPosition(Position):
    """Leaves the position to the loader's own ``state_dict`` and ``load_state_dict``."""

    kind = "own"

    def __init__(self, loader: Any) -> None:
        super().__init__(loader, (loader, getattr(loader, "dataset", None)))
        self.draws_here = not getattr(loader, "num_workers", 0)
        self._rejoined = False

    def note(self) -> dict[str, Any]:
        return {**super().note(), "loader": self.loader.state_dict()}

    def state(self, position: int) -> dict[str, Any]:
        return {**super().state(position), "loader": self.loader.state_dict()}

    def resume(self, state: dict[str, Any], position: int, epoch: int) -> Iterator[Any]:
        self._start = state["start"]
        self.streams.write(state["start"])
        self.loader.load_state_dict(state["loader"])
        batches: Iterator[Any] = iter(self.loader)
        if state.get("cut", False):  # nothing more is taken: let it leave where it would go on
            next(batches, None)
        return batches

    def rejoin(self, state: dict[str, Any], position: int, epoch: int) -> None:
        self.loader.load_state_dict(state["loader"])
        self._rejoined = not state.get("cut", False)
        if not self._rejoined:  # the epoch was over before its data was
            next(iter(self.loader), None)

    def start(self, epoch: int) -> Iterator[Any]:
        batches = super().start(epoch)
        again, self._rejoined = self._rejoined, False
        return self._next_epoch(batches) if again else batches

    def _next_epoch(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Begin anew where the loader goes on at the end of the epoch that is over."""
        for batch in batches:
            yield batch
            yield from batches
            return
        yield from self.loader

    def resumable(self) -> tuple[bool, str]:
        return True, f"exact as far as the state_dict of {describe(self.loader)} is"


def describe(loader: Any) -> str:
    """Name a loader for a message."""
    dataset = getattr(loader, "dataset", None)
    over = "" if dataset is None else f" over {type(dataset).__name__}"
    return f"{type(loader).__name__}{over}"


def drop(batches: Iterator[Any], number: int, loader: Any) -> Iterator[Any]:
    """Fetch and forget ``number`` batches."""
    dropped = sum(1 for _ in islice(batches, number))
    if dropped < number:
        raise ValueError(
            f"the run was stopped after batch {number}, but {describe(loader)} ended after "
            f"{dropped}: resume with the data that it was saved with"
        )
    return batches

"""Where batches come from: the user's own loader, its limit and its position.

A :class:`Feed` is the iterable an engine runs over. Each ``iter(feed)`` begins an epoch over the
loader as it is. What it returns is the loader's own iterator, wrapped at most in
:func:`itertools.islice` (limit) and :func:`map` (transfer): no Python frame of ours runs between
the loop and the loader. How a run is put back on any batch is in
:mod:`leyden.engine.loader_state`.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, IterableDataset

from leyden.engine.loader_index import IndexedPosition
from leyden.engine.loader_state import DrainedPosition, OwnPosition, Position, describe
from leyden.engine.notice import warn

__all__ = ["Feed"]

_VERSION = 1


class Feed:
    """The batches of a loader, epoch after epoch, with a position that can be kept.

    Args:
        loader: Anything that can be iterated: a ``DataLoader``, a list, a generator.
        limit: Batches at most in an epoch; ``None`` is all there are. The batch after the last one
            is never fetched.
        transfer: Called with each batch, gives what the step sees (moved to the device).
        lookahead: Fetch one batch ahead where the length is unknown, so that :meth:`is_last` can
            answer there too. Loaders of known length are never read ahead. In the main process
            (``num_workers=0``) the dataset's code then runs one step early: a dataset that draws
            random numbers draws them before the step instead of after it.
        ahead: Fetch one batch ahead whatever the length, so that ``stage`` has begun on it while
            the step computes. What ``lookahead`` says of random numbers holds for it as well.
        stage: Called with each batch as soon as it is fetched; what it returns is handed to
            ``transfer`` when the batch's turn comes. It begins a copy that runs on by itself.
        exact: Have the worker processes of a ``DataLoader`` record their random states, so that a
            resumed run has the same augmentation too. It costs a worker about 50 us a batch and
            the loop nothing. Without, the order of the samples is still the same.
        seed_per_sample: Seed all random streams for each sample, by (seed, epoch, index), so that
            the data do not depend on the number of workers or ranks, and the model's random
            numbers not on the data. ``True`` takes ``torch.initial_seed()``, an int is the seed.
            The numbers are then not those of the plain loader.
        unknown: What to do to resume a loader that can neither be positioned nor keeps its own
            state: ``"drain"`` loads and drops the batches before, ``"refuse"`` raises.

    Example:
        >>> feed = Feed([10, 20, 30])
        >>> batches = iter(feed)
        >>> next(batches)
        10
        >>> state = feed.state_dict(1)
        >>> again = Feed([10, 20, 30])
        >>> again.load_state_dict(state)
        >>> list(again), list(again)
        ([20, 30], [10, 20, 30])
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        limit: int | None = None,
        transfer: Callable[[Any], Any] | None = None,
        lookahead: bool = False,
        ahead: bool = False,
        stage: Callable[[Any], Any] | None = None,
        exact: bool = True,
        seed_per_sample: bool | int = False,
        unknown: Literal["drain", "refuse"] = "drain",
    ) -> None:
        if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
            raise TypeError(
                f"loader={loader!r} cannot be iterated: pass a DataLoader, a list of batches or "
                "any other iterable"
            )
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(
                f"limit={limit!r} is not a number of batches: pass an int, or None for all"
            )
        if limit is not None and limit < 0:
            raise ValueError(f"limit={limit} is negative: pass 0 or more, or None for all batches")
        if unknown not in ("drain", "refuse"):
            raise ValueError(
                f"unknown={unknown!r} is neither 'drain' nor 'refuse': pass one of them"
            )
        self.loader = loader
        self.limit = limit
        self.transfer = transfer
        self.lookahead = lookahead
        self.ahead = ahead
        self.stage = stage
        self.exact = exact
        self.seed_per_sample = seed_per_sample
        self.unknown = unknown
        self._position = _position_of(loader, exact, seed_per_sample)
        self._ahead: _Ahead | None = None
        self._epoch = 0  # epochs begun
        self._running = False
        self._pending: dict[str, Any] | None = None

    # -------------------------------------------------------------------------------- iteration

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch, or go on where :meth:`load_state_dict` said."""
        state, self._pending = self._pending, None
        if state is None:
            self._epoch += 1
            return self._wrap(self._position.start(self._epoch), 0)
        self._epoch = state["epoch"]
        loader, position = state["loader"], state["position"]
        if loader is not None:
            loader = {**loader, "cut": self.limit is not None and position >= self.limit}
        if state["ended"]:
            if loader is not None:
                self._position.rejoin(loader, position, self._epoch)
            self._position.streams.write(state["streams"])
            self._epoch += 1
            return self._wrap(self._position.start(self._epoch), 0)
        inside: Any = loader
        batches = self._position.resume(inside, position, self._epoch)
        wrapped = self._wrap(batches, position)
        if state["ahead"] is not None and self._ahead is not None:
            if "streams" in state["ahead"]:
                self._position.streams.write(state["ahead"]["streams"])
            self._ahead.fill()
        # Last, so that nothing that was needed to get here shows.
        self._position.streams.write(state["streams"])
        return wrapped

    def length(self) -> int | None:
        """Return the batches of an epoch, ``None`` where nobody knows."""
        try:
            length = len(self.loader)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):  # torch and users raise either
            return None
        return length if self.limit is None else min(length, self.limit)

    def __len__(self) -> int:
        """Return the batches of an epoch; ``TypeError`` where nobody knows."""
        length = self.length()
        if length is None:
            raise TypeError(
                f"{describe(self.loader)} has no length: it ends when it ends "
                "(Feed.length() is None)"
            )
        return length

    def is_last(self, position: int) -> bool:
        """Say whether the ``position``-th batch (1-based) of this epoch is its last.

        Raises:
            RuntimeError: The length is unknown and ``lookahead`` is off.
        """
        length = self.length()
        if length is not None:
            return position >= length
        if self.limit is not None and position >= self.limit:
            return True
        if self._ahead is None:
            raise RuntimeError(
                f"{describe(self.loader)} has no length, so whether batch {position} is the "
                "last one is only known by fetching the next: make the feed with lookahead=True"
            )
        return self._ahead.exhausted

    # --------------------------------------------------------------------------------- position

    @property
    def begun(self) -> bool:
        """Whether an epoch of it was begun."""
        return self._running

    def state_dict(self, position: int, *, ended: bool = False) -> dict[str, Any]:
        """Keep where the run is: plain ints, lists and tensors.

        Nothing is kept between calls but the random states of the epoch's start, so the loop pays
        nothing for it.

        Args:
            position: Batches of this epoch that the run has taken, all that it asked for.
            ended: The epoch is over: the next ``iter(feed)`` of a resumed run begins a new one.
        """
        if self._pending is not None:  # loaded, and nothing happened since
            return self._pending
        if isinstance(position, bool) or not isinstance(position, int) or position < 0:
            raise ValueError(f"position={position!r} is no number of batches: pass 0 or more")
        if not self._running:
            if position:
                raise ValueError(
                    f"position={position}, but no epoch was begun: pass 0, or call iter() first"
                )
            ended = True
        loader = self._position.state(position) if self._running else None
        ahead = None if self._ahead is None else self._ahead.noted
        if loader is not None and ahead is not None and "loader" in ahead:
            loader["loader"] = ahead["loader"]
        return {
            "version": _VERSION,
            "epoch": self._epoch,
            "position": position,
            "ended": ended,
            "streams": self._position.streams.read(),
            "ahead": ahead,
            "loader": loader,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next ``iter(feed)`` go on where ``state`` was taken.

        That ``iter`` puts back all random streams of this process as its last act: what is drawn
        before does not matter.

        Raises:
            ValueError: The state is not of this loader, or of a newer version.
            RuntimeError: The loader cannot be put there, and ``unknown="refuse"``.
        """
        if state["version"] != _VERSION:
            raise ValueError(
                f"the position was saved in form {state['version']}, this leyden reads form "
                f"{_VERSION}: use the version that saved it"
            )
        if state["loader"] is not None:
            self._position.check(state["loader"])
        possible, why = self.resumable()
        if state["position"] and not possible:
            what = f"the run was stopped after batch {state['position']}"
            if self.unknown == "refuse":
                raise RuntimeError(f"{what}, and cannot be resumed there: {why}")
            warn(
                f"{what}, and what follows may differ from the uninterrupted run: {why}",
            )
        self._pending = state

    def restore_streams(self) -> None:
        """Put back the random streams of a loaded state now, before the next ``iter``."""
        if self._pending is not None:
            self._position.streams.write(self._pending["streams"])

    def keep_streams(self) -> None:
        """Let the next ``iter`` of a loaded state go on with the streams as they are now."""
        if self._pending is not None:
            self._pending = {**self._pending, "streams": self._position.streams.read()}

    def resumable(self) -> tuple[bool, str]:
        """Say whether a run stopped within an epoch will go on exactly, and how or why not."""
        if self.unknown == "refuse" and isinstance(self._position, DrainedPosition):
            return self._position.seekable()
        return self._position.resumable()

    def _limited(self, batches: Iterator[Any], position: int) -> Iterator[Any]:
        return batches if self.limit is None else islice(batches, max(0, self.limit - position))

    def _wrap(self, batches: Iterator[Any], position: int) -> Iterator[Any]:
        self._running = True
        self._ahead = None
        batches = self._limited(batches, position)
        if self.stage is not None:
            batches = map(self.stage, batches)
        if self.ahead or (self.lookahead and self.length() is None):
            batches = self._ahead = _Ahead(batches, self._position.note)
        return batches if self.transfer is None else map(self.transfer, batches)


def _position_of(loader: Any, exact: bool, seed_per_sample: bool | int) -> Position:
    indexed = (
        isinstance(loader, DataLoader)
        # Whoever overrides __iter__ may not ask the batch sampler at all.
        and type(loader).__iter__ is DataLoader.__iter__
        and not isinstance(loader.dataset, IterableDataset)
    )
    # True is 1 to isinstance, False is 0: only real ints are seeds.
    seed = None if seed_per_sample is False else int(seed_per_sample)
    if seed_per_sample is True:
        seed = torch.initial_seed()
    if seed is not None and not indexed:
        raise TypeError(
            f"seed_per_sample={seed_per_sample} needs a DataLoader over a dataset with indices, "
            f"not {describe(loader)}: leave it out"
        )
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        return OwnPosition(loader)
    if indexed:
        return IndexedPosition(loader, exact=exact, seed=seed)
    return DrainedPosition(loader)


class _Ahead:
    """Holds one batch back, to know whether another one follows.

    Attributes:
        exhausted: No batch follows the one that was handed out last.
        noted: What was kept before the held batch was fetched; None if none is held.
    """

    __slots__ = ("_batches", "_held", "_note", "exhausted", "noted")

    def __init__(self, batches: Iterator[Any], note: Callable[[], dict[str, Any]]) -> None:
        self._batches = batches
        self._note = note
        self._held: list[Any] = []
        self.exhausted = False
        self.noted: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def fill(self) -> None:
        """Fetch the batch to hold, unless one is held or there is none."""
        if not self._held and not self.exhausted:
            self.noted = self._note()
            try:
                self._held.append(next(self._batches))
            except StopIteration:
                self.exhausted = True

    def __next__(self) -> Any:
        self.fill()
        if not self._held:
            raise StopIteration
        batch = self._held.pop()
        self.fill()
        return batch

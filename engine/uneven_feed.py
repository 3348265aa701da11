"""Batches of a process that goes on while others still have some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from leyden.engine.errors import MisconfigurationException
from leyden.engine.feed import Feed
from leyden.engine.loader_state import describe

__all__ = ["UnevenFeed"]

_UNKNOWN = float("inf")
_NONE = object()


class UnevenFeed(Feed):
    """Ends an epoch where the last of several processes has no batch any more.

    A process that has run out gets its last batch again, so that whoever looks at batches sees one;
    it is not trained on (see :meth:`over`). After a resume in that state it is an empty tuple.

    Args:
        loader: as for :class:`Feed`, and so are ``given``.
        rank: the number of this process.
        counts: batches of each process; infinity for all where one of them does not know its own.
        tell: asked before each batch where the counts are unknown: says to all whether this process
            has one, and gives what each said.

    Attributes:
        counts: batches of each process in this epoch, as far as they are known.

    Raises:
        MisconfigurationException: a process has no batch at all.

    Example:
        >>> feed = UnevenFeed([10, 20], rank=1, counts=[3, 2], tell=lambda has: [])
        >>> list(feed)
        [10, 20, 20]
        >>> [feed.over(batch) for batch in (1, 2, 3)]
        [False, False, True]
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        rank: int,
        counts: Sequence[float],
        tell: Callable[[bool], Sequence[bool]],
        **given: Any,
    ) -> None:
        super().__init__(loader, **given)
        self.rank = rank
        self.counts = list(counts)
        self.tell = tell
        self._known = _UNKNOWN not in self.counts
        self._whole: dict[str, Any] | None = None  # a loaded state, as it was saved
        self._taken = 0
        self._refuse_idle()

    def over(self, position: int) -> bool:
        """Whether the ``position``-th batch, counted from 1, is none of this process."""
        return position > self.counts[self.rank]

    def with_batch(self, position: int) -> list[int]:
        """The processes that have a ``position``-th batch, counted from 1."""
        return [rank for rank, count in enumerate(self.counts) if position <= count]

    def length(self) -> int | None:
        """Return the batches of an epoch, those of the process with most; None if nobody knows."""
        return int(max(self.counts)) if self._known else None

    def is_last(self, position: int) -> bool:
        return self._known and position >= max(self.counts)

    def __iter__(self) -> Iterator[Any]:
        state, self._whole = self._whole, None
        goes_on = state is not None and not state["ended"]
        if not self._known:
            self.counts = [_UNKNOWN] * len(self.counts)
            if goes_on and len(state["counts"]) == len(self.counts):  # type: ignore[index]
                self.counts = list(state["counts"])  # type: ignore[index]
        self._taken = state["position"] if goes_on else 0  # type: ignore[index]
        return super().__iter__()

    def _limited(self, batches: Iterator[Any], position: int) -> Iterator[Any]:
        return self._evened(super()._limited(batches, position), self._taken)

    def _evened(self, batches: Iterator[Any], taken: int) -> Iterator[Any]:
        last: Any = ()
        while not (self._known and taken >= max(self.counts)):
            batch = _NONE
            if not self.over(taken + 1):
                batch = next(batches, _NONE)
            if not self._known:
                has = self.tell(batch is not _NONE)
                pairs = zip(self.counts, has, strict=True)
                self.counts = [n if there else min(n, taken) for n, there in pairs]
                if not any(has):
                    return
                self._refuse_idle()
            elif batch is _NONE and not self.over(taken + 1):
                raise RuntimeError(
                    f"{describe(self.loader)} said it has {int(self.counts[self.rank])} batches, "
                    f"and gave {taken}: the other processes rely on its length"
                )
            if batch is None:
                raise MisconfigurationException(
                    "the loader gave None for a batch, which makes no gradients, and other "
                    "processes wait for them: leave such batches out of the loader, or "
                    "join_uneven_inputs"
                )
            last = last if batch is _NONE else batch
            taken += 1
            yield last
        if self.limit is None:
            next(batches, None)  # lets it end

    def state_dict(self, position: int, *, ended: bool = False) -> dict[str, Any]:
        if self._whole is not None:
            return self._whole
        own = int(min(position, self.counts[self.rank]))
        found = super().state_dict(own, ended=ended)
        return {**found, "position": position, "counts": list(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        counts = state.get("counts", ())
        if self._known or len(counts) != len(self.counts):
            counts = self.counts
        self._whole = {**state, "counts": list(counts)}
        super().load_state_dict(
            {**state, "position": int(min(state["position"], counts[self.rank]))}
        )

    def keep_streams(self) -> None:
        super().keep_streams()
        if self._whole is not None and self._pending is not None:
            self._whole = {**self._whole, "streams": self._pending["streams"]}

    def _refuse_idle(self) -> None:
        idle = [rank for rank, count in enumerate(self.counts) if not count]
        if idle and len(idle) < len(self.counts):
            ranks = ", ".join(map(str, idle))
            error = MisconfigurationException(
                f"no training batch at all is there for rank{'s' * (len(idle) > 1)} {ranks}: "
                "join_uneven_inputs lets processes have different numbers of batches, but each "
                "needs one"
            )
            error.on_all_ranks = True  # type: ignore[attr-defined]
            raise error

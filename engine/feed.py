"""Where batches come from: the user's own loader, its limit and its position.

A :class:`Feed` is the iterable an engine runs over. Each ``iter(feed)`` begins an epoch over the
loader as it is. What it returns is the loader's own iterator, wrapped at most in
:func:`itertools.islice` (limit) and :func:`map` (transfer): no Python frame of ours runs between
the loop and the loader.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

__all__ = ["Feed"]


class Feed:
    """The batches of a loader, epoch after epoch.

    Args:
        loader: Anything that can be iterated: a ``DataLoader``, a list, a generator.
        limit: Batches at most in an epoch; ``None`` is all there are. The batch after the last one
            is never fetched.
        transfer: Called with each batch, gives what the step sees (moved to the device).
        lookahead: Fetch one batch ahead where the length is unknown, so that :meth:`is_last` can
            answer there too. Loaders of known length are never read ahead. In the main process
            (``num_workers=0``) the dataset's code then runs one step early: a dataset that draws
            random numbers draws them before the step instead of after it.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        limit: int | None = None,
        transfer: Callable[[Any], Any] | None = None,
        lookahead: bool = False,
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
        self.loader = loader
        self.limit = limit
        self.transfer = transfer
        self.lookahead = lookahead
        self._ahead: _Ahead | None = None

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch."""
        batches: Iterator[Any] = iter(self.loader)
        if self.limit is not None:
            batches = islice(batches, self.limit)
        if self.lookahead and self.length() is None:
            batches = self._ahead = _Ahead(batches)
        return batches if self.transfer is None else map(self.transfer, batches)

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
                f"{type(self.loader).__name__} has no length: it ends when it ends "
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
                f"{type(self.loader).__name__} has no length, so whether batch {position} is the "
                "last one is only known by fetching the next: make the feed with lookahead=True"
            )
        return self._ahead.exhausted


class _Ahead:
    """Holds one batch back, to know whether another one follows."""

    __slots__ = ("_batches", "_held", "exhausted")

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._held: list[Any] | None = None
        self.exhausted = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def fill(self) -> None:
        """Fetch the batch to hold, unless one is held or there is none."""
        if self._held is None and not self.exhausted:
            try:
                self._held = [next(self._batches)]
            except StopIteration:
                self.exhausted = True

    def __next__(self) -> Any:
        self.fill()
        if self._held is None:
            raise StopIteration
        batch = self._held.pop()
        self._held = None
        self.fill()
        return batch

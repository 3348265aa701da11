"""How often the processes of a run ask one another: seldom where batches are quick."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pace"]

_MOST = 2**31 - 1  # what a 32-bit number of a message holds


class Pace:
    """After how many batches the processes ask one another again.

    They ask after each batch whose number is a multiple of :attr:`every`, a power of two that all
    of them know: it changes only by the numbers of an answer, which are the same everywhere. It
    doubles with each answer up to ``most``, so that the batches with a question are the same in
    each run: 1, 2, 4 ... ``most``, and then every ``most``-th. It stays lower where so many batches
    would take longer than ``within``, by the time of the slowest process.

    Args:
        most: batches from one question to the next; 1: after each batch.
        within: seconds from one question to the next, but for a batch that is longer.
        clock: gives seconds.

    Example:
        >>> pace = Pace(8)
        >>> asked = []
        >>> for batch in range(1, 30):
        ...     if pace.due(batch):
        ...         asked.append(batch)
        ...         pace.heard(pace.measured(batch))
        >>> asked
        [1, 2, 4, 8, 16, 24]
    """

    def __init__(
        self,
        most: int = 32,
        *,
        within: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.most = most
        self.within = within
        self.every = 1
        self._clock = clock
        self._mark: tuple[float, int] | None = None
        self._slowest = 0

    def due(self, batch: int) -> bool:
        """Whether there is a question after this batch, counted from 1."""
        return batch % self.every == 0

    def restart(self) -> None:
        """Begin as in the beginning: after the first batch."""
        self.every = 1
        self._mark = None
        self._slowest = 0

    def rest(self) -> None:
        """What comes now is no batch, or a first one: its time does not count."""
        self._mark = None

    def measured(self, batch: int) -> int:
        """Microseconds that a batch took since the last question; 0 where nobody knows."""
        mark, self._mark = self._mark, (self._clock(), batch)
        if mark is None or batch <= mark[1]:
            return 0
        return min(int(1e6 * (self._mark[0] - mark[0]) / (batch - mark[1])), _MOST)

    def heard(self, slowest: int) -> None:
        """Take the largest :meth:`measured` of all processes."""
        self._slowest = slowest or self._slowest
        most = float(self.most)
        if self._slowest:
            most = min(most, 1e6 * self.within / self._slowest)
        self.every *= 2
        while self.every > max(most, 1):
            self.every //= 2

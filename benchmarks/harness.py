"""How the benchmarks measure: a contender and the hand-written loop take turns within an epoch.

The stopwatch sits in the data: every so many batches the loader of a contender lets the
hand-written loop run as many batches, within the same few milliseconds. So a machine that is busy,
or changes its speed, does the same to both, and nothing before the first and behind the last batch
of a slice is counted. The clock is the CPU time of the thread: other work on the machine does not
add to it, nor does waiting for a disk. A run gives one number; the table shows the median of runs.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["YARDSTICK", "Batches", "Epochs", "Report", "Row", "Rounds"]

clock = time.thread_time

YARDSTICK = "ignite"
"""The peer that bounds in microseconds are scaled by."""


class Batches:
    """One batch, many times, in slices between which the hand-written loop runs.

    Args:
        batch: what is yielded each time.
        base: the hand-written loop: runs over the batches it is given.
        size: iterations of a slice.
        slices: how many.
        warmup: iterations that are not counted.
    """

    def __init__(
        self, batch: Any, base: Callable[[Any], None], size: int, slices: int, warmup: int = 60
    ) -> None:
        self.batch, self.base, self.size, self.slices = batch, base, size, slices
        self.warmup = warmup
        self.pairs: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return self.warmup + self.slices * self.size + 1

    def __iter__(self) -> Iterator[Any]:
        yield from itertools.repeat(self.batch, self.warmup)
        self.base(self._slice(self.warmup))
        for _ in range(self.slices):
            started = clock()
            yield from itertools.repeat(self.batch, self.size)
            between = clock()
            self.base(self._slice(self.size))
            self.pairs.append((between - started, clock() - between))
        yield self.batch

    def _slice(self, count: int) -> Iterator[Any]:
        yield from itertools.repeat(self.batch, count)

    @property
    def over(self) -> float:
        """Microseconds of an iteration over the hand-written loop's, in undisturbed slices.

        Other work on the machine empties caches and shares cores, which only ever adds time: the
        fastest tenth of the slices is the least disturbed, of the contender as of the loop.
        """
        mine, base = (sorted(taken)[len(taken) // 10] for taken in zip(*self.pairs, strict=True))
        return (mine - base) / self.size * 1e6


class Epochs:
    """A loader that lets the hand-written loop run an epoch before each of a contender's.

    From one start to the next: what a framework does between two epochs is counted. The first epoch
    warms up, the last is not counted, since nothing says when it is over.

    Args:
        loader: the loader.
        base: the hand-written loop: runs one epoch over the loader it is given.
    """

    def __init__(self, loader: Any, base: Callable[[Any], None]) -> None:
        self.loader, self.base = loader, base
        self.mine: list[float] = []
        self.theirs: list[float] = []
        self._since = math.nan

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        now = clock()
        self.mine.append(now - self._since)
        self.base(self.loader)
        self._since = clock()
        self.theirs.append(self._since - now)
        return iter(self.loader)

    @property
    def ratio(self) -> float:
        """How many times as long as the hand-written loop's an epoch takes: the median."""
        pairs = list(zip(self.mine, self.theirs, strict=True))[2:]
        return statistics.median(mine / base for mine, base in pairs)


@dataclass
class Rounds:
    """What contenders took, round by round."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def run(self, contenders: Mapping[str, Callable[[], float]]) -> None:
        """Let each run once."""
        for name, contender in contenders.items():
            gc.collect()
            self.taken.setdefault(name, []).append(contender())

    def median(self, name: str) -> float:
        """The median of a contender."""
        return statistics.median(self.taken[name])

    def slowness(self, reference: float) -> float:
        """How many times the ``reference`` ignite's loop takes in these rounds, 1 at least."""
        return max(1.0, self.median(YARDSTICK) / reference)


@dataclass
class Row:
    """One line of the table.

    Attributes:
        what: what is measured.
        values: number by contender; missing ones show as a dash.
        unit: put behind the numbers.
        must: the bound; None for a row that only informs. Microseconds hold on the machine where
            ignite's loop around the same step takes ``ignite``; elsewhere, and on a busy day, the
            bound is as many times larger as that is: it is a ratio to a peer of the same run.
        aim: what we want to reach.
        ignite: what belongs to the bound.
        digits: behind the decimal point.
    """

    what: str
    values: dict[str, float]
    unit: str = "us"
    must: float | None = None
    aim: float | None = None
    ignite: float | None = None
    digits: int = 1


COLUMNS = ("leyden", "must", "aim", "ignite", "Lightning", "Accelerate")


class Report:
    """The rows of one run of the benchmarks."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Add a line below the table, once."""
        if text not in self.notes:
            self.notes.append(text)

    def markdown(self, command: str) -> str:
        """The table, with what it says and how to repeat it."""
        lines = [
            f"| over the hand-written loop | {' | '.join(COLUMNS)} |",
            f"|---|{'---:|' * len(COLUMNS)}",
        ]
        for row in self.rows:
            cells = {"must": row.must, "aim": row.aim, **row.values}
            shown = [_cell(cells.get(column), row) for column in COLUMNS]
            lines.append(f"| {row.what} | {' | '.join(shown)} |")
        lines += ["", *self.notes, "", f"Repeat it: `{command}`"]
        return "\n".join(lines)


def _cell(value: float | None, row: Row) -> str:
    return "-" if value is None else f"{value:.{row.digits}f} {row.unit}".rstrip()

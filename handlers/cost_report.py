"""The table of what a run spent its time on."""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Cost", "CostLine"]

_WIDTH, _NARROWEST = 100, 22
_TITLES = {"train": "training", "validate": "validation", "test": "test", "predict": "prediction"}


@dataclass(frozen=True)
class CostLine:
    """What one handler, or one part of the step, took.

    Attributes:
        engine: "train", "validate", "test" or "predict".
        event: the event's name; "the step", "data wait", "the timing itself" or "between events"
            for what is no handler.
        handler: class and method.
        origin: the argument, callback or call that put it there.
        seconds: of it alone, without what it called through other events.
        calls: how often it ran; where an iteration in some was timed, an estimate.
    """

    engine: str
    event: str
    handler: str
    origin: str
    seconds: float
    calls: int


class Cost:
    """Where the time of a run went: ``print`` it, or take ``by(...)`` or ``to_dict()``.

    Args:
        lines: handlers and parts of the step.
        wall: seconds from the beginning of the run to its end.
        iterations, samples: of each engine, how many there were and how many of them were timed.
    """

    def __init__(
        self,
        lines: Iterable[CostLine],
        *,
        wall: float,
        iterations: Mapping[str, int],
        samples: Mapping[str, int],
    ) -> None:
        self.lines = sorted(lines, key=lambda line: -line.seconds)
        self.wall = wall
        self.iterations = dict(iterations)
        self.samples = dict(samples)

    @property
    def total(self) -> float:
        """The sum of the lines in seconds."""
        return sum(line.seconds for line in self.lines)

    def share(self, line: CostLine) -> float:
        """The line's part of the whole, from 0 to 1."""
        return line.seconds / self.wall if self.wall else 0.0

    def by(self, what: str) -> dict[str, float]:
        """Add up the seconds, the most expensive first.

        Args:
            what: "handler" (its class), "event", "argument" or "engine".
        """
        keys = {
            "handler": lambda line: line.handler.split(".")[0] or line.event,
            "event": lambda line: line.event,
            "argument": lambda line: line.origin.removesuffix(" (default)") or line.event,
            "engine": lambda line: line.engine,
        }
        if what not in keys:
            raise ValueError(f"by={what!r} is unknown: pass one of {', '.join(map(repr, keys))}")
        sums: dict[str, float] = {}
        for line in self.lines:
            key = keys[what](line)
            sums[key] = sums.get(key, 0.0) + line.seconds
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "wall": self.wall,
            "iterations": self.iterations,
            "samples": self.samples,
            "lines": [{**asdict(line), "share": self.share(line)} for line in self.lines],
        }

    def __str__(self) -> str:
        """Return the table: by engine, the most expensive first; less than 0.05 % is summed up."""
        if not self.lines:
            return "nothing was measured yet: trainer.cost() tells of the last run"
        rows: list[tuple[str, ...]] = []
        for engine in dict.fromkeys([*_TITLES, *(line.engine for line in self.lines)]):
            rows += self._rows(engine)
        widths = [max(len(row[i]) for row in [_HEAD, *rows] if len(row) > 1) for i in range(6)]
        for column in (5, 4, 3):  # those of names; the last one is the longest
            spare = _WIDTH - (4 + sum(widths) + 2 * 5)
            widths[column] = max(min(_NARROWEST, widths[column]), widths[column] + min(spare, 0))
        out = [_laid(_HEAD, widths), "-" * min(_WIDTH, 4 + sum(widths) + 10)]
        out += [f"  {row[0]}" if len(row) == 1 else _laid(row, widths) for row in rows]
        timed = [
            f"{self.samples[engine]} of {count} iterations of {_TITLES.get(engine, engine)}"
            for engine, count in self.iterations.items()
        ]
        out += ["", f"{self.wall:.4g} s in all" + (f"; timed: {', '.join(timed)}" if timed else "")]
        return "\n".join(out)

    __repr__ = __str__

    def _rows(self, engine: str) -> list[tuple[str, ...]]:
        lines = [line for line in self.lines if line.engine == engine]
        shown = [line for line in lines if self.share(line) >= 0.0005]
        rest = [line for line in lines if self.share(line) < 0.0005]
        rows: list[tuple[str, ...]] = [(_TITLES.get(engine, engine),)] if lines else []
        for line in shown:
            rows.append(self._cells(line))
        if rest:
            seconds = sum(line.seconds for line in rest)
            share = seconds / self.wall if self.wall else 0.0
            rows.append((f"{share:.1%}", f"{seconds:.4g}", "", "", f"{len(rest)} others", ""))
        return rows

    def _cells(self, line: CostLine) -> tuple[str, ...]:
        each = f"{1e6 * line.seconds / line.calls:.1f}" if line.calls else ""
        origin = line.origin.replace(" (default)", "")
        handler = line.handler or line.event
        event = line.event if line.handler else ""
        return (f"{self.share(line):.1%}", f"{line.seconds:.4g}", each, event, handler, origin)


_HEAD = ("share", "seconds", "us each", "event", "handler", "put there by")


def _laid(cells: Iterable[str], widths: list[int]) -> str:
    """One row, in several lines where a name is longer than its column."""
    columns = [
        textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)
    ]
    lines = []
    for i in range(max(map(len, columns))):
        parts = [column[i] if i < len(column) else "" for column in columns]
        padded = [
            part.rjust(width) if at < 3 else part.ljust(width)
            for at, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        lines.append(("    " + "  ".join(padded)).rstrip())
    return "\n".join(lines)

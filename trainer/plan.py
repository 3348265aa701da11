"""What will run: each event with its handlers in order, how often, and who put them there."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leyden.engine.errors import MisconfiguredValue
from leyden.simulate import Schedule, Simulation

__all__ = ["WIDTH", "Line", "Plan"]

#: Characters of a printed line, at most.
WIDTH = 100

_TITLES = {"train": "training", "validate": "validation", "test": "test", "predict": "prediction"}
_HEAD = ("order", "handler", "when", "times", "put there by")
_RIGHT = (0, 3)  # columns of numbers
_ELASTIC = (1, 2, 4)  # columns that wrap where the table would be too wide
_NARROWEST = 12
_INDENT = "    "
_DEFAULT, _STAR = " (default)", "*"


@dataclass(frozen=True)
class Line:
    """One handler on one event, or a part of the step.

    Attributes:
        engine: "train", "validate", "test" or "predict".
        event: the event's name; "the step" for what the engine itself does to a batch.
        order: its rank among the handlers of the event; None for the step.
        handler: class and method.
        filter: on which of the events it runs; empty: on each.
        times: how often it is called in this run if nothing stops it early; None where that is
            not known (yet).
        origin: the argument, callback or call that put it there.
        reason: why it has that rank, where the handler says so.
    """

    engine: str
    event: str
    order: float | None
    handler: str
    filter: str
    times: int | None
    origin: str
    reason: str = ""


class Plan:
    """The handlers of a Trainer in the order they run: ``print`` it, or take ``to_dict()``.

    Args:
        lines: the handlers, those of an engine and of an event beside one another.
        notes: what the arguments mean together, in sentences.
        reasons: whether to print why a handler has its rank.
        schedule: the arguments that say when things happen.
        known: the batches of training and of each validation loader, where they are known.
    """

    def __init__(
        self,
        lines: Iterable[Line],
        notes: Iterable[str] = (),
        *,
        reasons: bool = False,
        schedule: Schedule | None = None,
        known: tuple[int | None, Sequence[int]] = (None, ()),
    ) -> None:
        self.schedule = Schedule() if schedule is None else schedule
        self.known = known
        self.lines = list(lines)
        self.notes = list(notes)
        self.reasons = reasons

    def simulate(
        self, train_batches: int | None = None, val_batches: int | Sequence[int] | None = None
    ) -> Simulation:
        """Work out every event of the run in order, without model or data.

        Args:
            train_batches: the length of the training loader; None: of the one fit has already.
            val_batches: that of the validation loader, or of each; None: as fit has them, or none.

        Example:
            >>> import leyden
            >>> trainer = leyden.Trainer(max_epochs=2, val_check_interval=250, logger=False)
            >>> trainer.plan().simulate(train_batches=1000, val_batches=50).validations[:3]
            [(0, 250), (0, 500), (0, 750)]
        """
        train, val = self.known
        if train_batches is None and train is None:
            raise MisconfiguredValue(
                "simulate() does not know how many batches there are: pass train_batches= (and "
                "val_batches=), or call it when fit has its loaders"
            )
        return self.schedule.simulate(
            train if train_batches is None else train_batches,  # type: ignore[arg-type]
            val if val_batches is None else val_batches,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data: ``{"lines": [{...}], "notes": [...]}``."""
        return {"lines": [asdict(line) for line in self.lines], "notes": list(self.notes)}

    def __str__(self) -> str:
        """Return the table, at most 100 characters wide; long cells wrap, nothing is cut off."""
        widths = _widths([_HEAD, *(_cells(line) for line in self.lines)])
        out = [_row(_HEAD, widths), "-" * (len(_INDENT) + sum(widths) + 2 * (len(widths) - 1))]
        engine = event = ""
        for line in self.lines:
            if line.engine != engine:
                out += [""] * bool(engine) + [_TITLES.get(line.engine, line.engine)]
                engine, event = line.engine, ""
            if line.event != event:
                out.append(f"  {line.event}")
                event = line.event
            out.append(_row(_cells(line), widths))
            if self.reasons and line.reason:
                out += [" " * 12 + part for part in _wrapped(line.reason, WIDTH - 12)]
        notes = [*self.notes]
        if any(line.origin.endswith(_DEFAULT) for line in self.lines):
            notes.append(f"{_STAR} by default")
        for i, note in enumerate(notes):
            out += [""] * (i == 0) + _wrapped(note, WIDTH)
        return "\n".join(out)

    __repr__ = __str__


def _cells(line: Line) -> tuple[str, ...]:
    order = "" if line.order is None else f"{line.order:g}"
    times = "" if line.times is None else str(line.times)
    origin = line.origin
    if origin.endswith(_DEFAULT):
        origin = f"{origin.removesuffix(_DEFAULT)} {_STAR}"
    return (order, line.handler, line.filter, times, origin)


def _widths(rows: list[tuple[str, ...]]) -> list[int]:
    """Return widths that show all if the page is wide enough; otherwise the widest columns wrap."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    while len(_INDENT) + sum(widths) + 2 * (len(widths) - 1) > WIDTH:
        widest = max(_ELASTIC, key=lambda i: widths[i])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def _row(cells: Iterable[str], widths: list[int]) -> str:
    columns = [_wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for i in range(max(len(column) for column in columns)):
        parts = [column[i] if i < len(column) else "" for column in columns]
        padded = [
            part.rjust(width) if at in _RIGHT else part.ljust(width)
            for at, (part, width) in enumerate(zip(parts, widths, strict=True))
        ]
        lines.append(_INDENT + "  ".join(padded).rstrip())
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    """Break text at spaces, and a word that is too long where one can still read it."""
    lines, line = [], ""
    for word in re.findall(r"\s*\S+", text):
        if len(line) + len(word) <= width:
            line += word
            continue
        if line:
            lines.append(line)
            word = word.lstrip()
        while len(word) > width:
            cut = _cut(word, width)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line or not lines else lines


def _cut(word: str, width: int) -> int:
    """Where to break a word: after the last dot or equals sign that fits, else underscore."""
    for marks in (".=", "_,(", ""):
        at = max((word.rfind(mark, 1, width) for mark in marks), default=-1)
        if at > 0:
            return at + 1
    return width

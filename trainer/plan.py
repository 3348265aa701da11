"""What will run: each event with its handlers in order, how often, and who put them there."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from leyden.engine import Engine

__all__ = ["Line", "Plan"]


@dataclass(frozen=True)
class Line:
    """One handler on one event.

    Attributes:
        engine: "train", "validate", "test" or "predict".
        event: the event's name.
        order: its rank there.
        handler: class and function.
        filter: when it runs; empty: each time.
        times: how often in this run, as far as it is known; empty if not.
        origin: the argument or call that put it there.
    """

    engine: str
    event: str
    order: float
    handler: str
    filter: str
    times: str
    origin: str


class Plan:
    """The handlers of a Trainer, in the order in which they run. ``print`` it, or take ``to_dict()``."""

    def __init__(self, lines: Iterable[Line], notes: Iterable[str] = ()) -> None:
        self.lines = list(lines)
        self.notes = list(notes)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data: ``{"lines": [{...}], "notes": [...]}``."""
        return {"lines": [vars(line) for line in self.lines], "notes": self.notes}

    def __str__(self) -> str:
        rows = [("event", "order", "handler", "when", "times", "put there by")]
        for line in self.lines:
            event = line.event if line.engine == "train" else f"{line.engine}: {line.event}"
            rows.append((event, f"{line.order:g}", line.handler, line.filter, line.times, line.origin))
        widths = [34, 6, 30, 12, 6, 24]
        used = [min(limit, max(len(row[i]) for row in rows)) for i, limit in enumerate(widths)]
        out, last = [], None
        for i, row in enumerate(rows):
            cells = list(row)
            if row[0] == last:
                cells[0] = ""  # said once for all handlers of an event
            last = row[0]
            text = " ".join(_fitted(cell, width) for cell, width in zip(cells, used, strict=True))
            out.append(text.rstrip())
            if i == 0:
                out.append("-" * min(100, sum(used) + len(used) - 1))
        return "\n".join(out + [""] * bool(self.notes) + self.notes)

    __repr__ = __str__


def _fitted(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "~"


def lines_of(engine: Engine, stage: str, times: dict[str, str]) -> Iterable[Line]:
    """The lines of one engine."""
    order = {event: i for i, event in enumerate(ORDER)}
    entries = sorted(
        enumerate(engine.entries()), key=lambda item: (order.get(str(item[1].event.value), 99), item[0])
    )
    for _, entry in entries:
        owner = entry.owner
        function = getattr(entry.handler, "__qualname__", repr(entry.handler))
        name = function.split("<locals>.")[-1]
        origin = getattr(owner, "origin", "") if owner is not None else "attached by hand"
        event = str(getattr(entry.event, "name", entry.event))
        how = "" if entry.filter is None else str(entry.filter)
        yield Line(stage, event, entry.order, name, how, times.get(event, "") if not how else "", origin)


ORDER = (
    "fit_started",
    "pretrain_started",
    "pretrain_completed",
    "sanity_check_started",
    "sanity_check_completed",
    "started",
    "epoch_started",
    "get_batch_started",
    "get_batch_completed",
    "iteration_started",
    "forward_completed",
    "backward_started",
    "backward_completed",
    "gradients_ready",
    "optimizer_step_started",
    "optimizer_step_completed",
    "zero_grad_started",
    "iteration_completed",
    "validation_started",
    "validation_completed",
    "checkpoint_saved",
    "checkpoint_loaded",
    "epoch_completed",
    "completed",
    "interrupt",
    "terminate",
    "exception_raised",
    "training_ended",
    "fit_completed",
)

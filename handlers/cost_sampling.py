"""Which iterations are timed, and what the ones that are not timed are taken to have cost."""

import math
from collections.abc import Iterable
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.dispatch import Channel
from leyden.engine.watching import channels_of
from leyden.handlers.cost_report import CostLine

__all__ = ["GET", "HOT", "RARE", "Row", "Sampler", "scaled"]

#: Seconds that an iteration may cost on average, or a part of its time where that is more.
BUDGET, SHARE = 0.4e-6, 0.002

GET, GOT = Events.GET_BATCH_STARTED, Events.GET_BATCH_COMPLETED
HOT = {
    "train": (
        GOT,
        Events.ITERATION_STARTED,
        TrainerEvents.FORWARD_COMPLETED,
        TrainerEvents.BACKWARD_STARTED,
        TrainerEvents.BACKWARD_COMPLETED,
        TrainerEvents.GRADIENTS_READY,
        TrainerEvents.OPTIMIZER_STEP_STARTED,
        TrainerEvents.OPTIMIZER_STEP_COMPLETED,
        TrainerEvents.ZERO_GRAD_STARTED,
        Events.ITERATION_COMPLETED,
    ),
    "evaluate": (GOT, Events.ITERATION_STARTED, Events.ITERATION_COMPLETED),
}
RARE = {
    "train": tuple(
        event
        for event in (*TrainerEvents, *Events)
        if event not in (*HOT["train"], GET)
        and event not in (Events.EXCEPTION_RAISED, Events.TERMINATE_SINGLE_EPOCH)
    ),
    "evaluate": (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED),
}


class Row:
    """Time and calls of one line.

    Attributes:
        seconds, calls: so far; of a sampled row those of the sample that is being taken.
        sampled: whether they are those of the iterations that were watched only.
        estimate, estimated_calls: the samples so far, each times the iterations it stands for.
        last: seconds and calls of the sample whose iterations are not over.
    """

    __slots__ = (
        "calls", "estimate", "estimated_calls", "event", "last", "name", "origin", "sampled",
        "seconds", "stage",
    )  # fmt: skip

    def __init__(self, stage: str, event: str, name: str, origin: str, sampled: bool) -> None:
        self.stage, self.event, self.name, self.origin = stage, event, name, origin
        self.sampled = sampled
        self.seconds = self.estimate = self.estimated_calls = 0.0
        self.calls = 0
        self.last: tuple[float, float] = (0.0, 0)


class Sampler:
    """When to watch an iteration of one engine, and what that gave.

    Attributes:
        offset: what to add to ``state.iteration`` to count on over all runs of the engine.
        at, next: the iteration that was watched last, and the one that will be.
        outside: the row of the iterations that nobody watches.
        timing: the row of what watching costs.
        inside: seconds of the iterations that were watched.
        hot: the channels of an iteration, that of its beginning excepted.
        segments: what goes on behind an event; filled as they are met.
    """

    def __init__(self, engine: Engine, stage: str, outside: Row, timing: Row) -> None:
        self.stage, self.outside, self.timing = stage, outside, timing
        kind = "train" if stage == "train" else "evaluate"
        self.get = engine.channel(GET)
        self.hot = _channels(engine, HOT[kind])
        self.rare = _channels(engine, RARE[kind])
        self.segments: dict[Channel, tuple[Row, bool]] = {}
        self.rows: list[Row] = []
        self.sampling = False
        self.offset = self.at = self.next = self.samples = self.counted = 0
        self.gap = 1
        self.inside = 0.0
        self._known = self._spent = 0.0
        self._taken = 0

    def flush(self, now: int) -> None:
        """Give the last sample the weight of the iterations since then, and choose the pace."""
        weight = max(now - self.at, 1)
        for row in self.rows:
            seconds, calls = row.last
            if seconds or calls:
                row.estimate += weight * seconds
                row.estimated_calls += weight * calls
                row.last = (0.0, 0)
        known = self.outside.seconds + self.inside
        each, self._known = (known - self._known) / weight, known
        # What a sample costs is measured as well.
        spent = (self.timing.seconds - self._spent) / max(self.samples - self._taken, 1)
        self._spent, self._taken = self.timing.seconds, self.samples
        pace = math.ceil(spent / max(BUDGET, SHARE * each))
        self.gap = max(1, min(pace, 2 * self.gap))

    def take(self) -> None:
        """Keep what the sample gave, and say when the next one is due."""
        for row in self.rows:
            self.inside += row.seconds
            row.last = (row.last[0] + row.seconds, row.last[1] + row.calls)
            row.seconds, row.calls = 0.0, 0
        self.samples += 1
        # Steps of uneven length, so that what runs each 50 iterations is not always met, or never.
        uneven = 0.5 + self.samples * 0.6180339887498949 % 1.0
        self.next = self.at + max(1, round(self.gap * uneven))


def _channels(engine: Engine, events: Iterable[Any]) -> list[Channel]:
    return channels_of(engine, [event for event in events if engine.has_registered_events(event)])


def scaled(sampler: Sampler, count: int) -> list[CostLine]:
    """The lines of the iterations: samples, scaled to the time that is known exactly."""
    weight = max(count - sampler.at, 1)
    # What is being sampled right now counts once.
    raw = [
        (row, row.estimate + weight * row.last[0] + row.seconds,
         row.estimated_calls + weight * row.last[1] + row.calls)
        for row in sampler.rows
    ]  # fmt: skip
    measured = sum(seconds for _, seconds, _ in raw)
    inside = sampler.inside + sum(row.seconds for row in sampler.rows)
    known = sampler.outside.seconds + inside
    if not measured:
        row = sampler.outside
        return [CostLine(row.stage, "not timed", row.name, "", known, count)] if known else []
    return [
        CostLine(row.stage, row.event, row.name, row.origin, seconds * known / measured, round(n))
        for row, seconds, n in raw
        if seconds or n
    ]

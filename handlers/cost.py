"""What a run spends its time on: by handler, event and argument, measured in every run.

Events that are rare (of a fit, an epoch, a validation) are timed each time. Of the events of an
iteration only a sample is: for one iteration in some tens the engine's channels are watched, the
others run as if nobody measured. Each sample stands for the iterations up to the next one, and all
of them together for the time that the iterations really took, which is known exactly.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.dispatch import Channel
from leyden.engine.records import Record
from leyden.engine.watching import Watcher, channels_of, join, leave
from leyden.handlers.cost_report import Cost, CostLine
from leyden.handlers.naming import handler_name, handler_origin

__all__ = ["CostMeter"]

#: Seconds that an iteration may cost on average, or a part of its time where that is more.
BUDGET, SHARE = 0.4e-6, 0.002

TIMING = "the timing itself"
BETWEEN = "between events"
WORDS = {"train": "training", "validate": "validation", "test": "test", "predict": "predict"}

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
#: What goes on from the end of an event to the beginning of the next one.
AFTER = {
    GET: ("data wait", ""),
    Events.ITERATION_STARTED: ("the step", ""),
    TrainerEvents.BACKWARD_STARTED: ("the step", "backward"),
    TrainerEvents.OPTIMIZER_STEP_STARTED: ("the step", ""),
    TrainerEvents.ZERO_GRAD_STARTED: ("the step", "zero_grad"),
}


class _Row:
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


class _Sampler:
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

    def __init__(self, engine: Engine, stage: str, outside: _Row, timing: _Row) -> None:
        self.stage, self.outside, self.timing = stage, outside, timing
        kind = "train" if stage == "train" else "evaluate"
        self.get = engine.channel(GET)
        self.hot = _channels(engine, HOT[kind])
        self.rare = _channels(engine, RARE[kind])
        self.segments: dict[Channel, _Row | None] = {}
        self.rows: list[_Row] = []
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


class CostMeter(Watcher):
    """Measures one run after the other; `report` tells of the last, or of the one that goes on.

    Args:
        engine: the training engine.
        evaluators: those of validation, test and prediction.
        clock: gives seconds.

    Example:
        >>> from leyden.engine import Engine
        >>> engine = Engine(lambda engine, batch: sum(range(10000)))
        >>> meter = CostMeter(engine)
        >>> meter.start()
        >>> state = engine.run(range(100), max_epochs=2)
        >>> meter.stop()
        >>> meter.report().iterations["train"]
        200
    """

    def __init__(
        self,
        engine: Engine,
        evaluators: Iterable[Engine] = (),
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engines = [engine, *evaluators]
        self._clock = clock
        self.running = False
        self._clear()

    def _clear(self) -> None:
        self._rows: dict[tuple[Any, ...], _Row] = {}
        self._by_record: dict[int, tuple[Record, _Row]] = {}
        self._samplers: dict[Any, _Sampler] = {}
        # What each event means: the sampler of its engine, and what to do when it begins and ends.
        self._events: dict[Channel, tuple[_Sampler, str]] = {}
        self._stack: list[_Row] = []
        self._begun = self._since = self._wall = 0.0
        self._now = self._around("train")

    def start(self) -> None:
        """Begin anew."""
        if self.running:
            self.stop()
        self._clear()
        for engine in self.engines:
            stage = getattr(engine.state, "stage", "train")
            outside, timing = self._row(stage, "", "iterations", ""), self._row(stage, TIMING)
            sampler = self._samplers[engine] = _Sampler(engine, stage, outside, timing)
            for channel in sampler.rare:
                self._events[channel] = (sampler, _MEANING.get(channel.event, ""))
            for channel in sampler.hot:
                self._events[channel] = (sampler, "hot")
            self._events[sampler.get] = (sampler, "get")
            join([*sampler.rare, sampler.get], self)
        self.running = True
        self._begun = self._since = self._clock()

    def stop(self) -> None:
        """End the measurement, wherever the run stands; the engines are as if nobody measured."""
        if not self.running:
            return
        self._switch(self._now)
        self._wall = self._since - self._begun
        self.running = False
        for engine, sampler in self._samplers.items():
            self._close(sampler)
            sampler.counted = max(sampler.counted, sampler.offset + engine.state.iteration)
            leave([*sampler.rare, sampler.get], self)
        # They hold handlers, and with them the model.
        self._by_record.clear()
        self._events.clear()

    def report(self) -> Cost:
        """Return what was measured so far."""
        if self.running:
            self._switch(self._now)
            self._wall = self._since - self._begun
        lines: list[CostLine] = []
        iterations: dict[str, int] = {}
        samples: dict[str, int] = {}
        for engine, sampler in self._samplers.items():
            count = sampler.counted
            if self.running:
                count = max(count, sampler.offset + engine.state.iteration)
            if count:
                iterations[sampler.stage], samples[sampler.stage] = count, sampler.samples
            lines += _scaled(sampler, count)
        outside = {id(sampler.outside) for sampler in self._samplers.values()}
        lines += [
            CostLine(row.stage, row.event, row.name, row.origin, row.seconds, row.calls)
            for row in self._rows.values()
            if not row.sampled and id(row) not in outside and (row.seconds or row.calls)
        ]
        return Cost(lines, wall=self._wall, iterations=iterations, samples=samples)

    # ------------------------------------------------------------------ what the watcher is told

    def event_started(self, engine: Any, channel: Channel) -> None:
        sampler, meaning = self._events[channel]
        if meaning == "hot":
            self._switch(sampler.timing)
        elif meaning == "get":
            self._boundary(engine, sampler)
        elif meaning == "epoch ends":
            self._switch(self._around(sampler.stage))
            self._close(sampler)
            sampler.counted = sampler.offset + engine.state.iteration
        elif meaning == "validation begins":
            self._stack.append(self._now)
            self._switch(self._around("validate"))
        elif meaning == "training ends":
            self._stack.clear()
            self._switch(self._around("train"))

    def event_ended(self, engine: Any, channel: Channel) -> None:
        if channel not in self._events:
            return  # the measurement ended meanwhile
        sampler, meaning = self._events[channel]
        if meaning in ("hot", "get"):
            if sampler.sampling:
                row = sampler.segments.get(channel, _UNKNOWN)
                if row is _UNKNOWN:
                    row = sampler.segments[channel] = self._segment(engine, sampler, channel.event)
                if row is None:
                    row = sampler.timing
                row.calls += 1
                self._switch(row)
        elif meaning == "epoch begins":
            sampler.offset = sampler.counted - engine.state.iteration
            self._switch(sampler.outside)
        elif meaning == "validation ends":
            self._switch(self._stack.pop() if self._stack else self._around("train"))
        elif meaning == "sanity check begins":
            self._switch(self._around("validate"))

    def handler_started(self, engine: Any, channel: Channel, record: Record) -> None:
        self._stack.append(self._now)
        known = self._by_record.get(id(record))
        if known is None:
            row = self._row_of(self._events[channel], channel, record)
            known = self._by_record[id(record)] = (record, row)
        row = known[1]
        row.calls += 1
        self._switch(row)

    def handler_ended(self, engine: Any, channel: Channel, record: Record) -> None:
        row = self._stack.pop() if self._stack else self._around("train")
        self._switch(row)

    def due(self, engine: Any) -> int:
        sampler = self._samplers[engine]
        return -1 if sampler.sampling else sampler.next - sampler.offset

    # ------------------------------------------------------------------ parts

    def _boundary(self, engine: Any, sampler: _Sampler) -> None:
        """One iteration is over and another begins: is it watched?"""
        now = sampler.offset + engine.state.iteration
        self._switch(sampler.timing)
        if sampler.sampling:
            sampler.take()
        due = now >= sampler.next
        if due:
            sampler.flush(now)
            sampler.at = now
        if due != sampler.sampling:
            sampler.sampling = due
            (join if due else leave)(sampler.hot, self)
        if not due:
            self._switch(sampler.outside)

    def _close(self, sampler: _Sampler) -> None:
        if sampler.sampling:
            sampler.take()
            sampler.sampling = False
            leave(sampler.hot, self)

    def _switch(self, row: _Row) -> None:
        now = self._clock()
        self._now.seconds += now - self._since
        self._since = now
        self._now = row

    def _row(
        self, stage: str, event: str, name: str = "", origin: str = "", sampled: bool = False
    ) -> _Row:
        key = (stage, event, name, origin, sampled)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = _Row(stage, event, name, origin, sampled)
            if sampled:
                next(s for s in self._samplers.values() if s.stage == stage).rows.append(row)
        return row

    def _around(self, stage: str) -> _Row:
        return self._row(stage, BETWEEN)

    def _row_of(self, meant: tuple[_Sampler, str], channel: Channel, record: Record) -> _Row:
        event = str(getattr(channel.event, "name", channel.event))
        name = handler_name(record.user, record.owner)
        origin = handler_origin(record.user, record.owner)
        return self._row(meant[0].stage, event, name, origin, meant[1] in ("hot", "get"))

    def _segment(self, engine: Any, sampler: _Sampler, event: Any) -> _Row | None:
        """The row of what goes on behind an event of the iteration, if it is more than the loop."""
        state = engine.state
        several = len(getattr(state, "optimizers", ())) > 1
        if several and event in (TrainerEvents.ZERO_GRAD_STARTED, TrainerEvents.BACKWARD_COMPLETED):
            event = Events.ITERATION_STARTED  # the next optimizer's turn begins
        if event not in AFTER:
            return None
        what, name = AFTER[event]
        model = getattr(state, "model", None)
        origin, owner = "", ""
        if model is not None:
            origin, owner = f"model={type(model).__name__}", f"{type(model).__name__}."
        if event == GET:
            loader = {"train": "train_dataloader", "validate": "val_dataloaders"}
            origin = loader.get(sampler.stage, f"{sampler.stage}_dataloaders")
        elif event == TrainerEvents.OPTIMIZER_STEP_STARTED:
            name, origin = f"{type(state.optimizer).__name__}.step", "configure_optimizers"
        elif event == Events.ITERATION_STARTED:
            name = f"{owner}{WORDS.get(sampler.stage, sampler.stage)}_step"
        return self._row(sampler.stage, what, name, origin, True)


_UNKNOWN: Any = object()
_MEANING = {
    Events.EPOCH_STARTED: "epoch begins",
    Events.EPOCH_COMPLETED: "epoch ends",
    TrainerEvents.VALIDATION_STARTED: "validation begins",
    TrainerEvents.VALIDATION_COMPLETED: "validation ends",
    TrainerEvents.SANITY_CHECK_STARTED: "sanity check begins",
    TrainerEvents.SANITY_CHECK_COMPLETED: "training ends",
    TrainerEvents.TRAINING_ENDED: "training ends",
    TrainerEvents.FIT_COMPLETED: "training ends",
}


def _channels(engine: Engine, events: Iterable[Any]) -> list[Channel]:
    return channels_of(engine, [event for event in events if engine.has_registered_events(event)])


def _scaled(sampler: _Sampler, count: int) -> list[CostLine]:
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

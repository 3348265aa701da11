"""What a run spends its time on: by handler, event and argument, measured in every run.

Events that are rare (of a fit, an epoch, a validation) are timed each time. Of the events of an
iteration only a sample is: for one iteration in some tens the engine's channels are watched, the
others run as if nobody measured. Each sample stands for the iterations up to the next one, and all
of them together for the time that the iterations really took, which is known exactly.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.dispatch import Channel
from leyden.engine.records import Record
from leyden.engine.watching import Watcher, join, leave
from leyden.handlers.cost_report import Cost, CostLine
from leyden.handlers.cost_sampling import GET, Row, Sampler, scaled
from leyden.handlers.naming import handler_name, handler_origin

__all__ = ["CostMeter"]

TIMING = "the timing itself"
BETWEEN = "between events"
WORDS = {"train": "training", "validate": "validation", "test": "test", "predict": "predict"}

#: What goes on from the end of an event to the beginning of the next one.
AFTER = {
    GET: ("data wait", ""),
    Events.ITERATION_STARTED: ("the step", ""),
    TrainerEvents.BACKWARD_STARTED: ("the step", "backward"),
    TrainerEvents.OPTIMIZER_STEP_STARTED: ("the step", ""),
    TrainerEvents.ZERO_GRAD_STARTED: ("the step", "zero_grad"),
}


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
        self._rows: dict[tuple[Any, ...], Row] = {}
        self._by_record: dict[int, tuple[Record, Row]] = {}
        self._samplers: dict[Any, Sampler] = {}
        # What each event means: the sampler of its engine, and what to do when it begins and ends.
        self._events: dict[Channel, tuple[Sampler, str]] = {}
        self._stack: list[Row] = []
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
            sampler = self._samplers[engine] = Sampler(engine, stage, outside, timing)
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
            lines += scaled(sampler, count)
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
                known = sampler.segments.get(channel) or self._segment(engine, sampler, channel)
                row, counts = known
                row.calls += counts
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

    def _boundary(self, engine: Any, sampler: Sampler) -> None:
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

    def _close(self, sampler: Sampler) -> None:
        if sampler.sampling:
            sampler.take()
            sampler.sampling = False
            leave(sampler.hot, self)

    def _switch(self, row: Row) -> None:
        now = self._clock()
        self._now.seconds += now - self._since
        self._since = now
        self._now = row

    def _row(
        self, stage: str, event: str, name: str = "", origin: str = "", sampled: bool = False
    ) -> Row:
        key = (stage, event, name, origin, sampled)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(stage, event, name, origin, sampled)
            if sampled:
                next(s for s in self._samplers.values() if s.stage == stage).rows.append(row)
        return row

    def _around(self, stage: str) -> Row:
        return self._row(stage, BETWEEN)

    def _row_of(self, meant: tuple[Sampler, str], channel: Channel, record: Record) -> Row:
        event = str(getattr(channel.event, "name", channel.event))
        name = handler_name(record.user, record.owner)
        origin = handler_origin(record.user, record.owner)
        return self._row(meant[0].stage, event, name, origin, meant[1] in ("hot", "get"))

    def _segment(self, engine: Any, sampler: Sampler, channel: Channel) -> tuple[Row, bool]:
        """The row of what goes on behind an event of the iteration, and whether this is a call."""
        state, event, counts = engine.state, channel.event, True
        optimizers = len(getattr(state, "optimizers", ()))
        several = optimizers > 1
        if several and event in (TrainerEvents.ZERO_GRAD_STARTED, TrainerEvents.BACKWARD_COMPLETED):
            # The next optimizer's turn begins, if there is one.
            last = state.optimizer_idx == optimizers - 1
            counts = event == TrainerEvents.ZERO_GRAD_STARTED and not last
            event = Events.ITERATION_STARTED
        row = sampler.timing
        if event in AFTER:
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
            row = self._row(sampler.stage, what, name, origin, True)
        if not several:  # whose turn it is changes from event to event
            sampler.segments[channel] = (row, counts)
        return row, counts


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

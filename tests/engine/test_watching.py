"""Watching an engine: everything is told, and what runs stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from leyden.engine import Engine, Events
from leyden.engine.dispatch import Channel
from leyden.engine.records import Record
from leyden.engine.watching import WatchedChannel, Watcher, unwatch, watch


class Told(Watcher):
    """Writes down what it is told."""

    def __init__(self, seen: list[str] | None = None, name: str = "") -> None:
        self.seen: list[str] = [] if seen is None else seen
        self.name = name

    def event_started(self, engine: Any, channel: Channel) -> None:
        self.seen.append(f"{self.name}> {channel.event.name}")

    def event_ended(self, engine: Any, channel: Channel) -> None:
        self.seen.append(f"{self.name}< {channel.event.name}")

    def handler_started(self, engine: Any, channel: Channel, record: Record) -> None:
        self.seen.append(f"{self.name}( {record.user.__name__}")

    def handler_ended(self, engine: Any, channel: Channel, record: Record) -> None:
        self.seen.append(f"{self.name}) {record.user.__name__}")


def engine(process: Callable[[Any, Any], Any] = lambda engine, batch: batch) -> Engine:
    return Engine(process, data_ends_epoch=True, reraise=True)


def test_every_event_is_told_with_and_without_handlers() -> None:
    made, told = engine(), Told()

    def hello(engine: Engine) -> None: ...

    made.listen(Events.EPOCH_STARTED, hello)
    watch(made, told)
    made.run([1], max_epochs=1)
    assert told.seen == [
        "> STARTED", "< STARTED", "> EPOCH_STARTED", "( hello", ") hello", "< EPOCH_STARTED",
        "> GET_BATCH_STARTED", "< GET_BATCH_STARTED", "> GET_BATCH_COMPLETED",
        "< GET_BATCH_COMPLETED", "> ITERATION_STARTED", "< ITERATION_STARTED",
        "> ITERATION_COMPLETED", "< ITERATION_COMPLETED",
        "> GET_BATCH_STARTED", "< GET_BATCH_STARTED",
        "> EPOCH_COMPLETED", "< EPOCH_COMPLETED", "> COMPLETED", "< COMPLETED",
    ]  # fmt: skip


def test_filters_are_asked_once_and_only_who_runs_is_told() -> None:
    made, told, asked = engine(), Told(), []

    def third(engine: Engine) -> None: ...

    def odd(engine: Engine) -> None: ...

    def opaque(engine: Any, event: int) -> bool:
        asked.append(event)
        return event % 2 == 1

    made.listen(Events.ITERATION_COMPLETED(every=3), third)
    made.listen(Events.ITERATION_COMPLETED(event_filter=opaque), odd)
    watch(made, told, [Events.ITERATION_COMPLETED])
    made.run([0] * 6, max_epochs=1)
    assert [one for one in told.seen if one[0] == "("] == ["( odd", "( third", "( odd", "( odd",
                                                           "( third"]  # fmt: skip
    assert asked == [1, 2, 3, 4, 5, 6]


def test_handlers_that_change_the_handlers() -> None:
    """The same is run with and without somebody who watches."""

    def run(watched: bool) -> list[str]:
        made, seen = engine(), []

        def later(engine: Engine) -> None:
            seen.append("later")

        def first(engine: Engine) -> None:
            seen.append("first")
            if engine.state.iteration == 1:
                engine.listen(Events.ITERATION_COMPLETED, later)
                engine.listen(Events.ITERATION_COMPLETED, before, order=1)
            if engine.state.iteration == 3:
                engine.remove_event_handler(first, Events.ITERATION_COMPLETED)

        def before(engine: Engine) -> None:
            seen.append("before")

        made.listen(Events.ITERATION_COMPLETED, first)
        if watched:
            watch(made, Told())
        made.run([0] * 4, max_epochs=1)
        return seen

    assert run(True) == run(False)
    assert run(False).count("first") == 3


def test_events_with_arguments() -> None:
    made, told, got = engine(), Told(), []
    made.register_events("saved")

    def taken(engine: Engine, path: str) -> None:
        got.append(path)

    made.add_event_handler("saved", taken, "a.ckpt")
    watch(made, told, [Events.TERMINATE_SINGLE_EPOCH])

    def cut(engine: Engine, iter_counter: int) -> None:
        got.append(iter_counter)

    made.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, cut)
    made.listen(Events.ITERATION_COMPLETED(once=2), lambda engine: engine.terminate_epoch())
    made.run([0] * 4, max_epochs=1)
    made.fire_event("saved")
    assert got == [2, "a.ckpt"]
    assert told.seen == [
        "> TERMINATE_SINGLE_EPOCH", "( cut", ") cut", "< TERMINATE_SINGLE_EPOCH"
    ]  # fmt: skip


def test_an_exception_ends_what_began() -> None:
    made, told = engine(), Told()

    def fails(engine: Engine) -> None:
        raise OSError("full")

    made.listen(Events.ITERATION_STARTED, fails)
    watch(made, told, [Events.ITERATION_STARTED])
    with pytest.raises(OSError, match="full"):
        made.run([0], max_epochs=1)
    assert told.seen == ["> ITERATION_STARTED", "( fails", ") fails", "< ITERATION_STARTED"]


def test_two_watchers_and_taking_them_off() -> None:
    made, seen = engine(), []
    one, two = Told(seen, "1"), Told(seen, "2")
    for watcher in (one, two, one):
        watch(made, watcher, [Events.STARTED])
    channel = made.channel(Events.STARTED)
    assert type(channel) is WatchedChannel and channel.live
    made.run([0], max_epochs=1)
    assert seen == ["1> STARTED", "2> STARTED", "1< STARTED", "2< STARTED"]
    unwatch(made, one)
    made.state.max_epochs = None
    made.run([0], max_epochs=1)
    assert seen[4:] == ["2> STARTED", "2< STARTED"]
    unwatch(made, two)
    assert type(channel) is Channel and not channel.live
    assert all(type(made.channel(event)) is Channel for event in made._allowed_events)


def test_the_loop_passes_until_a_watcher_is_due() -> None:
    made, at = engine(), []

    class Now(Watcher):
        def event_started(self, engine: Any, channel: Channel) -> None:
            at.append(engine.state.iteration)

        def due(self, engine: Any) -> int:
            return engine.state.iteration + 4

    watch(made, Now(), [Events.GET_BATCH_STARTED])
    made.run([0] * 10, max_epochs=1)
    assert at == [0, 4, 8]


def test_a_subclass_that_sees_every_event_still_does() -> None:
    fired: list[Any] = []

    class Tapped(Engine):
        def _fire_event(self, event_name: Any, *args: Any, **kwargs: Any) -> None:
            fired.append(event_name)
            super()._fire_event(event_name, *args, **kwargs)

    made, told = Tapped(lambda engine, batch: None, data_ends_epoch=True), Told()
    watch(made, told, [Events.STARTED, Events.ITERATION_STARTED])
    made.run([0], max_epochs=1)
    assert fired[:2] == [Events.STARTED, Events.EPOCH_STARTED]
    assert told.seen == ["> STARTED", "< STARTED", "> ITERATION_STARTED", "< ITERATION_STARTED"]

"""Channels: what is due, in which order, and what a change in the middle of it does."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from leyden.engine import Engine, EventEnum, Events, Filter
from leyden.engine.filters import NEVER


class Saves(EventEnum):
    SAVED = "saved"
    LOADED = "loaded"


@pytest.fixture
def engine() -> Any:
    return Engine(lambda engine, batch: batch)


def _note(ran: list[Any], what: Any) -> Callable[[Engine], None]:
    def handler(engine: Any) -> None:
        ran.append(what)

    return handler


def test_there_is_one_channel_an_event_for_the_life_of_the_engine(engine: Any) -> None:
    channel = engine.channel(Events.ITERATION_COMPLETED)
    assert channel.event is Events.ITERATION_COMPLETED
    assert channel.live is False
    handle = engine.listen(Events.ITERATION_COMPLETED, _note([], 1))
    assert channel.live is True
    handle.remove()
    assert channel.live is False
    engine.run([1])
    assert channel is engine.channel(Events.ITERATION_COMPLETED)


def test_an_event_can_be_fired_and_asked_for_without_handlers(engine: Any) -> None:
    engine.register_events(*Saves)
    saved = engine.channel(Saves.SAVED)
    assert not saved.live
    saved.fire()
    assert engine.last_event_name is Saves.SAVED
    ran: list[Any] = []
    engine.listen(Saves.SAVED, _note(ran, "saved"))
    if saved.live:
        saved.fire()
    engine.fire_event(Saves.SAVED)
    assert ran == ["saved", "saved"]


def test_order_is_the_declared_one_and_then_that_of_attaching(engine: Any) -> None:
    ran: list[Any] = []
    engine.listen(Events.STARTED, _note(ran, "late"), order=90)
    engine.add_event_handler(Events.STARTED, _note(ran, "plain 1"))
    engine.listen(Events.STARTED, _note(ran, "early 1"), order=10)
    engine.listen(Events.STARTED, _note(ran, "default"))
    engine.listen(Events.STARTED, _note(ran, "early 2"), order=10)
    engine.on(Events.STARTED)(_note(ran, "plain 2"))
    engine.run([1])
    assert ran == ["early 1", "early 2", "plain 1", "default", "plain 2", "late"]


def test_order_holds_between_handlers_with_and_without_filters(engine: Any) -> None:
    ran: list[Any] = []
    for order, every in ((30, 2), (10, 1), (20, 3), (40, 1)):
        event = Events.ITERATION_COMPLETED(every=every)
        engine.listen(event, lambda e, o=order: ran.append((e.state.iteration, o)), order=order)
    engine.run([0] * 6)
    assert ran == [
        (it, order)
        for it in range(1, 7)
        for order, every in ((10, 1), (20, 3), (30, 2), (40, 1))
        if it % every == 0
    ]


def test_entries_list_what_will_run_in_its_order(engine: Any) -> None:
    def late(engine: Any) -> None: ...
    def sometimes(engine: Any) -> None: ...
    def odd(engine: Engine, value: int) -> bool:
        return value % 2 == 1

    engine.listen(Events.EPOCH_COMPLETED, late, order=90, owner="checkpoint_callback=True")
    engine.listen(Events.EPOCH_COMPLETED(every=3), sometimes, owner=engine)
    engine.add_event_handler(Events.STARTED(event_filter=odd), late)
    entries = list(engine.entries())
    assert [(entry.event, entry.order, entry.handler) for entry in entries] == [
        (Events.EPOCH_COMPLETED, 50, sometimes),
        (Events.EPOCH_COMPLETED, 90, late),
        (Events.STARTED, 50, late),
    ]
    assert [entry.owner for entry in entries] == [engine, "checkpoint_callback=True", None]
    filters = [entry.filter for entry in entries]
    assert isinstance(filters[0], Filter) and filters[0].every == 3
    assert filters[1] is None
    assert filters[2] is not None and filters[2].opaque and filters[2].test is odd


def test_nothing_is_called_where_nothing_is_due(engine: Any) -> None:
    ran: list[int] = []
    for _ in range(10):
        engine.listen(
            Events.ITERATION_COMPLETED(every=100), lambda e: ran.append(e.state.iteration)
        )
    fired: list[int] = []
    due: list[int] = []
    channels = [engine.channel(event) for event in Events]
    engine.on(Events.EPOCH_COMPLETED)(lambda: due.extend(channel.due for channel in channels))
    attend = engine._attend
    engine._attend = lambda channel, it: fired.append(it) or attend(channel, it)  # type: ignore
    engine.run([0] * 350)
    assert ran == [100] * 10 + [200] * 10 + [300] * 10
    # Once an event to find out, and then where something is due.
    assert fired == [0, 0, 1, 1, 100, 200, 300]
    by_event = dict(zip(Events, due, strict=True))
    assert by_event[Events.ITERATION_COMPLETED] == 400
    assert by_event[Events.ITERATION_STARTED] == by_event[Events.GET_BATCH_STARTED] == NEVER


@pytest.mark.parametrize("event", [Events.ITERATION_STARTED, Events.ITERATION_COMPLETED])
def test_filters_follow_a_counter_that_is_set(event: Any) -> None:
    ran: list[int] = []
    jumps = {4: 40, 45: 7, 9: 19, 22: 3}

    def step(engine: Engine, batch: Any) -> None:
        engine.state.iteration = jumps.pop(engine.state.iteration, engine.state.iteration)

    engine = Engine(step)
    engine.listen(event(every=10), lambda engine: ran.append(engine.state.iteration))
    engine.run([0] * 30)
    at_start = event is Events.ITERATION_STARTED
    # 1 2 3 4>40 .. 45>7 8 9>19 20 21 22>3 4 ..
    assert ran == ([20, 10] if at_start else [40, 20, 10])


def test_a_handler_that_sets_the_counter_keeps_the_length_of_the_epoch(engine: Any) -> None:
    seen: list[int] = []
    engine.listen(Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.iteration))

    @engine.on(Events.ITERATION_STARTED(once=3))
    def jump() -> None:
        engine.state.iteration = 100

    engine.run([0] * 5, max_epochs=1)
    assert seen == [1, 2, 100, 101, 102]


def test_a_counter_of_ones_own(engine: Any) -> None:
    ran: list[int] = []
    engine.register_events(*Saves, event_to_attr={Saves.SAVED: "saves"})
    assert engine.state.saves == 0
    engine.listen(Saves.SAVED(every=3), lambda engine: ran.append(engine.state.saves))
    saved = engine.channel(Saves.SAVED)
    for _ in range(7):
        engine.state.saves += 1
        saved.fire()
    engine.state.saves = 3
    saved.fire()
    assert ran == [3, 6, 3]
    saved.fire()
    assert ran == [3, 6, 3, 3]  # the same count again
    assert engine.state.get_event_attrib_value(Saves.SAVED) == 3


def test_a_handler_that_counts_its_own_event(engine: Any) -> None:
    ran: list[int] = []
    engine.register_events(Saves.SAVED, event_to_attr={Saves.SAVED: "saves"})

    @engine.on(Saves.SAVED)
    def count() -> None:
        engine.state.saves += 1

    engine.listen(Saves.SAVED(every=2), lambda engine: ran.append(engine.state.saves))
    for _ in range(5):
        engine.fire_event(Saves.SAVED)
    assert ran == [2, 4]


def test_counters_belong_to_one_engine(engine: Any) -> None:
    engine.register_events(*Saves, event_to_attr={Saves.SAVED: "saves"})
    other = Engine(lambda engine, batch: None)
    other.register_events(*Saves)
    assert not hasattr(other.state, "saves")
    with pytest.raises(ValueError, match="nothing counts SAVED"):
        other.listen(Saves.SAVED(every=2), _note([], 1))
    other.register_events(Saves.SAVED, event_to_attr={Saves.SAVED: "saves"})
    other.listen(Saves.SAVED(every=2), _note([], 1))


def test_a_counter_may_be_something_else_than_an_int(engine: Any) -> None:
    ran: list[float] = []
    engine.register_events(Saves.SAVED, event_to_attr={Saves.SAVED: "hours"})
    engine.listen(Saves.SAVED(every=2), lambda engine: ran.append(engine.state.hours))
    for hours in (0.5, 2.0, 3.0, 4.0):
        engine.state.hours = hours
        engine.fire_event(Saves.SAVED)
    assert ran == [2.0, 4.0]


def test_what_a_handler_attaches_behind_itself_still_runs(engine: Any) -> None:
    ran: list[Any] = []

    @engine.on(Events.STARTED)
    def attach() -> None:
        engine.add_event_handler(Events.STARTED, _note(ran, "behind"))
        engine.listen(Events.STARTED, _note(ran, "in front"), order=1)
        engine.listen(Events.STARTED, _note(ran, "far behind"), order=99)
        engine._event_handlers[Events.STARTED].insert(0, (_note(ran, "first"), (engine,), {}))

    engine.channel(Events.STARTED).fire()
    assert ran == ["behind", "far behind"]


def test_a_filtered_handler_attached_at_its_own_count_still_runs(engine: Any) -> None:
    ran: list[int] = []

    @engine.on(Events.ITERATION_COMPLETED)
    def attach() -> None:
        if engine.state.iteration == 4:
            engine.on(Events.ITERATION_COMPLETED(every=2))(lambda e: ran.append(e.state.iteration))

    engine.on(Events.ITERATION_COMPLETED(every=7))(lambda: None)
    engine.run([0] * 8)
    assert ran == [4, 6, 8]


def test_what_a_handler_removes_still_runs_this_once(engine: Any) -> None:
    ran: list[Any] = []
    behind = _note(ran, "behind")

    @engine.on(Events.EPOCH_STARTED)
    def remove() -> None:
        ran.append("remove")
        engine.remove_event_handler(remove, Events.EPOCH_STARTED)
        engine.remove_event_handler(behind, Events.EPOCH_STARTED)

    engine.add_event_handler(Events.EPOCH_STARTED, behind)
    engine.run([1], max_epochs=2)
    assert ran == ["remove", "behind"]


def test_a_change_for_another_event_holds_from_its_next_firing(engine: Any) -> None:
    ran: list[Any] = []

    @engine.on(Events.ITERATION_STARTED(once=2))
    def attach() -> None:
        engine.on(Events.ITERATION_COMPLETED)(lambda e: ran.append(e.state.iteration))

    engine.run([0] * 4)
    assert ran == [2, 3, 4]


def test_an_event_may_be_fired_inside_itself(engine: Any) -> None:
    ran: list[int] = []
    engine.register_events("deep")
    deep = engine.channel("deep")
    depth = 0

    @engine.on("deep")
    def again() -> None:
        nonlocal depth
        depth += 1
        if depth < 3:
            deep.fire()
        ran.append(depth)

    engine.on("deep")(lambda: ran.append(-depth))
    deep.fire()
    assert ran == [3, -3, 3, -3, 3, -3]


def test_handlers_are_held_only_by_the_engine() -> None:
    class Owner:
        def handle(self, engine: Any) -> None: ...

    gc.disable()
    try:
        engine = Engine(lambda engine, batch: None)
        owner = Owner()
        engine.listen(Events.ITERATION_COMPLETED, owner.handle)
        engine.listen(Events.ITERATION_COMPLETED(every=2), owner.handle)
        engine.run([1, 2], max_epochs=2)
        alive = [weakref.ref(engine), weakref.ref(owner)]
        del engine, owner
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


def test_a_channel_outlives_its_engine_with_an_error(engine: Any) -> None:
    channel = Engine(lambda engine, batch: None).channel(Events.STARTED)
    with pytest.raises(RuntimeError, match="Engine reference not resolved"):
        channel.fire()


def test_a_handler_of_another_engine_gets_that_engine(engine: Any) -> None:
    seen: list[Any] = []
    other = Engine(lambda engine, batch: None)
    entry: Any = (seen.append, (weakref.ref(other),), {})
    engine._event_handlers[Events.STARTED].append(entry)
    engine.run([1])
    assert seen == [other]


def test_a_subclass_that_overrides_fire_event_sees_every_event() -> None:
    fired: list[Any] = []
    ran: list[int] = []

    class Recorded(Engine):
        def _fire_event(self, event_name: Any, *args: Any, **kwargs: Any) -> None:
            fired.append(getattr(event_name, "name", event_name))
            super()._fire_event(event_name, *args, **kwargs)

    engine = Recorded(lambda engine, batch: engine.channel("mine").fire())
    engine.register_events("mine")
    engine.listen(Events.ITERATION_COMPLETED(every=2), lambda e: ran.append(e.state.iteration))
    engine.run([1, 2])
    once = "GET_BATCH_STARTED GET_BATCH_COMPLETED ITERATION_STARTED mine ITERATION_COMPLETED"
    assert fired == ["STARTED", "EPOCH_STARTED", *once.split() * 2, "EPOCH_COMPLETED", "COMPLETED"]
    assert ran == [2]


def test_handles_remove_what_they_stand_for(engine: Any) -> None:
    ran: list[Any] = []
    both = engine.listen(Events.STARTED | Events.COMPLETED(every=1), _note(ran, 1))
    with engine.listen(Events.EPOCH_STARTED(every=1), _note(ran, 2)):
        engine.run([1])
    both.remove()
    engine.run([1])
    assert ran == [1, 2, 1]
    assert list(engine.entries()) == []

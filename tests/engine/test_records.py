"""Handler lists: whatever changes one, the next firing knows."""

from collections.abc import Callable
from typing import Any

import pytest

from leyden.engine import Engine, Events
from leyden.engine.records import FilteredHandler, HandlerList, Record


class Log:
    """Named handlers that write down that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __getitem__(self, name: str) -> Callable[[], None]:
        def handler() -> None:
            self.ran.append(name)

        return handler


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def engine(log: Log) -> Engine:
    engine = Engine(lambda engine, batch: None)
    for name in "abc":
        engine.add_event_handler(Events.STARTED, log[name])
    return engine


def _entry(log: Log, name: str) -> tuple[Any, ...]:
    return (log[name], (), {})


CHANGES: dict[str, tuple[Callable[[Any, Log], Any], str]] = {
    "append": (lambda handlers, log: handlers.append(_entry(log, "x")), "abcx"),
    "insert": (lambda handlers, log: handlers.insert(1, _entry(log, "x")), "axbc"),
    "insert far": (lambda handlers, log: handlers.insert(99, _entry(log, "x")), "abcx"),
    "insert from the end": (lambda handlers, log: handlers.insert(-1, _entry(log, "x")), "abxc"),
    "insert before all": (lambda handlers, log: handlers.insert(-99, _entry(log, "x")), "xabc"),
    "set": (lambda handlers, log: handlers.__setitem__(1, _entry(log, "x")), "axc"),
    "set slice": (
        lambda handlers, log: handlers.__setitem__(slice(0, 2), [_entry(log, "x")]),
        "xc",
    ),
    "delete": (lambda handlers, log: handlers.__delitem__(1), "ac"),
    "delete slice": (lambda handlers, log: handlers.__delitem__(slice(1, 3)), "a"),
    "extend": (lambda handlers, log: handlers.extend([_entry(log, "x")]), "abcx"),
    "iadd": (lambda handlers, log: handlers.__iadd__([_entry(log, "x")]), "abcx"),
    "imul": (lambda handlers, log: handlers.__imul__(2), "abcabc"),
    "remove": (lambda handlers, log: handlers.remove(handlers[1]), "ac"),
    "pop": (lambda handlers, log: handlers.pop(), "ab"),
    "pop first": (lambda handlers, log: handlers.pop(0), "bc"),
    "clear": (lambda handlers, log: handlers.clear(), ""),
    "sort": (lambda handlers, log: handlers.sort(key=lambda entry: -id(entry)), "sorted"),
    "reverse": (lambda handlers, log: handlers.reverse(), "cba"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_list_is_noticed(change: str, engine: Engine, log: Log) -> None:
    channel = engine.channel(Events.STARTED)
    channel.fire()
    assert log.ran == ["a", "b", "c"]
    handlers = engine._event_handlers[Events.STARTED]
    make, expected = CHANGES[change]
    if expected == "sorted":
        by_id = sorted(zip(map(id, handlers), "abc", strict=True), reverse=True)
        expected = "".join(name for _, name in by_id)
    make(handlers, log)
    log.ran.clear()
    assert channel.live == bool(expected)
    channel.fire()
    assert "".join(log.ran) == expected
    assert all(isinstance(entry, Record) for entry in handlers)


def test_every_list_method_that_changes_is_overridden() -> None:
    harmless = {"__init__", "__init_subclass__", "__new__", "__setattr__", "__delattr__"}
    changing = (
        {
            name
            for name in dir(list)
            if name.startswith(("__set", "__del", "__i"))
            or name in ("append", "insert", "extend", "remove", "pop", "clear", "sort", "reverse")
        }
        - harmless
        - {"__iter__"}
    )
    assert changing - vars(HandlerList).keys() == set()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda registry, new: registry.__setitem__(Events.STARTED, [new]), "x"),
        (lambda registry, new: registry.__delitem__(Events.STARTED), ""),
        (lambda registry, new: registry.pop(Events.STARTED), ""),
        (lambda registry, new: registry.popitem(), ""),
        (lambda registry, new: registry.clear(), ""),
        (lambda registry, new: registry.update({Events.STARTED: [new]}), "x"),
        (lambda registry, new: registry.setdefault(Events.STARTED, [new]), "abc"),
        (lambda registry, new: registry.setdefault(Events.COMPLETED, [new]), "abc"),
    ],
    ids=["set", "del", "pop", "popitem", "clear", "update", "setdefault", "setdefault new"],
)
def test_every_change_of_the_registry_is_noticed(
    change: Callable[..., Any], expected: str, engine: Engine, log: Log
) -> None:
    channel = engine.channel(Events.STARTED)
    channel.fire()
    log.ran.clear()
    change(engine._event_handlers, _entry(log, "x"))
    channel.fire()
    assert "".join(log.ran) == expected
    assert channel is engine.channel(Events.STARTED)


def test_another_registry_may_be_put_in_place(engine: Engine, log: Log) -> None:
    engine._event_handlers = {Events.STARTED: [_entry(log, "x")]}
    engine.channel(Events.STARTED).fire()
    assert log.ran == ["x"]


def test_a_list_that_was_replaced_no_longer_counts(engine: Engine, log: Log) -> None:
    old = engine._event_handlers[Events.STARTED]
    engine._event_handlers[Events.STARTED] = [_entry(log, "x")]
    old.append(_entry(log, "y"))
    engine.channel(Events.STARTED).fire()
    assert log.ran == ["x"]


def test_plain_entries_keep_the_order_and_the_owner_of_their_place(log: Log) -> None:
    engine = Engine(lambda engine, batch: None)
    engine.listen(Events.STARTED, lambda engine: None, order=20, owner="early")
    engine.listen(Events.STARTED, lambda engine: None, order=80, owner="late")
    handlers = engine._event_handlers[Events.STARTED]
    handlers.append(_entry(log, "end"))
    handlers.insert(0, _entry(log, "front"))
    handlers.insert(2, _entry(log, "middle"))
    handlers[1] = _entry(log, "replaced")
    assert [record.order for record in handlers] == [20, 20, 50, 80, 80]
    assert [record.owner for record in handlers] == [None, "early", None, "late", None]
    engine.listen(Events.STARTED, lambda engine: log.ran.append("fifty"))
    engine.channel(Events.STARTED).fire()
    assert log.ran == ["front", "replaced", "middle", "fifty", "end"]


def test_an_entry_is_a_triple(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"is not an entry of a handler list: give \(handler"):
        engine._event_handlers[Events.STARTED].append((print, ()))


def test_a_filtered_handler_can_be_called_by_anybody() -> None:
    calls: list[Any] = []
    engine = Engine(lambda engine, batch: None)

    def handler(engine: Engine) -> str:
        calls.append(engine)
        return "called"

    filtered: Any = FilteredHandler(engine, handler, Events.ITERATION_COMPLETED(every=3))
    assert filtered.__name__ == "handler"
    assert "every=3" in repr(filtered)
    engine.state.iteration = 2
    assert filtered(engine) is None
    engine.state.iteration = 3
    assert filtered(engine) == "called"
    assert calls == [engine]
    del engine, calls[:]
    with pytest.raises(RuntimeError, match="Engine reference not resolved"):
        filtered(None)


def test_arguments_are_bound_and_what_comes_with_an_event_is_not_kept() -> None:
    seen: list[Any] = []
    engine = Engine(lambda engine, batch: None)

    def handler(engine: Engine, *args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    engine.add_event_handler(Events.STARTED, handler, 1, name="a")
    engine._fire_event(Events.STARTED, "with", extra=2)
    engine._fire_event(Events.STARTED)
    engine.channel(Events.STARTED).fire()
    assert seen == [
        (("with", 1), {"name": "a", "extra": 2}),
        ((1,), {"name": "a"}),
        ((1,), {"name": "a"}),
    ]
    assert engine._event_handlers[Events.STARTED][0][2] == {"name": "a"}

"""Handler lists, and the flat plans that are made of them.

Every event has one :class:`Channel` for the engine's life. A channel compiles the event's handler list
into one-argument callables, and works out from the filters it can read at which value of the event's
counter anything has to run next (:attr:`Channel.due`). The run loop compares its iteration number with
``due`` and calls :meth:`Channel.fire` only then, so an event without handlers, or with handlers that
are not due, costs one comparison of two integers.

The list is ignite's: ``engine._event_handlers[event]`` holds ``(handler, args, kwargs)``, and ignite's
profilers append to it, insert into it and replace entries. So the list itself reports every change, and
the channel compiles again at its next use.

Changes made by a handler of the event that is being fired behave as in ignite, which walks the live
list: what is added behind the running handler still runs, and what ``remove_event_handler`` takes out still
runs this once, since it puts a new list in place. One difference: something inserted in front of the
running handler does not make that handler run twice.
"""

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

from ignite.engine.events import State

from leyden.engine.filters import NEVER, Filter, read_filter

if TYPE_CHECKING:
    from leyden.engine.engine import Engine

__all__ = [
    "ORDER",
    "Channel",
    "Entry",
    "FilteredHandler",
    "HandlerList",
    "Hub",
    "Record",
    "Registry",
]

ORDER = 50
"""The order of handlers that do not say one."""

Call = Callable[[Any], Any]


class Hub:
    """What all channels of one engine share: the way to the engine, and the counters of its events.

    The engine owns its channels, so they hold it weakly; while it runs the loop holds it anyway, and
    ``engine`` is set so that nothing has to be resolved on the way of an iteration.
    """

    __slots__ = ("_ref", "counters", "engine", "tapped")

    def __init__(self, engine: "Engine") -> None:
        self._ref = weakref.ref(engine)
        self.engine: Engine | None = None
        self.counters: dict[Any, str] = {}
        # Whether a subclass overrides _fire_event: it then sees every event there, as with ignite.
        self.tapped = False

    def resolve(self) -> "Engine":
        """Return the engine, also while it does not run."""
        engine = self._ref()
        if engine is None:
            raise RuntimeError("Engine reference not resolved: the engine of this channel is gone")
        return engine

    def counter(self, event: Any) -> str | None:
        """Return the name of the state's attribute that counts `event`, if there is one."""
        return self.counters.get(event) or State.event_to_attr.get(event)


class FilteredHandler:
    """A handler together with the filter of the event it was attached to.

    It can be called by anybody (ignite's profilers wrap it in a function of theirs) and then asks the
    filter itself. A channel that finds it in its list takes it apart instead.
    """

    __slots__ = ("__dict__", "__weakref__", "_engine", "event", "filter", "user")

    def __init__(self, engine: "Engine", handler: Callable[..., Any], event: Any) -> None:
        functools.update_wrapper(self, handler)  # its name, its signature
        self.user = handler
        self.event = event
        self.filter = read_filter(event.filter)
        self._engine = weakref.ref(engine)
        # ignite looks for this name to find the user's function in what is registered.
        self.__dict__["_parent"] = weakref.ref(handler)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        engine = self._engine()
        if engine is None:
            raise RuntimeError("Engine reference not resolved: the engine of this handler is gone")
        if self.filter.test(engine, engine.count_of(self.event)):
            return self.user(*args, **kwargs)
        return None

    def __repr__(self) -> str:
        return f"<{self.user!r} where {self.filter}>"


class Record(tuple[Any, ...]):
    """One entry of a handler list: ignite's ``(handler, args, kwargs)``, plus where it belongs.

    Attributes:
        order: position among the handlers of the event; smaller runs earlier.
        owner: whatever attached it; for whoever prints the plan.
        call: the compiled form, of the engine alone.
    """

    order: int
    owner: Any
    call: Call | None

    def __new__(cls, entry: Iterable[Any], order: int = ORDER, owner: Any = None) -> "Record":
        self = super().__new__(cls, entry)
        if len(self) != 3:
            raise ValueError(
                f"{tuple(self)!r} is not an entry of a handler list: give (handler, args, kwargs)"
            )
        self.order = order
        self.owner = owner
        self.call = None
        return self

    @property
    def filter(self) -> Filter | None:
        """The filter, where the handler was attached to an event that has one."""
        handler = self[0]
        return handler.filter if isinstance(handler, FilteredHandler) else None

    @property
    def user(self) -> Callable[..., Any]:
        """The function that the user gave, without what was put around it."""
        handler = self[0]
        user = handler.user if isinstance(handler, FilteredHandler) else handler
        return user  # type: ignore[no-any-return]

    def compile(self, engine: "Engine", counter: str | None) -> Call:
        """Make the callable of the engine alone that runs this entry, filter included."""
        call = self._bind(engine)
        filter_ = self.filter
        if filter_ is None:
            return call
        test, event = filter_.test, self[0].event

        def filtered(engine: "Engine") -> None:
            if counter is None:
                raise RuntimeError(f"{event} has a filter and no counter on the state")
            if test(engine, getattr(engine.state, counter, 0)):
                call(engine)

        return filtered

    def deliver(self, engine: "Engine", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call the handler with what came with the event, in ignite's order of arguments."""
        handler, own, named = self
        first = own[:1]
        if first and isinstance(first[0], weakref.ref):
            first, own = (_resolved(first[0]),), own[1:]
        else:
            first = ()
        # A new dict: what came with this event must not stay in the registration.
        handler(*first, *args, *own, **{**named, **kwargs})

    def _bind(self, engine: "Engine") -> Call:
        handler, args, kwargs = self.user, self[1], self[2]
        if not (args and isinstance(args[0], weakref.ref)):
            if not args and not kwargs:
                return lambda engine: handler()
            return lambda engine: handler(*args, **kwargs)
        if _resolved(args[0]) is not engine:
            ref, others = args[0], args[1:]
            return lambda engine: handler(_resolved(ref), *others, **kwargs)
        others = args[1:]
        if others or kwargs:
            return lambda engine: handler(engine, *others, **kwargs)
        return handler


def _resolved(ref: "weakref.ref[Any]") -> Any:
    engine = ref()
    if engine is None:
        raise RuntimeError("Engine reference not resolved. Cannot execute event handler.")
    return engine


@dataclass(frozen=True)
class Entry:
    """One line of what will run: see ``Engine.entries()``.

    Attributes:
        event: the event it is attached to, without its filter.
        order: position among the handlers of the event.
        handler: the user's own function or object.
        filter: when it runs; None means each time.
        owner: whatever attached it, as given to ``Engine.listen``.
    """

    event: Any
    order: int
    handler: Callable[..., Any]
    filter: Filter | None
    owner: Any


class HandlerList(list[Record]):
    """The handlers of one event in the order in which they run. Reports every change.

    Plain ``(handler, args, kwargs)`` tuples may be put in wherever a list takes them. They get an
    order that keeps the list sorted, and the owner of the entry that they replace.
    """

    __slots__ = ("_channel",)

    def __init__(self, channel: "Channel", entries: Iterable[Any] = ()) -> None:
        super().__init__(_record(entry) for entry in entries)
        self._channel = weakref.ref(channel)

    def add(self, record: Record) -> None:
        """Put a record behind all those of the same or a smaller order."""
        at = len(self)
        while at and self[at - 1].order > record.order:
            at -= 1
        super().insert(at, record)
        self._changed()

    def _changed(self) -> None:
        channel = self._channel()
        if channel is not None:
            channel.invalidate(self)

    def append(self, entry: Any) -> None:
        self.insert(len(self), entry)

    def insert(self, index: SupportsIndex, entry: Any) -> None:
        size, at = len(self), index.__index__()
        at = min(at, size) if at >= 0 else max(at + size, 0)
        if not isinstance(entry, Record):
            order = max(ORDER, self[at - 1].order) if at else ORDER
            entry = Record(entry, min(order, self[at].order) if at < size else order)
        super().insert(at, entry)
        self._changed()

    def extend(self, entries: Iterable[Any]) -> None:
        for entry in list(entries):
            self.append(entry)

    def __iadd__(self, entries: Iterable[Any]) -> "HandlerList":  # type: ignore[override,misc]
        self.extend(entries)
        return self

    def __imul__(self, times: SupportsIndex) -> "HandlerList":  # type: ignore[override]
        super().__imul__(times)
        self._changed()
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            super().__setitem__(index, [_record(entry) for entry in value])
        else:
            old = self[index]
            super().__setitem__(index, _record(value, old.order, old.owner))
        self._changed()

    def __delitem__(self, index: Any) -> None:
        super().__delitem__(index)
        self._changed()

    def remove(self, entry: Any) -> None:
        super().remove(entry)
        self._changed()

    def pop(self, index: SupportsIndex = -1) -> Record:
        record = super().pop(index)
        self._changed()
        return record

    def clear(self) -> None:
        super().clear()
        self._changed()

    def sort(self, **kwargs: Any) -> None:
        super().sort(**kwargs)
        self._changed()

    def reverse(self) -> None:
        super().reverse()
        self._changed()


def _record(entry: Any, order: int = ORDER, owner: Any = None) -> Record:
    return entry if isinstance(entry, Record) else Record(entry, order, owner)


class Registry(dict[Any, HandlerList]):
    """``engine._event_handlers``: makes lists on demand as ignite's defaultdict does, and channels."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub
        self._channels: dict[Any, Channel] = {}

    def channel(self, event: Any) -> "Channel":
        """Return the event's channel: the same object each time."""
        channel = self._channels.get(event)
        if channel is None:
            channel = self._channels[event] = Channel(self._hub, event)
        return channel

    def invalidate(self) -> None:
        """Let every channel compile again, as after a change that concerns all of them."""
        for channel in self._channels.values():
            channel.invalidate(channel.handlers)

    def __missing__(self, event: Any) -> HandlerList:
        self[event] = ()
        return self[event]

    def __setitem__(self, event: Any, entries: Iterable[Any]) -> None:
        channel = self.channel(event)
        handlers = HandlerList(channel, entries)
        super().__setitem__(event, handlers)
        channel.handlers = handlers
        channel.invalidate(handlers)

    def __delitem__(self, event: Any) -> None:
        super().__delitem__(event)
        self._forget(event)

    def pop(self, event: Any, *default: Any) -> Any:
        value = super().pop(event, *default)
        self._forget(event)
        return value

    def popitem(self) -> tuple[Any, HandlerList]:
        event, handlers = super().popitem()
        self._forget(event)
        return event, handlers

    def clear(self) -> None:
        super().clear()
        for event in self._channels:
            self._forget(event)

    def update(self, *others: Any, **named: Any) -> None:
        for event, entries in dict(*others, **named).items():
            self[event] = entries

    def setdefault(self, event: Any, entries: Any = ()) -> HandlerList:
        if event not in self:
            self[event] = entries or ()
        return self[event]

    def _forget(self, event: Any) -> None:
        channel = self._channels.get(event)
        if channel is not None:
            channel.handlers = None
            channel.invalidate(None)


class Channel:
    """Where one event is fired: ``if channel.live: channel.fire()``.

    Attributes:
        event: the event, without a filter.
        live: whether anything is attached. The guard for callers outside the run loop.
        due: the run loop calls :meth:`fire` where its counter is not below this. -1 where something
            runs each time, or where the loop has to look up (:meth:`wake`); ``NEVER`` where nothing does.
        handlers: the registry's list, None where nothing was ever attached.
    """

    __slots__ = (
        "__weakref__",
        "_counter",
        "_each",
        "_filters",
        "_hub",
        "_next",
        "_plain",
        "_rest",
        "_since",
        "_stale",
        "due",
        "event",
        "handlers",
        "live",
    )

    def __init__(self, hub: Hub, event: Any) -> None:
        self.event = event
        self.handlers: HandlerList | None = None
        self._hub = hub
        self._each: tuple[tuple[int, Call], ...] = ()
        self._filters: tuple[Filter, ...] = ()
        self._counter: str | None = None
        self._since = self._next = 0
        self._rest = NEVER
        self._plain = False
        self.due = -1
        self.live = False
        self._stale = True
        self.invalidate(None)

    def wake(self) -> None:
        """Have the run loop call :meth:`fire` at this event next time, whatever is attached."""
        self.due = -1

    def invalidate(self, handlers: HandlerList | None) -> None:
        """Note that the handlers are no longer those that were compiled."""
        if handlers is not self.handlers:
            return  # a list that was replaced while somebody still holds it
        self._stale = True
        self._plain = False
        self.due = -1
        self.live = bool(handlers) or self._hub.tapped

    def fire(self) -> None:
        """Run what is due at this event."""
        engine = self._hub.engine or self._hub.resolve()
        if not self._plain:
            self._fire_checked(engine)
            return
        engine.last_event_name = self.event
        self.due = self._rest
        handlers = self.handlers
        for at, call in self._each:
            call(engine)
            if not self._plain:  # the handlers were changed meanwhile
                self._walk(engine, handlers, at)
                return

    def deliver(self, engine: "Engine", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run all handlers of the event with arguments that came with it."""
        if args or kwargs:
            self._walk(
                engine, self.handlers, -1, lambda record: record.deliver(engine, args, kwargs)
            )
        else:
            if self._stale:
                self._compile(engine)
            self._walk(engine, self.handlers, -1)

    def deliver_each(
        self, engine: "Engine", error: BaseException
    ) -> Iterator[tuple[Any, Exception]]:
        """Tell every handler of an error; yield those that raised, and what, instead of stopping."""
        for record in tuple(self.handlers or ()):
            try:
                filter_ = record.filter
                if filter_ is None or filter_.test(engine, engine.count_of(self.event)):
                    Record((record.user, *record[1:])).deliver(engine, (error,), {})
            except Exception as another:
                if another is not error:
                    yield record.user, another

    def _compile(self, engine: "Engine") -> None:
        handlers = self.handlers
        self._counter = counter = self._hub.counter(self.event)
        each: list[tuple[int, Call]] = []
        filters: list[Filter] = []
        for at, record in enumerate(handlers or ()):
            record.call = record.compile(engine, counter)
            filter_ = record.filter
            if filter_ is None or filter_.opaque or counter is None:
                each.append((at, record.call))
            else:
                filters.append(filter_)
        self._each, self._filters = tuple(each), tuple(filters)
        self._since = self._next = 0  # an empty window: look at the filters at the next use
        self._rest = -1 if each else NEVER
        self._stale = False
        self._plain = not filters and not self._hub.tapped

    def _fire_checked(self, engine: "Engine") -> None:
        """Fire with everything looked at that a plain channel need not look at."""
        if self._hub.tapped:
            engine._fire_event(self.event)
            return
        if self._stale:
            self._compile(engine)
            if self._plain:
                self.fire()
                return
        assert self._counter is not None
        engine.last_event_name = self.event
        counter = getattr(engine.state, self._counter, 0)
        handlers = self.handlers
        if self._since <= counter < self._next:
            self.due = -1 if self._each else self._next
            for at, call in self._each:
                call(engine)
                # A handler may move the counter of its own event: a later filter may pass then.
                if self._stale or getattr(engine.state, self._counter, 0) != counter:
                    self._walk(engine, handlers, at)
                    return
            return
        # Outside of the window the filters are looked at: due, or the counter stands or went back.
        if type(counter) is int:
            self._since = counter + 1
            self._next = min(filter_.next(counter + 1) for filter_ in self._filters)
        self.due = -1 if self._each or self._since >= self._next else self._next
        self._walk(engine, handlers, -1)

    def _walk(
        self,
        engine: "Engine",
        handlers: HandlerList | None,
        at: int,
        run: Callable[[Record], None] | None = None,
    ) -> None:
        """Go through a live list behind position `at`, asking each filter in turn."""
        if handlers is None:
            return
        at += 1
        while at < len(handlers):
            record = handlers[at]
            if run is not None:
                run(record)
            else:
                call = record.call
                if call is None:
                    call = record.call = record.compile(engine, self._hub.counter(self.event))
                call(engine)
            if at >= len(handlers) or handlers[at] is not record:
                # Something was put in front of it, or it was replaced where it stood.
                at = next((i for i, other in enumerate(handlers) if other is record), at)
            at += 1

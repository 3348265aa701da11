"""Channels: where events are fired, with plans compiled from the handler lists.

Every event has one :class:`Channel` for the engine's life. A channel compiles the event's handler
list into one-argument callables, and works out from the filters it can read at which value of the
event's counter anything has to run next (:attr:`Channel.due`). The run loop compares its iteration
number with ``due`` and calls :meth:`Channel.fire` only then, so an event without handlers, or with
handlers that are not due, costs one comparison of two integers. The lists report every change, and
the channel compiles again at its next use.

Changes made by a handler of the event that is being fired behave as in ignite, which walks the
live list: what is added behind the running handler still runs, and what ``remove_event_handler``
takes out still runs this once, since it puts a new list in place. One difference: something
inserted in front of the running handler does not make that handler run twice.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ignite.engine.events import State

from leyden.engine.filters import NEVER, Filter
from leyden.engine.records import Call, HandlerList, Record

if TYPE_CHECKING:
    from leyden.engine.emitter import Emitter

__all__ = ["Channel", "Hub", "Registry"]


class Hub:
    """What all channels of one engine share: the way to it, and the counters of its events.

    The engine owns its channels, so they hold it weakly; while it runs the loop holds it anyway,
    and ``engine`` is set so that nothing has to be resolved on the way of an iteration.
    """

    __slots__ = ("_ref", "counters", "engine", "tapped")

    def __init__(self, engine: "Emitter") -> None:
        self._ref = weakref.ref(engine)
        self.engine: Emitter | None = None
        self.counters: dict[Any, str] = {}
        # Whether a subclass overrides _fire_event: it then sees every event there, as with ignite.
        self.tapped = False

    def resolve(self) -> "Emitter":
        """Return the engine, also while it does not run."""
        engine = self._ref()
        if engine is None:
            raise RuntimeError("Engine reference not resolved: the engine of this channel is gone")
        return engine

    def counter(self, event: Any) -> str | None:
        """Return the name of the state's attribute that counts `event`, if there is one."""
        return self.counters.get(event) or State.event_to_attr.get(event)


class Channel:
    """Where one event is fired: ``if channel.live: channel.fire()``.

    Attributes:
        event: the event, without a filter.
        live: whether anything is attached. The guard for callers outside the run loop.
        due: the run loop calls :meth:`fire` where its counter is not below this. -1 where something
            runs each time, or where the loop has to look up; ``NEVER`` where nothing runs.
        handlers: the registry's list, None where nothing was ever attached.
        watchers: told of everything done here; see ``engine/watching.py``.
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
        "watchers",
    )

    def __init__(self, hub: Hub, event: Any) -> None:
        self.event = event
        self.handlers: HandlerList | None = None
        self.watchers: tuple[Any, ...] = ()
        self._hub = hub
        self._each: tuple[tuple[int, Call, Record], ...] = ()
        self._filters: tuple[Filter, ...] = ()
        self._counter: str | None = None
        self._since = self._next = 0
        self._rest = NEVER
        self._plain = False
        self.due = -1
        self.live = False
        self._stale = True
        self.invalidate(None)

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
        for at, call, record in self._each:
            call(engine)
            if not self._plain:  # the handlers were changed meanwhile
                self._walk(engine, handlers, _place(handlers, record, at))
                return

    def deliver(self, engine: "Emitter", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
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
        self, engine: "Emitter", error: BaseException
    ) -> Iterator[tuple[Any, Exception]]:
        """Tell every handler of an error; yield those that raised with what they raised."""
        for record in tuple(self.handlers or ()):
            try:
                filter_ = record.filter
                if filter_ is None or filter_.test(engine, engine.count_of(self.event)):
                    Record((record.user, *record[1:])).deliver(engine, (error,), {})
            except BaseException as another:
                if another is error:
                    continue  # raised again, as it will be in the end
                if not isinstance(another, Exception):
                    raise
                yield record.user, another

    def _compile(self, engine: "Emitter") -> None:
        handlers = self.handlers
        self._counter = counter = self._hub.counter(self.event)
        each: list[tuple[int, Call, Record]] = []
        filters: list[Filter] = []
        for at, record in enumerate(handlers or ()):
            record.call = record.compile(engine, counter)
            filter_ = record.filter
            if filter_ is None or filter_.opaque or counter is None:
                each.append((at, record.call, record))
            else:
                filters.append(filter_)
        # Equal filters are due together: one of them tells.
        different = {(f.every, f.once, f.before, f.after): f for f in filters}
        self._each, self._filters = tuple(each), tuple(different.values())
        self._since = self._next = 0  # an empty window: look at the filters at the next use
        self._rest = -1 if each else NEVER
        self._stale = False
        self._plain = not filters and not self._hub.tapped

    def _fire_checked(self, engine: "Emitter") -> None:
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
            for at, call, record in self._each:
                call(engine)
                # A handler may move the counter of its own event: a later filter may pass then.
                if self._stale or getattr(engine.state, self._counter, 0) != counter:
                    self._walk(engine, handlers, _place(handlers, record, at))
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
        engine: "Emitter",
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
            at = _place(handlers, record, at) + 1


def _place(handlers: HandlerList | None, record: Record, at: int) -> int:
    """Find a record that stood at `at`: something may have been put in front of it meanwhile."""
    if handlers is None or (at < len(handlers) and handlers[at] is record):
        return at
    # Not found: it was removed or replaced where it stood.
    return next((i for i, other in enumerate(handlers) if other is record), at)


class Registry(dict[Any, HandlerList]):
    """``engine._event_handlers``: makes lists on demand, as ignite's defaultdict, and channels."""

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

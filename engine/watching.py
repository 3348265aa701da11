"""Seeing every event and every handler of an engine while it runs, at no cost where nobody looks.

A watched event's channel changes its class: the loop and the step go on calling the same object,
and an engine that is not watched has none of this on its way. Whoever measures only now and then
(``handlers/cost.py``) watches an event for one iteration.
"""

from collections.abc import Callable, Iterable
from typing import Any

from leyden.engine.dispatch import Channel
from leyden.engine.emitter import Emitter
from leyden.engine.filters import NEVER
from leyden.engine.records import HandlerList, Record

__all__ = ["WatchedChannel", "Watcher", "unwatch", "watch"]


class Watcher:
    """What is told of events and handlers. Write the methods that matter; the others do nothing.

    What a method raises ends the run, as an exception of a handler does.

    Example:
        >>> from leyden.engine import Engine, Events
        >>> from leyden.engine.watching import Watcher, watch
        >>> class Names(Watcher):
        ...     def event_started(self, engine, channel):
        ...         print(channel.event.name)
        >>> engine = Engine(lambda engine, batch: None)
        >>> watch(engine, Names(), [Events.STARTED, Events.COMPLETED])
        >>> state = engine.run([1, 2])
        STARTED
        COMPLETED
    """

    def event_started(self, engine: Any, channel: Channel) -> None:
        """An event is fired, with or without handlers."""

    def event_ended(self, engine: Any, channel: Channel) -> None:
        """Its handlers have run, or one of them raised."""

    def handler_started(self, engine: Any, channel: Channel, record: Record) -> None:
        """A handler whose filter lets it run is about to be called."""

    def handler_ended(self, engine: Any, channel: Channel, record: Record) -> None:
        """It returned or raised."""

    def due(self, engine: Any) -> int:
        """Return the iteration at which a watched event of the loop has to be told next.

        Asked after each such event where no handler is attached to it; -1 is each time.
        """
        return -1


def watch(engine: Emitter, watcher: Watcher, events: Iterable[Any] | None = None) -> None:
    """Tell ``watcher`` of these events from now on.

    Args:
        engine: the engine.
        watcher: told after those that watch already.
        events: registered events, without filters; None is all that are registered now.
    """
    for event in list(engine._allowed_events) if events is None else events:
        channel = engine.channel(event)
        if not any(known is watcher for known in channel.watchers):
            channel.watchers = (*channel.watchers, watcher)
        channel.__class__ = WatchedChannel
        channel.live, channel.due = True, -1


def unwatch(engine: Emitter, watcher: Watcher, events: Iterable[Any] | None = None) -> None:
    """Tell ``watcher`` of these events no longer."""
    for event in list(engine._allowed_events) if events is None else events:
        channel = engine.channel(event)
        if channel.watchers:
            channel.watchers = tuple(known for known in channel.watchers if known is not watcher)
        if not channel.watchers and type(channel) is WatchedChannel:
            plain: Any = channel  # to a checker it is a WatchedChannel for good
            plain.__class__ = Channel
            # Compiled already: only what the loop looks at has to be found again.
            channel.live, channel.due = bool(channel.handlers) or channel._hub.tapped, -1


class WatchedChannel(Channel):
    """A channel that tells of everything it does; see `watch`."""

    __slots__ = ()

    def invalidate(self, handlers: HandlerList | None) -> None:
        super().invalidate(handlers)
        self.live, self.due = True, -1

    def fire(self) -> None:
        """Run what is due at this event."""
        engine = self._hub.engine or self._hub.resolve()
        if self._hub.tapped:  # a subclass sees every event in _fire_event, and calls deliver()
            engine._fire_event(self.event)
            return
        engine.last_event_name = self.event
        self._told(engine, lambda record: self._call(engine, record))
        # Where nothing is attached the watchers may let the loop pass for a while.
        due = -1 if self.handlers else min((w.due(engine) for w in self.watchers), default=NEVER)
        if self.watchers:
            self.due = due

    def deliver(self, engine: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run all handlers of the event with arguments that came with it."""
        if args or kwargs:
            # Without its filter, which was asked already.
            self._told(engine, lambda r: Record((r.user, *r[1:])).deliver(engine, args, kwargs))
        else:
            self._told(engine, lambda record: self._call(engine, record))

    def _told(self, engine: Emitter, run: Callable[[Record], None]) -> None:
        watchers = self.watchers  # those of this firing, whoever joins meanwhile

        def told(record: Record) -> None:
            filter_ = record.filter
            if filter_ is not None and not filter_.test(engine, engine.count_of(self.event)):
                return
            for watcher in watchers:
                watcher.handler_started(engine, self, record)
            try:
                run(record)
            finally:
                for watcher in reversed(watchers):
                    watcher.handler_ended(engine, self, record)

        for watcher in watchers:
            watcher.event_started(engine, self)
        try:
            if self.handlers:
                self._walk(engine, self.handlers, -1, told)
        finally:
            for watcher in reversed(watchers):
                watcher.event_ended(engine, self)

    def _call(self, engine: Emitter, record: Record) -> None:
        if record.filter is not None:  # it was asked already, and asking twice may tell two things
            record._bind(engine)(engine)
            return
        call = record.call
        if call is None:
            call = record.call = record.compile(engine, self._hub.counter(self.event))
        call(engine)

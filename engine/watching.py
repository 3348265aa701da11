"""Seeing every event and every handler of an engine while it runs, at no cost where nobody looks.

A watched event's channel changes its class: the loop and the step go on calling the same object,
and an engine that is not watched has none of this on its way. Whoever measures only now and then
(``handlers/cost.py``) watches an event for one iteration.
"""

from collections.abc import Iterable
from typing import Any

from leyden.engine.dispatch import Channel, _place
from leyden.engine.emitter import Emitter
from leyden.engine.records import HandlerList, Record

__all__ = ["WatchedChannel", "Watcher", "channels_of", "join", "leave", "unwatch", "watch"]


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
    join(channels_of(engine, events), watcher)


def unwatch(engine: Emitter, watcher: Watcher, events: Iterable[Any] | None = None) -> None:
    """Tell ``watcher`` of these events no longer."""
    leave(channels_of(engine, events), watcher)


def channels_of(engine: Emitter, events: Iterable[Any] | None = None) -> list[Channel]:
    """The channels of these events; None is all that are registered now."""
    chosen = list(engine._allowed_events) if events is None else events
    return [engine.channel(event) for event in chosen]


def join(channels: Iterable[Channel], watcher: Watcher) -> None:
    """Do what `watch` does, for whoever does it often and has looked up the channels."""
    for channel in channels:
        if watcher not in channel.watchers:
            channel.watchers = (*channel.watchers, watcher)
        channel.__class__ = WatchedChannel
        channel.live, channel.due = True, -1


def leave(channels: Iterable[Channel], watcher: Watcher) -> None:
    """Do what `unwatch` does, for whoever does it often and has looked up the channels."""
    for channel in channels:
        watchers = channel.watchers
        if watchers and watchers[0] is watcher and len(watchers) == 1:
            channel.watchers = ()
        elif watchers:
            channel.watchers = tuple(known for known in watchers if known is not watcher)
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
        self._told(engine)
        watchers = self.watchers
        if watchers:
            # Where nothing is attached the watchers may let the loop pass for a while.
            self.due = -1 if self.handlers else min([one.due(engine) for one in watchers])

    def deliver(self, engine: Emitter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run all handlers of the event with arguments that came with it."""
        self._told(engine, args, kwargs)

    def _told(self, engine: Emitter, args: Any = (), kwargs: Any = None) -> None:
        watchers = self.watchers  # those of this firing, whoever joins meanwhile
        for watcher in watchers:
            watcher.event_started(engine, self)
        try:
            handlers, at = self.handlers, 0
            while handlers and at < len(handlers):
                record = handlers[at]
                filter_ = record.filter
                if filter_ is None or filter_.test(engine, engine.count_of(self.event)):
                    for watcher in watchers:
                        watcher.handler_started(engine, self, record)
                    try:
                        self._call(engine, record, args, kwargs)
                    finally:
                        for watcher in watchers:
                            watcher.handler_ended(engine, self, record)
                at = _place(handlers, record, at) + 1
        finally:
            for watcher in watchers:
                watcher.event_ended(engine, self)

    def _call(self, engine: Emitter, record: Record, args: Any, kwargs: Any) -> None:
        if args or kwargs:
            # Without its filter, which was asked already.
            Record((record.user, *record[1:])).deliver(engine, args, kwargs)
            return
        if record.filter is not None:
            record._bind(engine)(engine)
            return
        call = record.call
        if call is None:
            call = record.call = record.compile(engine, self._hub.counter(self.event))
        call(engine)

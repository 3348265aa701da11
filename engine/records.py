"""What is attached to one event: records, and the list that reports every change.

The list is ignite's: ``engine._event_handlers[event]`` holds ``(handler, args, kwargs)``, and
ignite's profilers append to it, insert into it and replace entries.
"""

import functools
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

from leyden.engine.filters import Filter, read_filter

if TYPE_CHECKING:
    from leyden.engine.dispatch import Channel
    from leyden.engine.emitter import Emitter

__all__ = ["ORDER", "Call", "Entry", "FilteredHandler", "HandlerList", "Record"]

ORDER = 50
"""The order of handlers that do not say one."""

Call = Callable[[Any], Any]


class FilteredHandler:
    """A handler together with the filter of the event it was attached to.

    It can be called by anybody (ignite's profilers wrap it in a function of theirs) and then asks
    the filter itself. A channel that finds it in its list takes it apart instead.
    """

    __slots__ = ("__dict__", "__weakref__", "_engine", "event", "filter", "user")

    def __init__(self, engine: "Emitter", handler: Callable[..., Any], event: Any) -> None:
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

    order: float
    owner: Any
    call: Call | None

    def __new__(cls, entry: Iterable[Any], order: float = ORDER, owner: Any = None) -> "Record":
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
        return handler.user if isinstance(handler, FilteredHandler) else handler

    def compile(self, engine: "Emitter", counter: str | None) -> Call:
        """Make the callable of the engine alone that runs this entry, filter included."""
        call = self._bind(engine)
        filter_ = self.filter
        if filter_ is None:
            return call
        test, event = filter_.test, self[0].event

        def filtered(engine: "Emitter") -> None:
            if counter is None:
                raise RuntimeError(f"{event} has a filter and no counter on the state")
            if test(engine, getattr(engine.state, counter, 0)):
                call(engine)

        return filtered

    def deliver(self, engine: "Emitter", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call the handler with what came with the event, in ignite's order of arguments."""
        handler, own, named = self
        first = own[:1]
        if first and isinstance(first[0], weakref.ref):
            first, own = (_resolved(first[0]),), own[1:]
        else:
            first = ()
        # A new dict: what came with this event must not stay in the registration.
        handler(*first, *args, *own, **{**named, **kwargs})

    def _bind(self, engine: "Emitter") -> Call:
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
    order: float
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

    def __imul__(self, times: SupportsIndex) -> "HandlerList":
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


def _record(entry: Any, order: float = ORDER, owner: Any = None) -> Record:
    return entry if isinstance(entry, Record) else Record(entry, order, owner)

"""The event side of an engine: what can be fired, who listens, and what the run was asked to do.

``engine.py`` adds the run to it.
"""

# ignite's engine has plain attributes where this has properties: pyright takes that for an error.
# pyright: reportIncompatibleVariableOverride=false

import difflib
import inspect
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ignite.engine.engine
from ignite.engine.utils import _check_signature

from leyden.engine.dispatch import Channel, Hub, Registry
from leyden.engine.events import (
    CallableEventWithFilter,
    EventEnum,
    Events,
    EventsList,
    RemovableEventHandle,
    State,
)
from leyden.engine.filters import read_filter
from leyden.engine.phases import Machine, Phase
from leyden.engine.records import ORDER, Entry, FilteredHandler, Record

__all__ = ["Emitter"]


class RunState(State):
    """ignite's state; it also counts the events that were registered with one engine only."""

    def __init__(self, counters: Mapping[Any, str]) -> None:
        self._counters = counters
        super().__init__()

    def get_event_attrib_value(self, event_name: Any) -> int:
        """Return the counter of an event."""
        name = self._counters.get(event_name)
        if name is None:
            return super().get_event_attrib_value(event_name)
        return getattr(self, name)  # type: ignore[no-any-return]


class Emitter(ignite.engine.engine.Engine):
    """Everything of ``leyden.engine.Engine`` but the run. See there."""

    last_event_name: Any
    _process_function: Callable[[Any, Any], Any]

    def __init__(self, process_function: Callable[[Any, Any], Any], *, reraise: bool) -> None:
        if process_function is None:
            raise ValueError(
                "Engine must be given a processing function in order to run, got None: "
                "pass a function of (engine, batch)"
            )
        self.reraise = reraise
        self._machine = Machine()
        self._hub = Hub(self)
        self._hub.tapped = type(self)._fire_event is not Emitter._fire_event
        self._registry = Registry(self._hub)
        self._hot = tuple(
            self._registry.channel(event)
            for event in (
                Events.GET_BATCH_STARTED,
                Events.GET_BATCH_COMPLETED,
                Events.ITERATION_STARTED,
                Events.ITERATION_COMPLETED,
            )
        )
        super().__init__(process_function)
        self.logger = logging.getLogger(f"{__name__}.{type(self).__name__}")
        self.state = RunState(self._hub.counters)

    # Events: registering, attaching, firing.

    def register_events(
        self, *event_names: str | EventEnum, event_to_attr: dict[Any, str] | None = None
    ) -> None:
        """Allow more events to be fired and listened to.

        Args:
            event_names: strings, or members of an ``EventEnum``.
            event_to_attr: for events that are counted, the attribute of the state that counts
                them; filters such as ``every=`` need it. Unlike with ignite it holds for this
                engine only.

        Raises:
            TypeError: an event is neither a string nor a member of an ``EventEnum``.
            ValueError: `event_to_attr` is not a dict.
        """
        if event_to_attr is not None and not isinstance(event_to_attr, dict):
            raise ValueError(
                f"Expected event_to_attr to be dictionary. Got {type(event_to_attr)}: "
                "give {event: name of the attribute of engine.state}"
            )
        super().register_events(*event_names)
        for event in event_names:
            if event_to_attr and event in event_to_attr:
                name = event_to_attr[event]
                self._hub.counters[event] = name
                if not hasattr(self.state, name):
                    setattr(self.state, name, 0)
        self._registry.invalidate()

    def count_of(self, event: Any) -> int:
        """Return how often `event` was counted so far: what its filters are asked about."""
        name = self._hub.counter(event)
        if name is None:
            raise RuntimeError(f"{event} has no counter: register it with event_to_attr")
        return getattr(self.state, name, 0)

    def channel(self, event: Any) -> Channel:
        """Return the place where `event` is fired; one object for the engine's life.

        Args:
            event: a registered event, without a filter.

        Raises:
            ValueError: the event is not registered.

        Example:
            >>> from leyden.engine import Engine
            >>> engine = Engine(lambda engine, batch: None)
            >>> engine.register_events("saved")
            >>> saved = engine.channel("saved")
            >>> if saved.live:  # costs next to nothing where nobody listens
            ...     saved.fire()
        """
        self._assert_allowed_event(event)
        return self._registry.channel(event)

    def listen(
        self,
        event: Any,
        handler: Callable[..., Any],
        *,
        order: float = ORDER,
        owner: Any = None,
    ) -> RemovableEventHandle:
        """Call ``handler(engine)`` at an event; EXCEPTION_RAISED gives it the exception as well.

        Args:
            event: an event, with a filter or not, or several joined by ``|``.
            handler: the function.
            order: position among the handlers of the event: smaller runs earlier, equal ones run as
                they were attached. ``add_event_handler`` and ``on`` have 50.
            owner: kept for :meth:`entries`: whatever put the handler there.

        Raises:
            ValueError: the event is not registered, has a filter but no counter, or the handler
                cannot be called with these arguments.
        """
        for single in event if isinstance(event, EventsList) else (event,):
            self._attach(single, handler, (), {}, order=order, owner=owner, with_engine=True)
        return RemovableEventHandle(event, handler, self)

    def add_event_handler(
        self, event_name: Any, handler: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> RemovableEventHandle:
        """Call a handler at an event, as ignite does.

        Args:
            event_name: an event, with a filter or not, or several joined by ``|``.
            handler: the function. The engine is its first argument if its signature has room.
            args: further arguments.
            kwargs: further keyword arguments.

        Raises:
            ValueError: the event is not registered, has a filter but no counter, or the handler
                cannot be called with these arguments.
        """
        if isinstance(event_name, EventsList):
            for event in event_name:
                self._attach(event, handler, args, kwargs)
            return RemovableEventHandle(event_name, handler, self)
        attached = self._attach(event_name, handler, args, kwargs)
        return RemovableEventHandle(event_name, attached, self)

    def remove_event_handler(self, handler: Callable[..., Any], event_name: Any) -> None:
        """Take a handler off an event.

        Args:
            handler: the function that was attached.
            event_name: the event it was attached to; a filter makes no difference.

        Raises:
            ValueError: it is not attached there.
        """
        if event_name not in self._registry:
            raise ValueError(
                f"Input event name '{event_name}' does not exist: nothing was ever attached to it"
            )
        old = self._registry[event_name]
        new = [record for record in old if not self._compare_handlers(handler, record[0])]
        if len(new) == len(old):
            raise ValueError(
                f"Input handler '{handler}' is not found among registered event handlers "
                f"of {event_name}: {[record.user for record in old]}"
            )
        # A new list: an event that is being fired goes on with the old one.
        self._registry[event_name] = new

    def entries(self) -> Iterator[Entry]:
        """Go through everything that is attached: by event, then in the order in which it runs."""
        seen = set()
        for event in (*self._allowed_events, *self._registry):
            if event in seen or event not in self._registry:
                continue
            seen.add(event)
            for record in self._registry[event]:
                yield Entry(event, record.order, record.user, record.filter, record.owner)

    def _attach(
        self,
        event: Any,
        handler: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        order: float = ORDER,
        owner: Any = None,
        with_engine: bool = False,
    ) -> Callable[..., Any]:
        """Check a handler, put it in its list, and return what was put there."""
        self._assert_allowed_event(event)
        if not callable(handler):
            raise TypeError(f"handler {handler!r} for {event} is not callable: pass a function")
        given: tuple[Any, ...] = args
        if event == Events.EXCEPTION_RAISED:
            given = (Exception(), *args)
        elif event == Events.TERMINATE_SINGLE_EPOCH:
            given = (0, *args)
        takes_engine = self._takes_engine(event, handler, given, kwargs, with_engine)
        if isinstance(event, CallableEventWithFilter) and event.filter is not None:
            if self._hub.counter(event) is None:
                raise ValueError(
                    f"{event.name}({read_filter(event.filter)}) has a filter, but nothing counts "
                    f"{event.name}: register the event "
                    "with register_events(event, event_to_attr={event: name of an attribute of "
                    "engine.state}), or attach without a filter"
                )
            handler = self._handler_wrapper(handler, event, event.filter)
        bound = (weakref.ref(self), *args) if takes_engine else args
        event = self._registry.channel(event).event
        self._registry[event].add(Record((handler, bound, kwargs), order, owner))
        return handler

    def _takes_engine(
        self,
        event: Any,
        handler: Callable[..., Any],
        given: tuple[Any, ...],
        kwargs: dict[str, Any],
        with_engine: bool,
    ) -> bool:
        name = getattr(handler, "__qualname__", repr(handler))
        given_text = [*map(repr, given), *(f"{key}={value!r}" for key, value in kwargs.items())]
        calls = []
        for first in ((self,),) if with_engine else ((self,), ()):
            try:
                _check_signature(handler, "handler", *first, *given, **kwargs)
            except ValueError:
                arguments = [*("engine" for _ in first), *given_text]
                calls.append(f"{name}({', '.join(arguments)})")
            else:
                return bool(first)
        try:
            parameters = str(inspect.signature(handler))
        except ValueError:
            parameters = "one that Python cannot read: wrap it in a function"
        raise ValueError(
            f"Error adding {handler} to {event}: it will be called as {' or '.join(calls)}, "
            f"but its signature is {parameters}"
        )

    # For its readers it is what it is in ignite: a dict of lists.
    @property
    def _event_handlers(self) -> Any:
        return self._registry

    @_event_handlers.setter
    def _event_handlers(self, handlers: Any) -> None:
        self._registry.clear()
        self._registry.update(handlers)

    def _handler_wrapper(
        self, handler: Callable[..., Any], event_name: Any, event_filter: Callable[..., Any]
    ) -> Callable[..., Any]:
        return FilteredHandler(self, handler, event_name)

    def _assert_allowed_event(self, event_name: Any) -> None:
        if event_name in self._allowed_events:
            return
        names = [str(getattr(event, "name", event)) for event in self._allowed_events]
        asked = str(getattr(event_name, "name", event_name))
        near = difflib.get_close_matches(asked, names) or difflib.get_close_matches(
            asked.upper(), names
        )
        hint = f"the nearest are {', '.join(near)}" if near else f"allowed are {', '.join(names)}"
        raise ValueError(
            f"Event {event_name} is not a valid event for this {type(self).__name__}: {hint}. "
            "Events of your own are made known with register_events()"
        )

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        self.last_event_name = event_name
        channel = self._registry.channel(event_name)
        if self.reraise and event_args and event_name == Events.EXCEPTION_RAISED:
            self._report(channel, event_args[0])
        else:
            channel.deliver(self, event_args, event_kwargs)

    def _report(self, channel: Channel, error: BaseException) -> None:
        """Tell every listener of an error; their own errors are noted with it, and stop nobody."""
        for handler, another in channel.deliver_each(self, error):
            note = getattr(error, "add_note", None)  # Python 3.11
            if note is not None:
                note(f"While it was handled, {handler} raised {another!r}")
            self.logger.error("%s failed while it handled %r", handler, error, exc_info=another)

    # Requests: what ignite keeps in three attributes.

    @property
    def phase(self) -> Phase:
        """Where the run stands."""
        return self._machine.phase

    @property
    def should_terminate(self) -> bool | str:
        """Whether the run was asked to end: True, or "skip_completed"."""
        return self._machine.terminate

    @should_terminate.setter
    def should_terminate(self, value: bool | str) -> None:
        self._machine.terminate = value
        self._wake()

    @property
    def should_terminate_single_epoch(self) -> bool | str:
        """Whether the epoch was asked to end: True, or "skip_epoch_completed"."""
        return self._machine.terminate_epoch

    @should_terminate_single_epoch.setter
    def should_terminate_single_epoch(self, value: bool | str) -> None:
        self._machine.terminate_epoch = value
        self._wake()

    @property
    def should_interrupt(self) -> bool:
        """Whether the run was asked to pause."""
        return self._machine.interrupt

    @should_interrupt.setter
    def should_interrupt(self, value: bool) -> None:
        self._machine.interrupt = value
        self._wake()

    def _wake(self) -> None:
        # The loop looks at requests only where it attends to an event: make it attend to the next.
        for channel in self._hot:
            channel.due = -1

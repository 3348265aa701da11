"""Where inside an event a run is: what of the event is done, and how to do the rest later.

A checkpoint is often saved by one of several handlers of an event. Those behind it have not run
yet: the validation that is due at the same batch, a scheduler, another ModelCheckpoint. A resumed
run has to run them, and only them. Nothing is recorded for that on the way of an iteration: who
saves looks at its own call stack, where the channels that are being fired stand.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any

from leyden.engine import Engine
from leyden.engine.dispatch import Channel
from leyden.engine.records import Record

__all__ = ["event_named", "finish", "moment_of", "remaining"]


def moment_of(engines: dict[str, Engine], error: BaseException | None = None) -> list[Any]:
    """Say which events are being fired, the outermost first, and which of their handlers are done.

    Args:
        engines: the engines of the run, by stage.
        error: look where this came from, instead of at who calls. The handler that raised it is
            not done; a handler that saves is, and so is a validation in whose events it was raised.

    Returns:
        For each event ``[stage, event, names of handlers]``: plain data.
    """
    stage_of = {
        id(channel): stage
        for stage, engine in engines.items()
        for channel in engine._registry._channels.values()
    }
    found: dict[int, list[Any]] = {}
    running: dict[int, str] = {}
    for frame in _frames_of(error) if error is not None else reversed(list(_frames_here())):
        if not _fires(frame):
            continue
        seen = frame.f_locals
        channel: Any = seen.get("self")
        record = seen.get("record")
        if id(channel) not in stage_of or not isinstance(record, Record) or not channel.handlers:
            continue
        done = []
        for other in channel.handlers:
            if other is record:
                break
            done.append(_name(other))
        if error is None:
            done.append(_name(record))
        # A walk inside a firing of the same event is later than what the outer frame says.
        found[id(channel)] = [stage_of[id(channel)], _event(channel.event), done]
        running[id(channel)] = _name(record)
    moment = list(found.values())
    for outer, inner, name in zip(moment, moment[1:], running.values(), strict=False):
        if error is not None and (inner[0] != outer[0] or "VALIDATION" in inner[1]):
            outer[2].append(name)  # what is left of it is left of the inner event
    return moment


def remaining(engine: Engine, event: Any, done: list[str]) -> list[Any]:
    """List the records of an event that are not among those that are done."""
    left = Counter(done)
    rest = []
    for record in engine._registry.channel(event).handlers or ():
        name = _name(record)
        if left[name]:
            left[name] -= 1
        else:
            rest.append(record)
    return rest


def finish(engine: Engine, event: Any, done: list[str]) -> None:
    """Run the handlers of an event that are not done, with their filters."""
    _finish(engine._registry.channel(event), remaining(engine, event, done), engine)


def _finish(self: Channel, rest: list[Any], engine: Engine) -> None:
    # Its local names are those of the channel's own functions, for who looks at the stack.
    counter = engine._hub.counter(self.event)
    for record in rest:
        record.compile(engine, counter)(engine)


def _fires(frame: FrameType) -> bool:
    """Whether this looks like a method of a channel that goes through its records."""
    names = frame.f_code.co_varnames
    return names[:1] == ("self",) and "record" in names


def event_named(engine: Engine, name: str) -> Any:
    """The event that :func:`moment_of` called by this name."""
    return next((event for event in engine._allowed_events if _event(event) == name), None)


def _event(event: Any) -> str:
    return str(getattr(event, "name", event))


def _name(record: Any) -> str:
    user = record.user
    name = getattr(user, "__qualname__", None) or type(user).__qualname__
    return f"{record.order:g} {name}"


def _frames_here() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _frames_of(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next

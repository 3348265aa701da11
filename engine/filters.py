"""The filters of events: which of them can be computed ahead, and when they pass next."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ignite.engine.events import CallableEventWithFilter

__all__ = ["NEVER", "Filter", "read_filter"]

NEVER = 2**30 - 1
"""A counter value that stands for "not in this run".

The largest int that CPython compares on its fast path. A run that really gets there is told to
look each time, and stays right.
"""


@dataclass(frozen=True)
class Filter:
    """One filter of an event, read back from the function that ignite makes of it.

    Attributes:
        test: the function itself, of (engine, counter).
        every: pass at each `every`-th value; with `after` counted from there.
        once: pass at these values.
        before: pass below this value.
        after: pass above this value.
    """

    test: Callable[[Any, Any], Any]
    every: int | None = None
    once: tuple[int, ...] | None = None
    before: int | None = None
    after: int | None = None

    @property
    def opaque(self) -> bool:
        """Whether only calling :attr:`test` tells, as with a user's ``event_filter``."""
        return not any(
            value is not None for value in (self.every, self.once, self.before, self.after)
        )

    def next(self, counter: int) -> int:
        """Return the smallest value from `counter` on that passes, or :data:`NEVER`.

        Args:
            counter: the first value to look at.

        Returns:
            The value. An opaque filter gives `counter`: it has to be asked each time.
        """
        if self.once is not None:
            return min((value for value in self.once if value >= counter), default=NEVER)
        if self.before is None and self.after is None:
            every = self.every or 1  # neither: opaque
            return -(-counter // every) * every
        first = (self.after or 0) + 1
        value = max(counter, first)
        if self.every is not None:
            value = first - (-(value - first) // self.every) * self.every
        return value if self.before is None or value < self.before else NEVER

    def __str__(self) -> str:
        if self.opaque:
            return f"event_filter={getattr(self.test, '__qualname__', repr(self.test))}"
        named = {"every": self.every, "once": self.once, "after": self.after, "before": self.before}
        if self.once is not None and len(self.once) == 1:
            named["once"] = self.once[0]
        return ", ".join(f"{name}={value}" for name, value in named.items() if value is not None)


_FACTORIES = {
    f"{factory.__qualname__}.<locals>.wrapper": fields
    for factory, fields in (
        (CallableEventWithFilter.every_event_filter, {"every": "every"}),
        (CallableEventWithFilter.once_event_filter, {"once": "once"}),
        (
            CallableEventWithFilter.before_and_after_event_filter,
            {"before_": "before", "after_": "after"},
        ),
        (
            CallableEventWithFilter.every_before_and_after_event_filter,
            {"every": "every", "before_": "before", "after_": "after"},
        ),
    )
}


def read_filter(test: Callable[[Any, Any], Any]) -> Filter:
    """Find out what an event's filter function computes.

    ignite keeps the arguments of ``every=``, ``once=``, ``before=`` and ``after=`` only in the
    closure of the function that it makes. What does not look exactly like one of those is opaque.

    Args:
        test: ``event.filter`` of an event with a filter.
    """
    fields = _FACTORIES.get(getattr(test, "__qualname__", ""))
    closure = getattr(test, "__closure__", None)
    if fields is None or closure is None:
        return Filter(test)
    if getattr(test, "__module__", None) != CallableEventWithFilter.__module__:
        return Filter(test)
    names = test.__code__.co_freevars
    cells = {name: cell.cell_contents for name, cell in zip(names, closure, strict=True)}
    if set(cells) != set(fields):
        return Filter(test)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        value = cells[name]
        if field == "once":
            values[field] = tuple(value)
        elif field == "before" and value == float("inf"):
            continue
        else:
            values[field] = int(value)
    if values.get("after") == 0 and "before" in values:
        del values["after"]  # ignite's default; on its own, or beside every=, it changes the phase
    return Filter(test, **values)

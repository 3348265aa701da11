"""Reading filters back from ignite's functions, and computing when they pass next."""

from types import FunctionType
from typing import Any

import pytest

from leyden.engine import Events, Filter
from leyden.engine.filters import NEVER, read_filter

FORMS: list[dict[str, Any]] = [
    {"every": 2},
    {"every": 7},
    {"once": 3},
    {"once": [4, 9, 2]},
    {"before": 0},
    {"before": 6},
    {"after": 0},
    {"after": 5},
    {"before": 9, "after": 2},
    {"before": 2, "after": 9},
    {"every": 1, "after": 4},
    {"every": 3, "after": 0},
    {"every": 3, "after": 4},
    {"every": 3, "before": 10},
    {"every": 4, "before": 20, "after": 5},
]


def _filter(**form: Any) -> Filter:
    test: Any = Events.ITERATION_STARTED(**form).filter
    return read_filter(test)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_next_is_the_first_value_that_ignite_lets_pass(form: dict[str, Any]) -> None:
    filter_ = _filter(**form)
    assert not filter_.opaque
    for counter in range(40):
        passing = [value for value in range(counter, 200) if filter_.test(None, value)]
        assert filter_.next(counter) == (passing[0] if passing else NEVER), counter


@pytest.mark.parametrize("form", [form for form in FORMS if "after" not in form], ids=str)
def test_the_arguments_are_read_back(form: dict[str, Any]) -> None:
    filter_ = _filter(**form)
    once = form.get("once")
    assert filter_.every == form.get("every")
    assert filter_.before == form.get("before")
    assert filter_.once == (None if once is None else (once,) if type(once) is int else tuple(once))


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"every": 100}, "every=100"),
        ({"once": 3}, "once=3"),
        ({"once": [3, 5]}, "once=(3, 5)"),
        ({"before": 6}, "before=6"),
        ({"after": 5}, "after=5"),
        ({"every": 4, "before": 20, "after": 5}, "every=4, after=5, before=20"),
        ({"every": 3, "after": 0}, "every=3, after=0"),
    ],
)
def test_a_filter_reads_as_it_was_written(form: dict[str, Any], text: str) -> None:
    assert str(_filter(**form)) == text


def _odd(engine: Any, value: int) -> bool:
    return value % 2 == 1


def test_a_function_of_the_user_is_asked_each_time() -> None:
    filter_ = _filter(event_filter=_odd)
    assert filter_.opaque
    assert filter_.test is _odd
    assert [filter_.next(counter) for counter in (0, 1, 5)] == [0, 1, 5]
    assert str(filter_) == "event_filter=_odd"


def test_what_only_looks_like_ignites_function_is_asked_each_time() -> None:
    genuine: Any = Events.ITERATION_STARTED(every=5).filter
    named: Any = FunctionType(_odd.__code__, globals(), "wrapper")
    named.__qualname__ = genuine.__qualname__
    assert read_filter(named).opaque

    every = 3

    def wrapper(engine: Any, event: int) -> bool:
        return event % every == 1

    wrapper.__qualname__ = genuine.__qualname__
    assert read_filter(wrapper).opaque  # the right name, and a closure, in another module

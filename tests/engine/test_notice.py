"""Warnings point at the line of whoever called leyden."""

from __future__ import annotations

import warnings

import pytest

from leyden.engine import Engine
from leyden.engine.notice import warn


def test_the_line_is_that_of_the_caller() -> None:
    with pytest.warns(UserWarning, match="^two$") as told:
        warn("two")
    assert told[0].filename == __file__


def test_the_line_is_the_nearest_outside_of_leyden() -> None:
    def step(engine: Engine, batch: int) -> None:
        warn("in a step", DeprecationWarning)

    with pytest.warns(DeprecationWarning) as told:
        Engine(step).run([1])
    assert told[0].filename == __file__ and told[0].lineno == step.__code__.co_firstlineno + 1


def test_of_frames_that_are_all_ours_the_outermost_counts() -> None:
    """As with ``python -m leyden``: there is no line of the user's."""
    code = "from leyden.engine.notice import warn\nwarn('nobody else')"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        exec(compile(code, "inside.py", "exec"), {"__name__": "leyden.inside"})
    assert told[0].filename == __file__


def test_a_package_whose_name_begins_alike_is_not_ours() -> None:
    code = "from leyden.engine.notice import warn\nwarn('theirs')"
    with pytest.warns(UserWarning) as told:
        exec(compile(code, "theirs.py", "exec"), {"__name__": "leyden_project.train"})
    assert told[0].filename == "theirs.py"

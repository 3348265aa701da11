"""Microseconds of an iteration over the hand-written loop, around a small real step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.contenders import (
    IGNITE,
    LEYDEN,
    LEYDEN_OFF,
    LIGHTNING_OFF,
    accelerate_loop,
    engine_loop,
    leyden_fit,
    lightning_fit,
    timed,
)
from benchmarks.harness import Rounds, Row


@pytest.fixture
def slices(smoke: bool) -> int:
    """Slices of 50 iterations."""
    return 12 if smoke else 30


IGNITE_US = 16.0
"""What ignite's engine takes over the hand-written loop where the bounds were set."""


def ignite(slices: int) -> dict[str, Callable[[], float]]:
    """The peer of every row: its engine, with the hand-written loop's body for a step."""
    return {"ignite": timed(lambda net, data: engine_loop(IGNITE, net, data), slices)}


def _row(what: str, must: float | None, aim: float | None) -> Callable[[Rounds], Row]:
    def row(done: Rounds) -> Row:
        names = ("leyden", "ignite", "Lightning", "Accelerate")
        values = {name: done.median(name) for name in names if name in done.taken}
        return Row(what, values, must=must, aim=aim, ignite=IGNITE_US)

    return row


def _peer(smoke: bool, package: str) -> bool:
    # The bounds of the smoke run need no other peer than ignite.
    return not smoke and importlib.util.find_spec(package) is not None


def test_engine(measure: Any, smoke: bool, slices: int) -> None:
    contenders = {
        "leyden": timed(lambda net, data: engine_loop(LEYDEN, net, data), slices),
        **ignite(slices),
    }
    if _peer(smoke, "accelerate"):
        contenders["Accelerate"] = timed(accelerate_loop, slices)
    measure(contenders, _row("engine with a step of your own", None, None))


def test_trainer_everything_off(measure: Any, smoke: bool, slices: int) -> None:
    contenders = {"leyden": timed(leyden_fit, slices, **LEYDEN_OFF), **ignite(slices)}
    if _peer(smoke, "lightning"):
        contenders["Lightning"] = timed(lightning_fit, 6, **LIGHTNING_OFF)
    measure(contenders, _row("Trainer, everything off", 8, 3))


@pytest.mark.parametrize(
    ("logs", "what", "must", "aim"),
    [
        (1, "Trainer, defaults and one `self.log` a step", 25, 10),
        (10, "Trainer, defaults and ten `self.log` a step", 60, 25),
    ],
)
def test_trainer_defaults(
    measure: Any, smoke: bool, slices: int, logs: int, what: str, must: float, aim: float
) -> None:
    contenders = {"leyden": timed(leyden_fit, slices, logs=logs), **ignite(slices)}
    if _peer(smoke, "lightning"):
        contenders["Lightning"] = timed(lightning_fit, 6, logs=logs)
    measure(contenders, _row(what, must, aim))


def test_progress_bar_alone(measure: Any, slices: int) -> None:
    bar = {**LEYDEN_OFF, "progress_bar_refresh_rate": 1}
    contenders = {
        "without": timed(leyden_fit, slices, **LEYDEN_OFF),
        "with": timed(leyden_fit, slices, **bar),
        **ignite(slices),
    }

    def row(done: Rounds) -> Row:
        cost = done.median("with") - done.median("without")
        return Row("progress bar alone", {"leyden": cost}, must=2, ignite=IGNITE_US)

    measure(contenders, row)


def test_self_log_alone(measure: Any, slices: int) -> None:
    """Nine more calls a step, over nine: the call, and taking the value in when the batch ends."""
    contenders = {
        "one": timed(leyden_fit, slices, logs=1, **LEYDEN_OFF),
        "ten": timed(leyden_fit, slices, logs=10, **LEYDEN_OFF),
        **ignite(slices),
    }

    def row(done: Rounds) -> Row:
        cost = (done.median("ten") - done.median("one")) / 9
        return Row("`self.log` alone, a call", {"leyden": cost}, must=2, ignite=IGNITE_US)

    measure(contenders, row)

"""What it costs to watch a run: the trace of everything, and the accounting that is always on.

Bounds, in microseconds an iteration: the trace 40, the cost by handler 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import leyden
from benchmarks.contenders import (
    IGNITE,
    LEYDEN_OFF,
    engine_loop,
    leyden_fit,
    module_of,
    small_batch,
    small_net,
    timed,
)
from benchmarks.harness import Rounds, Row
from leyden.handlers.cost import TIMING

IGNITE_US = 16.0
"""What ignite's engine takes over the hand-written loop where the bounds were set."""
SLICES = 16
"""Slices of 50 iterations."""


def ignite() -> dict[str, Callable[[], float]]:
    """The peer that a slow machine is told by."""
    return {"ignite": timed(lambda net, data: engine_loop(IGNITE, net, data), SLICES)}


def accounting() -> float:
    """Microseconds an iteration that the meter itself says it takes.

    Not the difference of two runs: most slices have no timed iteration in them, and the stopwatch
    looks at the fastest ones.
    """
    trainer: Any = leyden.Trainer(max_epochs=1, **LEYDEN_OFF)
    trainer._run.cost._clock = time.thread_time
    net, count = small_net(), 3000
    trainer.fit(module_of(leyden.LightningModule)(net, 0), [small_batch()] * count)
    lines = trainer.cost().lines
    spent: float = sum(line.seconds for line in lines if line.event == TIMING)
    return spent / count * 1e6


def test_trace(measure: Any) -> None:
    contenders = {
        "without": timed(leyden_fit, SLICES, **LEYDEN_OFF),
        "with": timed(leyden_fit, SLICES, **{**LEYDEN_OFF, "profiler": "trace"}),
        **ignite(),
    }

    def row(done: Rounds) -> Row:
        cost = done.median("with") - done.median("without")
        return Row("trace of every handler", {"leyden": cost}, must=40, ignite=IGNITE_US)

    measure(contenders, row)


def test_cost(measure: Any) -> None:
    contenders = {"leyden": accounting, **ignite()}

    def row(done: Rounds) -> Row:
        cost = done.median("leyden")
        values = {"leyden": cost}
        return Row("cost by handler, always on", values, must=1, ignite=IGNITE_US)

    measure(contenders, row)

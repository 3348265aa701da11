"""What the engine itself costs: an empty step, and ten handlers that run every 100 iterations."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.contenders import IGNITE, LEYDEN, empty
from benchmarks.harness import Rounds, Row


@pytest.mark.parametrize(
    ("handlers", "what", "must", "aim", "ignite"),
    [
        (0, "engine, empty step", 0.5, 0.2, 5.1),
        (10, "engine, empty step, ten `every=100` handlers", 1.0, 0.3, 18.3),
    ],
)
def test_empty_step(
    measure: Any, handlers: int, what: str, must: float, aim: float, ignite: float
) -> None:
    size = 10_000
    contenders = {
        "leyden": empty(LEYDEN, size, handlers=handlers),
        "ignite": empty(IGNITE, size // 20, handlers=handlers),
    }

    def row(done: Rounds) -> Row:
        values = {name: done.median(name) for name in ("leyden", "ignite")}
        return Row(what, values, must=must, aim=aim, ignite=ignite, digits=2)

    measure(contenders, row)

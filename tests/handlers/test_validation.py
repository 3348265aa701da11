"""Validation: when it is due, with and without a Trainer."""

from typing import Any

import pytest

from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers import Position, Stopping, Validation
from tests.handlers.small_runs import BATCHES, Small


def due(epochs: int = 2, **arguments: Any) -> list[tuple[int, bool]]:
    """At which iterations it ran, and whether at an epoch's end."""
    found: list[tuple[int, bool]] = []
    run = Small()
    every = Validation(lambda on_epoch: found.append((run.state.iteration, on_epoch)), **arguments)
    every.attach(run.engine)
    run.run(epochs)
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [(4, True), (8, True)]),
        ({"every_n_batches": 1}, [(n, False) for n in range(1, 9)]),
        ({"every_n_batches": 2}, [(2, False), (4, False), (6, False), (8, False)]),
        ({"every_n_batches": 3}, [(3, False), (7, False)]),
        ({"every_n_batches": 4}, [(4, True), (8, True)]),
        ({"every_n_batches": float("inf")}, [(4, True), (8, True)]),
        ({"every_n_epochs": 2}, [(8, True)]),
        ({"every_n_epochs": 2, "every_n_batches": 3}, [(7, False)]),
        ({"wanted": lambda: False}, []),
    ],
)
def test_when_it_is_due(arguments: Any, expected: list[tuple[int, bool]]) -> None:
    assert due(**arguments) == expected


def test_an_epoch_cut_short_by_a_stop_still_validates() -> None:
    found: list[int] = []
    stopping = Stopping()
    run = Small(stopping)
    Validation(
        lambda on_epoch: found.append(run.state.iteration), stopping=lambda: stopping.should_stop
    ).attach(run.engine)
    run.engine.listen(Events.ITERATION_COMPLETED(once=6), lambda engine: stopping.stop())
    run.run(epochs=5)
    assert found == [4, 6] and run.state.iteration == 6


def test_its_events_surround_it() -> None:
    order: list[str] = []
    engine = Engine(lambda engine, batch: None)
    Validation(lambda on_epoch: order.append("run")).attach(engine)
    Position().attach(engine)
    Position().listen(engine, TrainerEvents.VALIDATION_STARTED, lambda e: order.append("started"))
    Position().listen(engine, TrainerEvents.VALIDATION_COMPLETED, lambda e: order.append("done"))
    engine.run([0] * BATCHES, max_epochs=1)
    assert order == ["started", "run", "done"]


@pytest.mark.parametrize("argument", ["every_n_batches", "every_n_epochs"])
def test_intervals_below_one_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument}=0 is below 1: it counts"):
        Validation(lambda on_epoch: None, **{argument: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(("cut_at", "expected"), [(None, [(4, True)]), (3, [])])
def test_data_of_unknown_length_that_was_cut_does_not_validate(
    cut_at: int | None, expected: list[tuple[int, bool]]
) -> None:
    seen: list[tuple[int, bool]] = []
    run = Small(Validation(lambda on_epoch: seen.append((run.state.iteration, on_epoch))))
    run.engine.listen(
        Events.EPOCH_STARTED, lambda engine: setattr(engine.state, "num_batches", float("inf"))
    )
    if cut_at is not None:
        at = Events.ITERATION_COMPLETED(once=cut_at)
        run.engine.listen(at, lambda engine: engine.terminate_epoch())
    run.run(epochs=1)
    assert seen == expected

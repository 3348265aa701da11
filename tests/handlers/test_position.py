"""Position: a batch's number in its epoch, whatever began or ended the epoch."""

from typing import Any

import pytest

from leyden.engine import Engine, Events
from leyden.handlers import Position
from tests.handlers.small_runs import Small


def numbers(engine: Engine) -> list[int]:
    seen: list[int] = []
    state: Any = engine.state
    engine.listen(Events.ITERATION_COMPLETED, lambda engine: seen.append(state.batch_idx))
    return seen


@pytest.mark.parametrize("data_ends_epoch", [False, True])
def test_batches_count_from_0_in_every_epoch(data_ends_epoch: bool) -> None:
    engine = Engine(lambda engine, batch: None, data_ends_epoch=data_ends_epoch)
    Position().attach(engine)
    seen = numbers(engine)
    engine.run([1, 2, 3], max_epochs=2)
    assert seen == [0, 1, 2, 0, 1, 2]


def test_after_an_epoch_that_was_cut_short() -> None:
    engine = Engine(lambda engine, batch: None, data_ends_epoch=True)
    Position().attach(engine)
    seen = numbers(engine)
    engine.listen(Events.ITERATION_COMPLETED(once=2), lambda engine: engine.terminate_epoch())
    engine.run([1, 2, 3], max_epochs=2)
    assert seen == [0, 1, 0, 1, 2]


def test_a_resumed_epoch_goes_on_with_its_numbers() -> None:
    engine = Engine(lambda engine, batch: None, data_ends_epoch=True)
    Position().attach(engine)
    seen = numbers(engine)
    engine.load_state_dict(
        {"iteration": 5, "epoch_length": None, "max_epochs": 3, "epoch": 1, "batch": 2}
    )
    engine.run([3])
    assert seen == [2, 0]


def test_the_number_of_batches_is_told_where_the_engine_knows_it() -> None:
    engine = Engine(lambda engine, batch: None)
    Position().attach(engine)
    state: Any = engine.state
    assert state.num_batches == float("inf")
    engine.run([1, 2, 3])
    assert state.num_batches == 3


def test_global_step_catches_up_when_the_epoch_is_over() -> None:
    seen: list[int] = []
    run = Small()
    for event in (Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
        run.engine.listen(event, lambda engine: seen.append(run.state.global_step))
    run.run(epochs=1)
    assert seen == [0, 1, 2, 3, 3] and run.state.global_step == 4

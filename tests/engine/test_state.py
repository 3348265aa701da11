"""The state of a training run: counters, batch numbers, and what replacing it keeps."""

from typing import Any

import pytest

from leyden.engine import Engine, Events
from leyden.engine.state import TrainState, give_state


def test_what_was_set_stays_and_the_counters_go_on_counting() -> None:
    engine = Engine(lambda engine, batch: None)
    engine.register_events("mine", event_to_attr={"mine": "mine_count"})
    engine.state.note = "kept"
    state = give_state(engine, TrainState)
    assert engine.state is state and state.note == "kept"
    state.mine_count = 4
    assert state.get_event_attrib_value("mine") == 4
    engine.run([1, 2, 3])
    assert state.get_event_attrib_value(Events.ITERATION_COMPLETED) == 3
    assert engine.state is state


@pytest.mark.parametrize(
    ("iteration", "start", "expected"), [(0, 0, 0), (1, 0, 0), (5, 0, 4), (5, 4, 0), (4, 4, 0)]
)
def test_batch_idx_counts_from_0_in_the_epoch(iteration: int, start: int, expected: int) -> None:
    state = give_state(Engine(lambda engine, batch: None), TrainState)
    state.iteration, state.epoch_start = iteration, start
    assert state.batch_idx == expected


def test_global_step_is_one_behind_until_the_batch_is_over() -> None:
    state: Any = give_state(Engine(lambda engine, batch: None), TrainState)
    state.iteration, state.optimizer_steps, state.closed_at = 7, 3, 7
    assert state.global_step == 2
    state.iteration = 8
    assert state.global_step == 3
    state.iteration = 7
    state.settle()
    assert state.global_step == 3 == state.optimizer_steps


def test_two_engines_share_nothing() -> None:
    first, second = (give_state(Engine(lambda e, b: None), TrainState) for _ in range(2))
    first.outputs.append([1])
    first.optimizers.append("one")
    assert second.outputs == [] and second.optimizers == []

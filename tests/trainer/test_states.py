"""The decorator that sets the state of a Trainer around a function."""

from typing import Any

import pytest

import leyden
from leyden.states import TrainerState, trainer_state

BEGUN, R, F = TrainerState.INITIALIZING, TrainerState.RUNNING, TrainerState.FINISHED


@pytest.mark.parametrize(
    ("entering", "exiting", "within", "after"),
    [(None, None, BEGUN, BEGUN), (R, None, R, BEGUN), (None, F, BEGUN, F), (R, F, R, F)],
)
def test_the_state_in_the_function_and_after_it(
    entering: str | None, exiting: str | None, within: str, after: str
) -> None:
    @trainer_state(entering=entering, exiting=exiting)
    def look(self: Any) -> str:
        return str(self.state)

    trainer = leyden.Trainer(logger=False, checkpoint_callback=False)
    assert look(trainer) == within and trainer.state == after


def test_interrupted_remains() -> None:
    @trainer_state(exiting=F)
    def interrupt(self: Any) -> None:
        self._state = TrainerState.INTERRUPTED

    trainer = leyden.Trainer(logger=False, checkpoint_callback=False)
    interrupt(trainer)
    assert trainer.state == TrainerState.INTERRUPTED


def test_what_is_no_trainer_has_no_state() -> None:
    @trainer_state(entering=R)
    def double(value: int) -> int:
        return 2 * value

    assert double(4) == 8

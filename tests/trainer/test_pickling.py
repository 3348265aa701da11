"""A Trainer in a file, or copied."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, Timer
from tests.trainer.tiny import Tiny, data, trainer


class Counts(leyden.Callback):
    """Has something of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
        self.epochs += 1


@pytest.mark.parametrize("way", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_a_copy_has_the_arguments_and_callbacks(tmp_path: Path, way: Any) -> None:
    counts = Counts()
    made = trainer(
        tmp_path,
        max_epochs=2,
        callbacks=[counts, EarlyStopping("val_score")],
        max_time="00:01:00:00",
    )
    made.fit(Tiny(), data(), data(2))
    again = way(made)
    assert (again.max_epochs, again.default_root_dir) == (2, made.default_root_dir)
    kinds = [Counts, EarlyStopping, Timer]
    assert [type(one) for one in again.callbacks] == [type(one) for one in made.callbacks] == kinds
    assert again.callbacks[0] is not counts and again.callbacks[0].epochs == 2
    assert (again.current_epoch, again.global_step, again.model) == (0, 0, None)
    again.fit(Tiny(), data(), data(2))
    assert again.callbacks[0].epochs == 4 and counts.epochs == 2


def test_what_the_trainer_made_itself_is_made_once(tmp_path: Path) -> None:
    made = leyden.Trainer(default_root_dir=tmp_path)
    again = pickle.loads(pickle.dumps(made))
    assert [type(one) for one in again.callbacks] == [type(one) for one in made.callbacks]
    assert again.logger.log_dir == made.logger.log_dir


def test_a_checkpoint_callback_that_was_an_argument_is_there_once(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="checkpoint_callback"):
        made = trainer(tmp_path, checkpoint_callback=ModelCheckpoint(monitor="a"))
    again = copy.deepcopy(made)
    assert [saver.monitor for saver in again.checkpoint_callbacks] == ["a"]

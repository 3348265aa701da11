"""Callbacks, loggers, profiler and progress bar: from arguments, and changed afterwards."""

from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from leyden.exceptions import MisconfigurationException
from leyden.loggers import CSVLogger, LoggerCollection
from leyden.profiler import AdvancedProfiler, PassThroughProfiler, SimpleProfiler
from tests.trainer.tiny import QUIET, Bare, Tiny, data, trainer


class Counts(leyden.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.batches += 1


# --- callbacks


def test_the_list_that_was_given_is_appended_to() -> None:
    mine: list[Any] = [Counts()]
    made = leyden.Trainer(logger=False, callbacks=mine)
    assert made.callbacks is mine
    assert [type(one).__name__ for one in mine] == ["Counts", "ModelCheckpoint", "ProgressBar"]


def test_a_list_that_served_one_trainer_serves_the_next_with_the_same_arguments() -> None:
    saver = ModelCheckpoint()
    given: dict[str, Any] = {"callbacks": [Counts()], "checkpoint_callback": saver}
    for _ in range(2):
        with pytest.deprecated_call():
            made = leyden.Trainer(logger=False, progress_bar_refresh_rate=0, **given)
    assert [type(one).__name__ for one in made.callbacks] == ["Counts", "ModelCheckpoint"]
    assert made.checkpoint_callback is saver


def test_an_empty_list_is_left_alone() -> None:
    mine: list[Any] = []
    made = leyden.Trainer(logger=False, callbacks=mine)
    assert mine == []
    assert len(made.callbacks) == 2


@pytest.mark.parametrize("given", [Counts(), (Counts(),)])
def test_one_callback_or_a_tuple(given: Any) -> None:
    made = leyden.Trainer(**QUIET, callbacks=given)
    assert [type(one) for one in made.callbacks] == [Counts]
    assert "Counts" in made.handlers


def test_what_is_put_into_the_list_takes_part_in_the_next_run() -> None:
    first, second = Counts(), Counts()
    made, module = trainer(max_epochs=1, callbacks=[first]), Bare()
    made.fit(module, data())
    made.callbacks.append(second)
    made.callbacks.remove(first)
    made.max_epochs = 2
    made.fit(module, data())
    assert (first.batches, second.batches) == (6, 6)
    assert second.origin == "trainer.callbacks"
    made.callbacks = [first]
    made.max_epochs = 3
    made.fit(module, data())
    assert (first.batches, second.batches) == (12, 6)


def test_a_handler_that_was_added_stays_when_the_list_changes() -> None:
    added, made = Counts(), trainer(max_epochs=1)
    made.handlers.add(added)
    made.callbacks = []
    made.fit(Bare(), data())
    assert added.batches == 6


def test_a_callback_given_twice_is_refused() -> None:
    one = Counts()
    with pytest.raises(MisconfigurationException, match="twice"):
        leyden.Trainer(**QUIET, callbacks=[one, one])


def test_what_is_no_callback_is_refused_when_a_run_begins() -> None:
    made = leyden.Trainer(**QUIET)
    made.callbacks.append(object())
    with pytest.raises(MisconfigurationException, match=r"trainer.callbacks.*without attach"):
        made.fit(Tiny(), data())
    assert not made.current_epoch


# --- fast_dev_run


def test_under_fast_dev_run_nothing_saves_or_stops_but_all_can_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    saver, stopper = ModelCheckpoint(monitor="val_score"), EarlyStopping("val_score")
    made = leyden.Trainer(fast_dev_run=True, callbacks=[saver, stopper], enable_progress_bar=False)
    assert made.checkpoint_callback is saver
    assert made.early_stopping_callback is stopper
    assert "ModelCheckpoint" not in made.handlers
    assert "EarlyStopping" not in made.handlers
    told = capsys.readouterr().out
    assert "fast_dev_run=True sets: limit_train_batches 1.0 -> 1" in told
    assert "the ModelCheckpoint of callbacks does nothing" in told
    made.fit(Tiny(), data(), data())
    assert saver.best_model_path == ""
    with pytest.raises(MisconfigurationException, match="none was saved"):
        made.validate(val_dataloaders=data())


def test_under_fast_dev_run_the_default_checkpoint_can_be_read_quietly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = leyden.Trainer(fast_dev_run=2, enable_progress_bar=False)
    assert isinstance(made.checkpoint_callback, ModelCheckpoint)
    assert len(capsys.readouterr().out.splitlines()) == 1
    off = leyden.Trainer(fast_dev_run=2, enable_progress_bar=False, checkpoint_callback=False)
    assert off.checkpoint_callback is None


def test_evaluation_without_checkpoints_says_so() -> None:
    made = trainer(max_epochs=1)
    made.fit(Tiny(), data(), data())
    with pytest.raises(MisconfigurationException, match="needs a ModelCheckpoint"):
        made.validate(val_dataloaders=data())
    assert list(made.validate(None, data(), ckpt_path=None, verbose=False)[0]) == ["val_score"]


# --- loggers, profilers, the bar


def test_loggers(tmp_path: Any) -> None:
    one, two = CSVLogger(str(tmp_path), name="a"), CSVLogger(str(tmp_path), name="b")
    made = leyden.Trainer(**{**QUIET, "logger": one})
    assert made.logger is one
    made.logger = [one, two]
    assert isinstance(made.logger, LoggerCollection)
    made.logger = False
    assert made.logger is None
    assert "LoggerFlush" not in made.handlers
    made.logger = two
    assert made.logger is two
    assert "LoggerFlush" in made.handlers
    with pytest.raises(MisconfigurationException, match="log_metrics"):
        made.logger = "csv"
    assert made.logger is two


def test_a_logger_set_later_gets_the_rows(tmp_path: Any) -> None:
    made = trainer(tmp_path, max_epochs=1, log_every_n_steps=1)
    made.logger = CSVLogger(str(tmp_path), name="later")
    made.fit(Bare(), data())
    assert (tmp_path / "later" / "version_0" / "metrics.csv").exists()


@pytest.mark.filterwarnings("ignore:Trainer.profiler=:DeprecationWarning")
@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (None, PassThroughProfiler),
        (False, PassThroughProfiler),
        (True, SimpleProfiler),
        ("Simple", SimpleProfiler),
        ("advanced", AdvancedProfiler),
    ],
)
def test_profilers(asked: Any, kind: type) -> None:
    assert type(leyden.Trainer(**QUIET, profiler=asked).profiler) is kind
    made = leyden.Trainer(**QUIET)
    made.profiler = asked
    assert type(made.profiler) is kind


def test_a_profiler_of_the_users_own() -> None:
    own = SimpleProfiler()
    assert leyden.Trainer(**QUIET, profiler=own).profiler is own


def test_the_bar_is_made_anew() -> None:
    made = leyden.Trainer(logger=False, checkpoint_callback=False)
    first = made.progress_bar_callback
    made.progress_bar_refresh_rate = 7
    assert made.progress_bar_callback is not first
    assert made.progress_bar_callback.refresh_rate == 7
    made.progress_bar_refresh_rate = 0
    assert made.progress_bar_callback is None
    assert made.callbacks == []


def test_a_bar_of_the_users_own_is_not_replaced() -> None:
    own = ProgressBar(refresh_rate=3)
    made = leyden.Trainer(logger=False, checkpoint_callback=False, callbacks=[own])
    with pytest.raises(MisconfigurationException, match="the progress bar is the ProgressBar"):
        made.progress_bar_refresh_rate = 7
    assert made.progress_bar_callback is own
    assert made.progress_bar_refresh_rate == 1


# --- torch's switches


def switches() -> tuple[bool, bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


class Sees(leyden.Callback):
    def __init__(self, *, fails_in: str = "") -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.fails_in = fails_in

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._see("on_fit_start")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self._see("on_train_batch_start")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._see("on_fit_end")

    def _see(self, hook: str) -> None:
        self.seen.append(switches())
        if hook == self.fails_in:
            raise RuntimeError(hook)


@pytest.mark.parametrize(
    ("given", "inside"),
    [
        (dict(deterministic=True), (True, False, True, False)),
        (dict(deterministic="warn"), (True, True, True, False)),
        (dict(benchmark=True), (False, False, False, True)),
        (dict(benchmark=True, deterministic=True), (True, False, True, False)),
    ],
)
def test_switches_hold_for_the_run_and_no_longer(given: Any, inside: Any) -> None:
    before, sees = switches(), Sees()
    made = trainer(max_epochs=1, limit_train_batches=1, callbacks=[sees], **given)
    assert switches() == before
    made.fit(Bare(), data())
    assert sees.seen == [inside] * 3
    assert switches() == before


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_batch_start", "on_fit_end"])
def test_switches_are_put_back_after_an_exception(hook: str) -> None:
    before = switches()
    made = trainer(max_epochs=1, deterministic=True, callbacks=[Sees(fails_in=hook)])
    with pytest.raises(RuntimeError, match=hook):
        made.fit(Bare(), data())
    assert switches() == before

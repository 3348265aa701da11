"""EarlyStopping: when it stops, why, and what it keeps."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.handlers.early_stopping import EarlyStopping
from tests.handlers.callback_runs import Run

NAN = float("nan")
VALUES = [5, 3, 4, 4, 2, 6, 6, 6, 6, 6, 6, 6]


def stopped(tmp_path: Path, values: list[float], **arguments: Any) -> tuple[int, int, float]:
    """Epoch of the stop, or -1; checks without improvement; best value."""
    stopping = EarlyStopping("score", **{"mode": "min", **arguments})
    run = Run(tmp_path, [stopping], scores=values).fit(len(values))
    assert bool(stopping.stop_reason) == run.should_stop
    epoch = stopping.stopped_epoch if run.should_stop else -1
    assert run.state.epoch == (epoch + 1 if run.should_stop else len(values))
    return epoch, stopping.wait_count, float(stopping.best_score)


@pytest.mark.parametrize(
    ("patience", "expected"),
    [(0, (2, 1, 3.0)), (1, (2, 1, 3.0)), (2, (3, 2, 3.0)), (3, (7, 3, 2.0))],
)
def test_patience_counts_checks_without_improvement(
    tmp_path: Path, patience: int, expected: tuple[int, int, float]
) -> None:
    assert stopped(tmp_path, list(VALUES), patience=patience) == expected


def test_min_delta_in_both_directions(tmp_path: Path) -> None:
    down = [1.0, 0.95, 0.9, 0.85, 0.2]
    assert stopped(tmp_path, down, min_delta=0.2) == (3, 3, 1.0)
    assert stopped(tmp_path, [-v for v in down], mode="max", min_delta=0.2) == (3, 3, -1.0)
    assert stopped(tmp_path, down) == (-1, 0, pytest.approx(0.2))


def test_nan_is_never_an_improvement(tmp_path: Path) -> None:
    assert stopped(tmp_path, [2, NAN, 1, NAN, NAN, 0.5], patience=2) == (4, 2, 1.0)
    assert stopped(tmp_path, [NAN] * 4, patience=3) == (2, 3, float("inf"))


def test_check_finite_and_thresholds_stop_at_once_and_say_why(tmp_path: Path) -> None:
    cases: list[tuple[list[float], dict[str, Any], str]] = [
        ([2, NAN, 1], {"check_finite": True}, "score is nan, which is not finite"),
        ([2, 0.5, 1], {"stopping_threshold": 1.0}, "stopping_threshold=1"),
        ([2, 9.0, 1], {"divergence_threshold": 8.0}, "divergence_threshold=8"),
        ([2, 3.0, 1], {"patience": 1}, "did not improve in the last 1 checks (patience=1)"),
    ]
    for values, arguments, reason in cases:
        stopping = EarlyStopping("score", mode="min", **arguments)
        Run(tmp_path, [stopping], scores=values).fit(3)
        assert stopping.stopped_epoch == 1 and reason in stopping.stop_reason, arguments
    assert float(stopping.best_score) == 2.0


def test_a_value_past_the_stopping_threshold_is_the_best(tmp_path: Path) -> None:
    assert stopped(tmp_path, [2, 0.5], stopping_threshold=1.0)[2] == 0.5


def test_the_reason_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="leyden.handlers.early_stopping"):
        stopped(tmp_path, [1.0, 2.0], patience=1)
    assert "epoch 1: training stops early: score did not improve" in caplog.text


def test_checks_after_each_validation_of_an_epoch(tmp_path: Path) -> None:
    stopping = EarlyStopping("score", mode="min", patience=9)
    Run(tmp_path, [stopping], scores=[1, 2, 3, 4], validate_at=(2, 4)).fit(2)
    assert stopping.wait_count == 3


def test_checks_training_metrics_where_nothing_is_validated(tmp_path: Path) -> None:
    stopping = EarlyStopping("score", mode="min", patience=1)
    run = Run(tmp_path, [stopping], train_scores=[1, 2, 3]).fit(3)
    assert stopping.stopped_epoch == 1 and run.state.epoch == 2


def test_the_sanity_check_and_fast_dev_run_do_not_count(tmp_path: Path) -> None:
    for name in ("running_sanity_check", "fast_dev_run"):
        stopping = EarlyStopping("absent")
        Run(tmp_path, [stopping], scores=[1.0], **{name: True}).fit(1)
        assert stopping.wait_count == 0


def test_a_missing_value_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="monitor='nope'.*logged are: 'score'.*self.log"):
        Run(tmp_path, [EarlyStopping("nope")], scores=[1.0]).fit(1)
    loose = EarlyStopping("nope", strict=False)
    Run(tmp_path, [loose], scores=[1.0]).fit(1)
    assert loose.wait_count == 0
    with pytest.warns(RuntimeWarning, match="monitor='nope'"):
        Run(tmp_path, [EarlyStopping("nope", strict=False, verbose=True)], scores=[1.0]).fit(1)


def test_two_of_a_class_keep_their_own_count(tmp_path: Path) -> None:
    low = EarlyStopping("score", mode="min", patience=9)
    high = EarlyStopping("score", mode="max", patience=9)
    run = Run(tmp_path, [low, high], scores=[1, 2, 3]).fit(3)
    run.save_checkpoint(str(tmp_path / "x.ckpt"))
    assert (low.wait_count, high.wait_count) == (2, 0)
    assert low.state_key != high.state_key
    again = EarlyStopping("score", mode="min", patience=9)
    again.on_load_checkpoint(low.on_save_checkpoint(run, run.model))
    assert again.state_dict() == low.state_dict()


def test_the_state_of_lightning_is_taken(tmp_path: Path) -> None:
    stopping = EarlyStopping("score", mode="min")
    stopping.on_load_checkpoint(
        {"wait_count": 2, "stopped_epoch": 0, "best_score": torch.tensor(1.5), "patience": 7}
    )
    assert (stopping.wait_count, stopping.patience, float(stopping.best_score)) == (2, 7, 1.5)
    with pytest.raises(KeyError, match="best_score"):
        stopping.on_load_checkpoint({"wait_count": 2, "stopped_epoch": 0, "patience": 7})


def test_the_best_value_is_a_copy(tmp_path: Path) -> None:
    stopping = EarlyStopping("score", mode="min")
    run = Run(tmp_path, [stopping], scores=[3.0]).fit(1)
    run.callback_metrics["score"].zero_()
    assert float(stopping.best_score) == 3.0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"monitor": 3}, TypeError, "monitor=3"),
        ({"patience": -1}, ValueError, "patience=-1"),
        ({"patience": 1.5}, TypeError, "patience=1.5"),
        ({"patience": True}, TypeError, "patience=True"),
        ({"min_delta": -0.1}, ValueError, "min_delta=-0.1"),
        ({"min_delta": NAN}, ValueError, "min_delta=nan"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        EarlyStopping(**arguments)


def test_an_unknown_mode_is_auto_with_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="mode='sideways'"):
        assert EarlyStopping("val_acc", mode="sideways").mode == "max"
    modes = {
        key: EarlyStopping(key).mode for key in ("val_acc", "fmeasure_1", "loss", "a_fmeasure")
    }
    assert modes == {"val_acc": "max", "fmeasure_1": "max", "loss": "min", "a_fmeasure": "min"}


def test_a_derived_class_checks_at_another_moment(tmp_path: Path) -> None:
    # What Lightning 1.1's documentation shows for stopping at the ends of training epochs.
    class AtTrainEpochEnd(EarlyStopping):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            pass

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self._run_early_stopping_check(trainer, pl_module)

    stopping = AtTrainEpochEnd("t", mode="min", patience=2)
    run = Run(tmp_path, [stopping], scores=[1.0] * 6)
    run.callback_metrics["t"] = torch.tensor(1.0)
    run.fit(6)
    assert run.should_stop and (stopping.stopped_epoch, stopping.wait_count) == (2, 2)


def test_a_derived_class_sees_each_check_and_what_was_logged(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Watches(EarlyStopping):
        def _run_early_stopping_check(self, trainer: Any, pl_module: Any) -> None:
            seen.append(trainer.current_epoch)
            super()._run_early_stopping_check(trainer, pl_module)

        def _validate_condition_metric(self, logs: Any) -> bool:
            seen.append(sorted(logs))
            return super()._validate_condition_metric(logs)

    Run(tmp_path, [Watches("score", mode="min")], scores=[1.0, 2.0]).fit(2)
    assert seen == [0, ["score"], 1, ["score"]]


def test_the_comparison_is_an_attribute() -> None:
    assert EarlyStopping("loss", mode="min").monitor_op is torch.lt
    assert EarlyStopping("acc", mode="max").monitor_op is torch.gt

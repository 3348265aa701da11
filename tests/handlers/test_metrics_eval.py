"""What self.log records in evaluation runs: names by loader and epoch, rows, results, nesting."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.engine.errors import MisconfigurationException
from tests.handlers.metrics_fakes import Run

PAIR = torch.zeros(2, 3)


def test_validation_defaults_are_per_epoch() -> None:
    run = Run()
    run.state.global_step = 3
    results = run.evaluate(
        "validate",
        [[PAIR, torch.zeros(1, 3)]],
        lambda i, d: run.log("v", float(i), "validation_step"),
    )
    assert results == [{"v": pytest.approx(1 / 3)}]
    assert run.rows == [({"v": pytest.approx(1 / 3), "epoch": 0}, 3)]
    assert run.metrics()["callback"] == {"v": pytest.approx(1 / 3)}


def test_step_values_are_written_at_the_batch_index_under_the_epochs_name() -> None:
    run = Run()
    run.state.epoch, run.state.global_step = 2, 7
    both = dict(on_step=True, on_epoch=True, prog_bar=True)
    run.evaluate(
        "validate", [[PAIR] * 2], lambda i, d: run.log("v", i + 1.0, "validation_step", **both)
    )
    assert run.rows == [
        ({"v_step/epoch_1": 1.0}, 0),
        ({"v_step/epoch_1": 2.0}, 1),
        ({"v_epoch": 1.5, "epoch": 1}, 7),
    ]
    assert run.metrics() == {
        "callback": {"v": 2.0, "v_epoch": 1.5},
        "logged": {"v_step/epoch_1": 2.0, "v_epoch": 1.5, "epoch": 1},
        "progress_bar": {"v_step": 2.0, "v_epoch": 1.5},
    }


def test_several_loaders_get_names_and_results_of_their_own() -> None:
    run = Run()
    run.state.global_step = 3

    def step(i: int, d: int) -> None:
        run.log("v", 10.0 * d + i, "validation_step", prog_bar=True)
        run.log("w", float(i), "validation_step", on_step=True, on_epoch=True)

    def end() -> None:
        run.log("end", 7.0, "validation_epoch_end")

    results = run.evaluate("validate", [[PAIR] * 2, [PAIR] * 3], step, end)
    first, second = "w_step/dataloader_idx_0/epoch_0", "w_step/dataloader_idx_1/epoch_0"
    assert run.rows[:-1] == [
        ({first: 0.0}, 0),
        ({first: 1.0}, 1),
        ({first: 1.0, second: 0.0}, 0),
        ({first: 1.0, second: 1.0}, 1),
        ({first: 1.0, second: 2.0}, 2),
    ]
    assert run.rows[-1][0] == {
        "v/dataloader_idx_0": 0.5, "w_epoch/dataloader_idx_0": 0.5, "v/dataloader_idx_1": 11.0,
        "w_epoch/dataloader_idx_1": 1.0, "end": 7.0, "epoch": 0,
    }  # fmt: skip
    assert results == [
        {"w/dataloader_idx_0": 1.0, "v/dataloader_idx_0": 0.5, "w_epoch/dataloader_idx_0": 0.5,
         "end": 7.0},
        {"w/dataloader_idx_1": 2.0, "v/dataloader_idx_1": 11.0, "w_epoch/dataloader_idx_1": 1.0,
         "end": 7.0},
    ]  # fmt: skip
    assert run.recorder.progress_bar_metrics == {
        "v/dataloader_idx_0": 0.5, "v/dataloader_idx_1": 11.0,
    }  # fmt: skip


def test_eleven_loaders_are_told_apart() -> None:
    run = Run()
    results = run.evaluate("test", [[PAIR]] * 11, lambda i, d: run.log("v", float(d), "test_step"))
    assert results == [{f"v/dataloader_idx_{d}": float(d)} for d in range(11)]


def test_without_the_suffix_the_loaders_share_one_mean() -> None:
    run = Run()
    results = run.evaluate(
        "validate",
        [[PAIR], [PAIR]],
        lambda i, d: run.log("v", float(d), "validation_step", add_dataloader_idx=False),
    )
    assert results == [{"v": 0.5}, {"v": 0.5}]


def test_a_validation_inside_an_epoch_leaves_the_training_values_alone() -> None:
    run = Run()
    both = dict(on_step=False, on_epoch=True)
    run.recorder.train_epoch_started()
    for i in range(4):
        run.batch(i)
        run.log("a", float(i), **both)
        run.recorder.train_batch_ended(write=True)
        if i == 1:
            run.evaluate(
                "validate",
                [[torch.zeros(5, 1)]],
                lambda i, d: run.log("a", 100.0, "validation_step"),
            )
            assert run.recorder.stage == "train"
            assert run.metrics()["callback"] == {"a": 100.0}
    run.recorder.train_epoch_ended(None)
    assert run.rows == [({"a": 100.0, "epoch": 0}, 1), ({"a": 1.5, "epoch": 0}, 3)]


def test_a_sanity_check_writes_nothing_and_leaves_no_callback_metrics() -> None:
    run = Run()

    def step(i: int, d: int) -> None:
        run.log("v", 1.0, "validation_step", prog_bar=True)
        run.log("s", 1.0, "validation_step", on_step=True)

    def end() -> None:
        run.log("at_end", 3.0, "validation_epoch_end")

    run.evaluate("sanity", [[PAIR] * 2], step, end)
    assert run.rows == []
    assert run.metrics()["callback"] == {}
    assert run.metrics()["progress_bar"] == {"v": 1.0}
    logged = run.metrics()["logged"]
    assert (logged["v"], logged["at_end"], logged["epoch"]) == (1.0, 3.0, 0)


def test_results_hold_this_runs_values_only() -> None:
    run = Run()
    run.log("train", 1.0, "training_epoch_end")
    run.recorder.train_epoch_ended(None)
    results = run.evaluate(
        "test", [[PAIR]], lambda i, d: run.log("test", 3.0, "test_step", prog_bar=True)
    )
    assert results == [{"test": 3.0}]
    assert run.metrics()["callback"] == {"train": 1.0, "test": 3.0}


def test_step_values_alone_are_no_results() -> None:
    run = Run()
    results = run.evaluate(
        "test", [[PAIR]], lambda i, d: run.log("b", 1.0, "test_step", on_step=True, on_epoch=False)
    )
    assert results == [{}]
    assert run.rows == [({"b/epoch_0": 1.0}, 0)]


def test_nothing_logged_gives_one_empty_result_a_loader() -> None:
    assert Run().evaluate("test", [[PAIR], [PAIR]], lambda i, d: None) == [{}, {}]


def test_returned_dicts_of_the_older_kind() -> None:
    run = Run()
    mean = torch.tensor(0.25)

    def end() -> Any:
        return {"val_loss": mean, "log": {"logged": mean}, "progress_bar": {"shown": mean}}

    results = run.evaluate("validate", [[PAIR]], lambda i, d: None, end)
    assert results == [{"val_loss": 0.25, "logged": 0.25, "shown": 0.25}]
    assert run.rows == [({"logged": 0.25, "epoch": 0}, 0)]
    assert run.recorder.progress_bar_metrics == {"shown": 0.25}


def test_returned_dicts_of_a_sanity_check_are_dropped() -> None:
    run = Run()
    one = {"val_loss": 0.25, "log": {"logged": 1.0}, "progress_bar": {"shown": 2.0}}
    assert run.evaluate("sanity", [[PAIR]], lambda i, d: None, lambda: one) == [{}]
    assert run.rows == [] and run.recorder.progress_bar_metrics == {}


@pytest.mark.parametrize(
    "hook",
    "on_validation_start on_validation_epoch_start on_validation_epoch_end validation_epoch_end "
    "on_validation_batch_end validation_step_end on_test_epoch_end".split(),
)
def test_hooks_of_an_evaluation_run_that_log(hook: str) -> None:
    run = Run()
    run.recorder.eval_started("validate", 1)
    run.recorder.eval_batch_started(PAIR, 0, 0)
    run.log("x", 2.0, hook)
    run.recorder.eval_batch_ended()
    assert run.recorder.eval_epoch_ended(None) == [{"x": 2.0}]
    run.recorder.eval_finished()


@pytest.mark.parametrize("hook", ["on_validation_start", "on_test_epoch_start"])
def test_hooks_before_an_evaluation_log_a_step_value_too(hook: str) -> None:
    run = Run()
    run.recorder.eval_started("validate", 1)
    run.log("x", 2.0, hook, on_step=True, on_epoch=True)
    run.recorder.eval_batch_started(PAIR, 0, 0)
    run.recorder.eval_batch_ended()
    assert run.recorder.eval_epoch_ended(None) == [{"x": 2.0, "x_epoch": 2.0}]
    assert run.rows == [({"x_step/epoch_0": 2.0}, 0), ({"x_epoch": 2.0, "epoch": 0}, 0)]


def test_evaluation_shows_values_before_its_epoch_end_hooks() -> None:
    run = Run()
    run.recorder.eval_started("validate", 1)
    run.recorder.eval_batch_started(PAIR, 0, 0)
    run.log("v", 2.0, "validation_step", on_step=True, on_epoch=True, prog_bar=True)
    run.recorder.eval_batch_ended()
    assert run.metrics()["logged"] == {"v_step/epoch_0": 2.0}
    run.recorder.show_epoch()
    assert run.metrics()["callback"] == {"v": 2.0, "v_epoch": 2.0}
    assert run.metrics()["progress_bar"] == {"v_step": 2.0, "v_epoch": 2.0}
    run.log("end", 1.0, "on_validation_epoch_end")
    results = run.recorder.eval_epoch_ended()
    assert results == [{"v": 2.0, "v_epoch": 2.0, "end": 1.0}]
    assert run.rows[1:] == [({"v_epoch": 2.0, "end": 1.0, "epoch": 0}, 0)]


def test_step_rows_of_an_evaluation_need_a_logger() -> None:
    run = Run(logger=None)
    flags = dict(on_step=True, on_epoch=True)
    run.evaluate("validate", [[PAIR]], lambda i, d: run.log("v", 2.0, "validation_step", **flags))
    assert run.metrics()["logged"] == {"v_epoch": 2.0, "epoch": 0}


def test_a_sanity_check_shows_no_step_values() -> None:
    run = Run()
    both = dict(on_step=True, on_epoch=True, prog_bar=True)
    run.evaluate("sanity", [[PAIR]], lambda i, d: run.log("v", 2.0, "validation_step", **both))
    assert run.metrics()["progress_bar"] == {"v_epoch": 2.0}
    assert run.rows == []


@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_test_batch_start"])
def test_hooks_of_an_evaluation_run_that_drop(hook: str) -> None:
    run = Run()
    assert run.evaluate("validate", [[PAIR]], lambda i, d: run.log("x", 2.0, hook)) == [{}]


def test_prediction_has_nothing_to_log_to() -> None:
    run = Run()
    run.recorder.eval_started("predict", 1)
    with pytest.raises(MisconfigurationException, match="'x'.*predict_step"):
        run.log("x", 1.0, "predict_step")


def test_many_step_rows_reach_the_logger_in_order() -> None:
    run = Run()
    run.evaluate(
        "validate",
        [[PAIR] * 150],
        lambda i, d: run.log("s", float(i), "validation_step", on_step=True),
    )
    assert [(row["s_step/epoch_0"], step) for row, step in run.rows[:-1]] == [
        (float(i), i) for i in range(150)
    ]
    assert run.rows[-1][0] == {"s_epoch": 74.5, "epoch": 0}


def test_validation_under_inference_mode() -> None:
    run = Run()
    with torch.inference_mode():
        results = run.evaluate(
            "validate",
            [[PAIR] * 70],
            lambda i, d: run.log("v", torch.tensor(float(i)) * 2, "validation_step", on_step=True),
        )
    assert results[0]["v_epoch"] == 69.0


def test_finishing_without_an_evaluation_run_changes_nothing() -> None:
    run = Run()
    run.recorder.eval_finished()
    assert run.recorder.stage == "train"

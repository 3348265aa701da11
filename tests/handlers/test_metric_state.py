"""A run that is saved in the middle of an epoch and restored logs the same to the last digit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.handlers.metric_stage import Stage
from leyden.handlers.metric_state import load_stage
from tests.handlers.metrics_fakes import Run


def step(run: Run, i: int, generator: torch.Generator) -> None:
    run.batch(i, 1 + i % 3)
    value = torch.rand((), generator=generator)
    run.log("loss", value, on_step=True, on_epoch=True, prog_bar=True)
    run.log("number", i / 3, on_step=False, on_epoch=True)
    run.log("median", value, "on_train_batch_end", on_epoch=True, reduce_fx=torch.median)
    if i < 5:
        run.log("early", value, on_step=False, on_epoch=True, reduce_fx="max")
    if i == 0:
        run.log("start", 3.0, "on_train_start")
    run.recorder.train_batch_ended(write=True)


@pytest.mark.parametrize("cut", [1, 7, 64, 100])
def test_the_rows_of_a_resumed_epoch_are_equal(cut: int, tmp_path: Any) -> None:
    whole, n = Run(), 130
    generator = torch.Generator().manual_seed(0)
    whole.recorder.train_epoch_started()
    for i in range(n):
        step(whole, i, generator)
    whole.recorder.train_epoch_ended(None)

    parts = [Run(), Run()]
    generator = torch.Generator().manual_seed(0)
    parts[0].recorder.train_epoch_started()
    for i in range(cut):
        step(parts[0], i, generator)
    torch.save(parts[0].recorder.state_dict(), tmp_path / "state")
    shown = parts[0].metrics()

    parts[1].recorder.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert parts[1].metrics() == shown
    parts[1].recorder.train_epoch_started()
    for i in range(cut, n):
        step(parts[1], i, generator)
    parts[1].recorder.train_epoch_ended(None)
    assert parts[0].rows + parts[1].rows == whole.rows
    assert parts[1].metrics() == whole.metrics()


def test_saving_does_not_change_the_run_that_goes_on() -> None:
    runs = [Run(), Run()]
    for save, run in enumerate(runs):
        generator = torch.Generator().manual_seed(0)
        for i in range(100):
            step(run, i, generator)
            if save and i % 9 == 0:
                run.recorder.state_dict()
        run.recorder.train_epoch_ended(None)
    assert runs[0].rows == runs[1].rows


def test_a_saved_state_does_not_move_with_the_run() -> None:
    run = Run()
    generator = torch.Generator().manual_seed(0)
    for i in range(3):
        step(run, i, generator)
    state = run.recorder.state_dict()
    kept = repr(state)
    for i in range(3, 90):
        step(run, i, generator)
    assert repr(state) == kept


def test_a_record_of_a_hook_that_takes_nothing_is_refused() -> None:
    saved = {
        "hook": "setup", "name": "a", "on_step": False, "on_epoch": True, "prog_bar": False,
        "logger": True, "acc": {},
    }  # fmt: skip
    with pytest.raises(ValueError, match="'a'.*'setup'"):
        load_stage(Stage("train"), {"records": [saved], "objects": {}, "since_flush": 0})

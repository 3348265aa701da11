"""Fit twice, a new model, nothing left to do, a run that is stopped early."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import Callback
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, trainer, weights


class Hooks(Callback):
    """Notes the hooks around runs and epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append("fit_start")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append("train_start")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(f"epoch {trainer.current_epoch}")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append("train_end")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append("fit_end")


def once(*epochs: int) -> list[str]:
    return ["fit_start", "train_start", *(f"epoch {n}" for n in epochs), "train_end", "fit_end"]


def test_raised_max_epochs_goes_on_after_the_last_epoch_as_one_run_would(tmp_path: Path) -> None:
    hooks = Hooks()
    made, model = trainer(tmp_path, max_epochs=2, callbacks=[hooks]), Bare()
    loader = data(shuffle=True)
    torch.manual_seed(0)
    made.fit(model, loader)
    made.max_epochs = 5
    made.fit(model, loader)
    assert hooks.seen == once(0, 1) + once(2, 3, 4)
    assert (made.current_epoch, made.global_step) == (4, 5 * BATCHES)
    whole = Bare()
    torch.manual_seed(0)
    trainer(tmp_path, max_epochs=5).fit(whole, data(shuffle=True))
    assert torch.equal(weights(model), weights(whole))


def test_momentum_and_schedule_of_the_first_fit_are_kept(tmp_path: Path) -> None:
    def make(parameters: Any) -> Any:
        optimizer = torch.optim.Adam(parameters, lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    made, model = trainer(tmp_path, max_epochs=1), Bare(make)
    made.fit(model, data())
    made.max_epochs = 3
    made.fit(model, data())
    whole = Bare(make)
    trainer(tmp_path, max_epochs=3).fit(whole, data())
    assert made.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**3
    assert torch.equal(weights(model), weights(whole))


def test_with_nothing_left_it_says_so_and_runs_no_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Hooks()
    made, model = trainer(tmp_path, max_epochs=2, callbacks=[hooks]), Bare()
    made.fit(model, data())
    before = weights(model)
    with caplog.at_level(logging.INFO):
        made.fit(model, data())
    assert hooks.seen == once(0, 1) + once()
    assert torch.equal(weights(model), before)
    assert "nothing is left to train: 2 epochs are done, max_epochs=2" in caplog.text
    assert made.state == "FINISHED"


def test_another_model_begins_another_run(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=2)
    made.fit(Bare(), data())
    second = Bare(seed=4)
    made.fit(second, data())
    fresh = Bare(seed=4)
    trainer(tmp_path, max_epochs=2).fit(fresh, data())
    # Dropout draws from one stream in both: compare what does not depend on it.
    assert (made.current_epoch, made.global_step) == (1, 2 * BATCHES)
    assert made.model is second and not torch.equal(weights(second), weights(Bare(seed=4)))


@pytest.mark.parametrize("where", ["batch", "epoch"])
def test_a_stop_is_of_one_fit_only(where: str, tmp_path: Path) -> None:
    class Stop(Callback):
        asked = False

        def ask(self, trainer: Any, here: str) -> None:
            if here == where and not self.asked:
                self.asked = trainer.should_stop = True

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            self.ask(trainer, "batch")

        def on_train_epoch_end(self, trainer: Any, *args: Any) -> None:
            self.ask(trainer, "epoch")

    made, model = trainer(tmp_path, max_epochs=4, callbacks=[Stop()]), Bare()
    made.fit(model, data())
    done = 1 if where == "batch" else BATCHES
    assert made.should_stop and made.global_step == done and made.current_epoch == 0
    made.fit(model, data())
    assert not made.should_stop and made.current_epoch == 3
    assert made.global_step == done + 3 * BATCHES


@pytest.mark.parametrize(("steps", "epoch"), [(1, 0), (BATCHES, 0), (BATCHES + 1, 1)])
def test_max_steps_counts_the_whole_run(steps: int, epoch: int, tmp_path: Path) -> None:
    made, model = trainer(tmp_path, max_steps=steps), Tiny()
    made.fit(model, data(), data(2))
    assert (made.global_step, made.current_epoch) == (steps, epoch)
    made.max_steps = steps + 2
    made.fit(model, data(), data(2))
    assert made.global_step == steps + 2


def test_epochs_that_must_run_do_so_in_full_after_a_stop(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.should_stop = True

    for more in ({}, {"max_steps": 999}, {"min_steps": 2}):
        made = trainer(tmp_path, min_epochs=3, max_epochs=9, callbacks=[Stop()], **more)
        made.fit(Bare(), data())
        assert made.current_epoch == 2 and made.global_step == 3 * BATCHES


def test_a_stop_before_the_first_batch_lets_one_run(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = True

    made = trainer(tmp_path, max_epochs=9, callbacks=[Stop()])
    made.fit(Bare(), data())
    assert made.global_step == 1 and made.current_epoch == 0


def test_the_trainer_forgets_a_run_that_failed_but_not_its_position(tmp_path: Path) -> None:
    class Fails(Bare):
        broken = True

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.broken and self.current_epoch == 1 and batch_idx == 2:
                raise ArithmeticError("batch 2")
            return super().training_step(batch, batch_idx)

    made, model = trainer(tmp_path, max_epochs=3), Fails()
    with pytest.raises(ArithmeticError, match="batch 2"):
        made.fit(model, data())
    model.broken = False
    assert made.fit(model, data()) == 1
    assert made.current_epoch == 2 and made.state == "FINISHED"


def test_a_fit_with_nothing_left_can_be_saved_and_gone_on_from(tmp_path: Path) -> None:
    made, model, path = trainer(tmp_path, max_epochs=1), Bare(), str(tmp_path / "nothing.ckpt")
    made.fit(model, data(shuffle=True))
    made.fit(model, data(shuffle=True))
    assert made.global_step == BATCHES
    made.save_checkpoint(path)
    made.max_epochs = 2
    made.fit(model, data(shuffle=True))
    other, again = trainer(tmp_path, max_epochs=2), Bare(seed=4)
    other.fit(again, data(shuffle=True), ckpt_path=path)
    assert other.global_step == made.global_step == 2 * BATCHES
    assert torch.equal(weights(again), weights(model))

"""What a user's hook may ask, say and see, at the moments of fit where it is easily wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, trainer


def stopping_in(hook: str) -> leyden.Callback:
    def stop(self: Any, trainer: Any, *arguments: Any) -> None:
        trainer.should_stop = True

    return type("Stops", (leyden.Callback,), {hook: stop})()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "hook", ["setup", "on_fit_start", "on_pretrain_routine_end", "on_train_start", "on_batch_start"]
)
def test_a_stop_before_the_first_batch_lets_it_run(hook: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=3, callbacks=[stopping_in(hook)])
    made.fit(Bare(), data())
    assert made.global_step == 1 and made.should_stop


def test_a_stop_of_the_last_run_does_not_end_the_next(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=3)
    made.should_stop = True
    made.fit(Bare(), data())
    assert made.global_step == 3 * BATCHES


@pytest.mark.parametrize(("at", "steps"), [(1, 1), (2, 1), (3, 2), (BATCHES - 1, 3)])
def test_an_epoch_left_before_a_batch_counts_a_step_where_the_group_closed(
    at: int, steps: int, tmp_path: Path
) -> None:
    class Leaves(Bare):
        def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
            return -1 if batch_idx == at else None

    made = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    made.fit(Leaves(), data())
    assert made.global_step == steps


def test_the_sanity_check_lasts_until_its_last_hook(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Looks(leyden.Callback):
        def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(trainer.running_sanity_check)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append(trainer.running_sanity_check)

    made = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=1, callbacks=[Looks()])
    made.fit(Tiny(), data(), data(1))
    assert seen == [True, False]


def test_norm_zero_tracks_nothing(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1, track_grad_norm=0, log_every_n_steps=1)
    made.fit(Bare(), data())
    assert not [name for name in made.callback_metrics if name.startswith("grad")]
    assert "GradientNorm" not in made.handlers


def test_accumulation_beside_an_own_step_is_refused_before_anything_runs(tmp_path: Path) -> None:
    class Own(Bare):
        prepared = False

        def prepare_data(self) -> None:
            self.prepared = True

        def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
            super().optimizer_step(*arguments, **keywords)

    model = Own()
    with pytest.raises(leyden.exceptions.MisconfigurationException, match="optimizer_step"):
        trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2).fit(model, data())
    assert not model.prepared


def test_an_own_step_gets_the_loss_without_its_graph_and_zeroes_the_very_optimizer(
    tmp_path: Path,
) -> None:
    seen: list[Any] = []

    class Own(Bare):
        def optimizer_step(
            self, epoch: int, batch_idx: int, optimizer: Any, index: int, closure: Any, **more: Any
        ) -> None:
            def noted() -> Any:
                loss = closure()
                seen.append(loss.requires_grad)
                return loss

            optimizer.step(closure=noted)

        def optimizer_zero_grad(
            self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int
        ) -> None:
            seen.append(type(optimizer))
            optimizer.zero_grad()

    trainer(tmp_path, max_epochs=1).fit(Own(), data(1))
    assert seen == [False, torch.optim.SGD]


@pytest.mark.parametrize(("interval", "every"), [(1.0, BATCHES), (0.5, BATCHES // 2), (2, 2)])
def test_val_check_batch_tells_when_it_validates(
    interval: float, every: int, tmp_path: Path
) -> None:
    made = trainer(tmp_path, max_epochs=1, val_check_interval=interval)
    made.fit(Tiny(), data(), data(1))
    assert made.val_check_batch == every

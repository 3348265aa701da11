"""What XLA is asked to do by a run on one core: marks, compilations, reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leyden
from leyden.loggers import CSVLogger
from tests.backends.xla_cases import Net, Validated, adamw, counted, loader, train, trainer

pytestmark = [pytest.mark.xla, pytest.mark.slow, pytest.mark.usefixtures("four_devices")]


def test_a_mark_a_step_and_nothing_compiled_after_the_first_epoch(tmp_path: Path) -> None:
    after: list[Any] = []

    class Warm(leyden.Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any, outputs: Any) -> None:
            if trainer.current_epoch == 0:
                after.append(counted())
                after.append(after[0].__enter__())

    module, run = train(
        tmp_path,
        lambda: Net(adamw),
        max_epochs=5,
        callbacks=[Warm()],
        logger=CSVLogger(str(tmp_path)),
        log_every_n_steps=3,
    )
    after[0].__exit__(None, None, None)
    steps = 6 * 4
    assert after[1] == {
        "MarkStep": steps,
        "UncachedCompile": 0,
        "CachedCompile": steps,
        "reads": steps // 3,  # a row with one value each
        "on the CPU": 0,
    }
    assert run.global_step == 30
    assert "StepMark" in run.handlers
    assert "StepMark.mark_step" in str(run.plan())


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    with counted() as counts:
        train(tmp_path, accumulate_grad_batches=3)
    assert counts["MarkStep"] == 3 * 2


def test_every_evaluation_batch_has_a_mark(tmp_path: Path) -> None:
    module, run = train(tmp_path)
    with counted() as counts:
        [result] = run.test(module, loader(batch_size=8))
    assert counts["MarkStep"] == 3
    expected = nn.functional.mse_loss(module.cpu().net(loader_x()), loader_y())
    assert result["test_loss"] == pytest.approx(expected.item(), rel=1e-5)


def loader_x() -> Tensor:
    return torch.stack([x for x, _ in loader().dataset])


def loader_y() -> Tensor:
    return torch.stack([y for _, y in loader().dataset])


class Logged(Validated):
    """Logs a value twice: as it is, and on average over the epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("twice", loss * 2, on_step=True, on_epoch=True)
        return loss


class Saving(leyden.Callback):
    """Saves every fourth step, which is another batch of each epoch of seven."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        if trainer.global_step % 4 == 3:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("logging", [False, True])
def test_checkpoints_and_rows_anywhere_in_an_epoch_compile_nothing_new(
    tmp_path: Path, accumulated: int, logging: bool
) -> None:
    compiled: list[int] = []

    class Watch(leyden.Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any, outputs: Any) -> None:
            import torch_xla.debug.metrics as met

            compiled.append(int(met.counter_value("UncachedCompile") or 0))

    run = trainer(
        tmp_path,
        tpu_cores=1,
        max_epochs=9,
        accumulate_grad_batches=accumulated,
        logger=CSVLogger(str(tmp_path)) if logging else False,
        log_every_n_steps=3,
        val_check_interval=3 if logging else 1.0,
        callbacks=[Watch(), Saving(tmp_path / "there.ckpt")],
    )
    with counted() as counts:
        run.fit(Logged(adamw), loader(28), loader(16))
    # The first epoch compiles the step, the second what comes between two epochs. What comes with a
    # row and a save at once comes when both fall on one batch.
    assert compiled[3:] == [compiled[3]] * 6
    steps = run.global_step
    evaluated = 9 * 4 * (2 if logging else 1)
    assert counts["MarkStep"] == steps + evaluated  # what runs between them is no step

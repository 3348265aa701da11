"""What XLA is asked to do by a run on one core: marks, compilations, reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leyden
from leyden.loggers import CSVLogger
from tests.backends.xla_cases import Net, adamw, counted, loader, train

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

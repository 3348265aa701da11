"""What is around a step, on one core: validation, logs, bars, metrics, tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from leyden.loggers import CSVLogger
from tests.backends.xla_cases import (
    CLOSE,
    Net,
    Scheduled,
    Validated,
    adamw,
    loader,
    train,
    trainer,
    weights,
)

pytestmark = [pytest.mark.xla, pytest.mark.slow, pytest.mark.usefixtures("four_devices")]


def test_validation_checkpoints_and_early_stopping(tmp_path: Path) -> None:
    def watch(root: Path, cores: Any) -> tuple[Any, Any, Any]:
        best = ModelCheckpoint(dirpath=root, monitor="val_loss", save_top_k=1, save_last=True)
        stop = EarlyStopping("val_loss", patience=1, min_delta=0.05)
        module = Validated(adamw)
        run = trainer(
            root,
            max_epochs=20,
            tpu_cores=cores,
            callbacks=[best, stop],
            checkpoint_callback=True,
        )
        run.fit(module, loader(), loader(16, 8))
        return module, run, best

    module, run, best = watch(tmp_path / "xla", 1)
    expected, same, best_there = watch(tmp_path / "cpu", None)
    assert run.current_epoch == same.current_epoch < 19
    assert torch.allclose(weights(module), weights(expected), **CLOSE)
    assert float(best.best_model_score) == pytest.approx(float(best_there.best_model_score), 1e-5)
    [result] = run.test(test_dataloaders=loader(), verbose=False)
    assert result["test_loss"] > 0
    assert run.tested_ckpt_path == best.best_model_path


def test_logs_bars_and_profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is missing")
    import torchmetrics

    class Measured(Scheduled):
        def __init__(self) -> None:
            super().__init__()
            self.error = torchmetrics.MeanSquaredError()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.error(self.net(batch[0]), batch[1])
            self.log("error", self.error, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    arguments: dict[str, Any] = dict(
        log_every_n_steps=2,
        progress_bar_refresh_rate=1,
        weights_summary="top",
        profiler="simple",
        callbacks=[LearningRateMonitor()],
    )
    module, run = train(tmp_path, Measured, logger=CSVLogger(str(tmp_path / "a")), **arguments)
    _, same = train(
        tmp_path, Measured, cores=None, logger=CSVLogger(str(tmp_path / "b")), **arguments
    )
    rows = [(tmp_path / name / "default/version_0/metrics.csv").read_text() for name in "ab"]
    assert rows[0].splitlines()[0] == rows[1].splitlines()[0]
    assert len(rows[0].splitlines()) == len(rows[1].splitlines())
    for name in ("error", "loss"):
        mine, theirs = float(run.callback_metrics[name]), float(same.callback_metrics[name])
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert "3 epochs" in capsys.readouterr().out or run.current_epoch == 2


def test_tuning(tmp_path: Path) -> None:
    class Tuned(Net):
        def __init__(self) -> None:
            super().__init__()
            self.lr = 1e-3
            self.batch_size = 2

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

        def train_dataloader(self) -> Any:
            return loader(batch_size=self.batch_size)

    module = Tuned()
    before = weights(module)
    run = trainer(
        tmp_path, tpu_cores=1, max_epochs=1, auto_lr_find=True, auto_scale_batch_size="power"
    )
    found = run.tune(module)
    assert set(found) == {"scale_batch_size", "lr_find"}
    assert torch.equal(weights(module), before)
    run.fit(module)


def test_ignites_handlers_and_metrics_attach(tmp_path: Path) -> None:
    from ignite.handlers import Timer
    from ignite.metrics import Average

    from leyden.engine import Events

    run = trainer(tmp_path, tpu_cores=1, max_epochs=2)
    timer = Timer(average=True)
    timer.attach(run.engine, step=Events.ITERATION_COMPLETED)
    average = Average(output_transform=lambda loss: loss, device="cpu")
    average.attach(run.engine, "mean")
    run.fit(Net(), loader())
    assert timer.step_count == 12.0
    assert run.engine.state.metrics["mean"] > 0

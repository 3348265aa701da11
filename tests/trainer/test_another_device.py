"""Runs on a device that is not the CPU, on any machine: nothing is left behind, little is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden import callbacks
from leyden.engine import Events
from leyden.loggers import CSVLogger, TensorBoardLogger
from tests.trainer.pretend import ELSEWHERE, Pretend
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, trainer

pytestmark = pytest.mark.slow


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3, eps=1e-4)


class Two(Bare):
    """Two optimizers, each with its own half."""

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> torch.Tensor:  # type: ignore[override]
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        halves = [self.net[:2].parameters(), self.net[2:].parameters()]  # type: ignore[index]
        made = [adam(half) for half in halves]
        return made, [torch.optim.lr_scheduler.StepLR(made[0], 1)]


class ByHand(Bare):
    """Optimizes by hand."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]))
        optimizer.step()


class Sequences(Bare):
    """Truncated back-propagation: hidden states are handed on."""

    def __init__(self) -> None:
        super().__init__(adam)
        self.cell = torch.nn.GRUCell(1, 4)

    def tbptt_split_batch(self, batch: Any, split_size: int) -> Any:
        return [[part] for part in batch[0].split(split_size, 1)]

    def training_step(self, batch: Any, batch_idx: int, hiddens: Any) -> Any:  # type: ignore[override]
        h = hiddens
        for step in batch[0].unbind(1):
            h = self.cell(step.unsqueeze(1), h)
        return {"loss": h.mean(), "hiddens": h}


class Plateau(Tiny):
    """A scheduler that looks at what validation found."""

    def configure_optimizers(self) -> Any:
        optimizer = adam(self.parameters())
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val_score"}


RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (Tiny, {}),
    "norm clipped": (Tiny, {"gradient_clip_val": 1.0}),
    "values clipped": (Tiny, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}),
    "accumulated": (Tiny, {"accumulate_grad_batches": 4}),
    "no NaN": (Tiny, {"terminate_on_nan": True}),
    "metrics moved": (Tiny, {"move_metrics_to_cpu": True}),
    "validated often": (Tiny, {"val_check_interval": 2, "num_sanity_val_steps": 2}),
    "float64": (Tiny, {"precision": 64}),
    "bfloat16": (Tiny, {"precision": "bf16-true"}),
    **{
        level: (Tiny, {"precision": 16, "amp_backend": "apex", "amp_level": level})
        for level in ("O0", "O2", "O3")
    },
    "averaged": (Tiny, {"callbacks": callbacks.EMAWeightAveraging}),
    "stopped early": (Tiny, {"callbacks": lambda: callbacks.EarlyStopping("val_score")}),
    "two optimizers": (lambda make: Two(), {}),
    "by hand": (lambda make: ByHand(make), {}),
    "sequences": (lambda make: Sequences(), {"truncated_bptt_steps": 2}),
    "plateau": (Plateau, {}),
}


def made(name: str, root: Path, **more: Any) -> tuple[Any, leyden.Trainer]:
    kind, arguments = RUNS[name]
    extra = arguments.get("callbacks")
    built = {"callbacks": extra()} if extra else {}
    run = trainer(root, plugins=[ELSEWHERE], **{"max_epochs": 2, **arguments, **built, **more})
    return kind(adam), run


#: What has to look at values in each step, or was asked to fetch them, or runs with each batch.
READING = {"no NaN", "O2", "metrics moved", "validated often"}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("ignore:there is a validation loader")
def test_a_run_and_its_continuation_stay_on_the_device(name: str, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    with Pretend():
        model, run = made(name, tmp_path)

        @run.engine.on(Events.ITERATION_COMPLETED(once=BATCHES + 3))
        def save(engine: Any) -> None:
            run.save_checkpoint(path)

        run.fit(model, data(), data(2))
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert run.root_device.type == model.device.type == "meta"
        again, resumed = made(name, tmp_path, resume_from_checkpoint=str(path))
        resumed.fit(again, data(), data(2))
    assert resumed.global_step == run.global_step > 0
    assert {p.device.type for p in again.parameters()} == {"meta"}


@pytest.mark.parametrize("name", sorted(set(RUNS) - READING))
@pytest.mark.filterwarnings("ignore:there is a validation loader")
def test_no_step_reads_a_value(name: str, tmp_path: Path) -> None:
    """What is read is read at the ends of epochs, however many steps they have."""
    reads = []
    for batches in (6, 18):
        with Pretend() as device:
            model, run = made(name, tmp_path)
            run.fit(model, data(batches), data(2))
        reads.append(device.reads)
    assert reads[0] == reads[1]


def test_evaluation_and_prediction(tmp_path: Path) -> None:
    class Tested(Tiny):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("right", self.net(batch[0]).mean())

        def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            assert batch[0].is_meta
            return self.net(batch[0])

    with Pretend():
        run = trainer(tmp_path, plugins=ELSEWHERE)
        model = Tested()
        assert run.test(model, data(3), verbose=False) == [{"right": 0.5}]
        assert run.predict(model, data(3))[0].is_meta


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_rows_are_written(logger: Any, tmp_path: Path) -> None:
    with Pretend():
        run = trainer(
            tmp_path,
            plugins=ELSEWHERE,
            max_epochs=1,
            logger=logger(str(tmp_path)),
            log_every_n_steps=1,
            track_grad_norm=2,
            progress_bar_refresh_rate=1,
            callbacks=[callbacks.LearningRateMonitor(), callbacks.ThroughputMonitor()],
        )
        run.fit(Plateau(), data(), data(2))
    assert run.logged_metrics["loss_step"] == run.logged_metrics["val_score"] == 0.5


def test_metric_objects_move_with_the_module(tmp_path: Path) -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="needs torchmetrics")

    class Measured(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.error = torchmetrics.MeanSquaredError()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            self.error(self.net(batch[0]).detach(), batch[1])
            self.log("error", self.error, on_epoch=True)
            return loss

    with Pretend():
        model = Measured()
        trainer(tmp_path, plugins=ELSEWHERE, max_epochs=2).fit(model, data())
    assert model.error.sum_squared_error.is_meta


def test_what_is_left_behind_is_an_error(tmp_path: Path) -> None:
    """The stand-in really refuses what a GPU would refuse."""

    class Forgets(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * torch.ones(1, 1).exp().sum(0)[:1]

    with Pretend(), pytest.raises(RuntimeError, match="same device|expected device"):
        trainer(tmp_path, plugins=ELSEWHERE, max_epochs=1).fit(Forgets(), data())

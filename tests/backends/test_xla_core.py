"""One TPU core, tested on the real torch_xla with its CPU devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.backends.precision.quantized import fake_quantize, quantized_layers
from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from leyden.engine import rng
from leyden.engine.errors import MisconfigurationException
from leyden.handlers import EMAWeightAveraging
from leyden.handlers.checkpoint_io import load
from leyden.loggers import CSVLogger
from tests.backends.xla_cases import (
    CLOSE,
    Net,
    Validated,
    adamw,
    counted,
    loader,
    losses,
    trainer,
    weights,
)

pytestmark = [pytest.mark.xla, pytest.mark.slow]

Make = Callable[..., Any]


@pytest.fixture(autouse=True, scope="module")
def four_devices() -> None:
    """XLA's runtime starts with the first device that is asked for."""
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    os.environ.setdefault("CPU_NUM_DEVICES", "4")


def train(
    root: Path, make: Make = Net, data: Any = None, *, cores: Any = 1, **arguments: Any
) -> tuple[Any, leyden.Trainer]:
    module = make()
    run = trainer(root, **{"max_epochs": 3, "tpu_cores": cores, **arguments})
    run.fit(module, loader() if data is None else data)
    return module, run


# ------------------------------------------------------------------------ what XLA is asked to do


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


# ------------------------------------------------------------------------ the same as on the CPU


class Several(Net):
    """Two optimizers that take turns, each with a scheduler of its own."""

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Tensor:  # type: ignore[override]
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.net[0].parameters(), lr=0.1, momentum=0.9)
        last = torch.optim.Adam(self.net[4].parameters(), lr=0.01)
        return [first, last], [
            {"scheduler": torch.optim.lr_scheduler.StepLR(first, 2, 0.5), "interval": "step"},
            torch.optim.lr_scheduler.StepLR(last, 1, 0.5),
        ]


class ByHand(Net):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        loss = super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        self.manual_backward(loss, optimizer)
        optimizer.step()
        optimizer.zero_grad()


class Scheduled(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 18)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]


CASES: dict[str, tuple[Make, dict[str, Any]]] = {
    "sgd": (Net, {}),
    "momentum": (lambda: Net(lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)), {}),
    "adamw": (lambda: Net(adamw), {}),
    "batch norm": (lambda: Net(norm=True), {}),
    "clipped norm": (Net, {"gradient_clip_val": 0.05}),
    "clipped values": (Net, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "accumulated": (Net, {"accumulate_grad_batches": 4}),
    "accumulated by a schedule": (Net, {"accumulate_grad_batches": {1: 2}}),
    "scheduled": (Scheduled, {}),
    "several": (Several, {}),
    "by hand": (ByHand, {}),
    "limited": (Net, {"limit_train_batches": 4, "max_steps": 9}),
    "norms tracked": (Net, {"track_grad_norm": 2, "terminate_on_nan": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_learns_what_the_cpu_learns(tmp_path: Path, case: str) -> None:
    make, arguments = CASES[case]
    with counted() as counts:
        module, run = train(tmp_path, make, **arguments)
    expected, same = train(tmp_path, make, cores=None, **arguments)
    assert str(run.root_device) == "xla:0"
    assert (run.global_step, run.current_epoch) == (same.global_step, same.current_epoch)
    assert torch.allclose(losses(module), losses(expected), **CLOSE)
    assert torch.allclose(weights(module), weights(expected), **CLOSE)
    assert counts["on the CPU"] == 0


def test_half_precision_is_bfloat16(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Watched(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append(self.net(batch[0]).dtype)
            return super().training_step(batch, batch_idx)

    module, run = train(tmp_path, Watched, precision=16)
    expected, _ = train(tmp_path, cores=None)
    assert set(seen) == {torch.bfloat16}
    assert run.scaler is None
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    # bfloat16 keeps 8 bits of each number.
    assert torch.allclose(losses(module), losses(expected), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_of_few_bits_are_rounded_on_the_device(tmp_path: Path, bits: int) -> None:
    """The largest weight of a channel lies between two values: which one it gets may differ."""
    with counted() as counts:
        module, _ = train(tmp_path, precision=bits)
    expected, _ = train(tmp_path, cores=None, precision=bits)
    assert counts["on the CPU"] == 0
    assert counts["MarkStep"] == 18
    assert losses(module)[0] == pytest.approx(losses(expected)[0].item(), rel=1e-2)
    assert losses(module).mean() == pytest.approx(losses(expected).mean().item(), rel=0.1)
    for weight in (layer.weight for layer in quantized_layers(module).values()):
        for channel in fake_quantize(weight, bits).detach().cpu():
            assert len(channel.unique()) <= 2**bits


def test_truncated_backpropagation(tmp_path: Path) -> None:
    class Recurrent(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.cell = nn.RNN(2, 4, batch_first=True)
            self.losses: list[Tensor] = []

        def training_step(self, batch: Any, batch_idx: int, hiddens: Any) -> dict[str, Any]:
            output, hiddens = self.cell(batch[0], hiddens)
            loss = output.pow(2).mean()
            self.losses.append(loss.detach())
            return {"loss": loss, "hiddens": hiddens}

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 6, 2, generator=generator)
    data = DataLoader(torch.utils.data.TensorDataset(x), batch_size=4)
    module, _ = train(tmp_path, Recurrent, data, truncated_bptt_steps=2)
    expected, _ = train(tmp_path, Recurrent, data, cores=None, truncated_bptt_steps=2)
    assert torch.allclose(losses(module), losses(expected), **CLOSE)
    assert torch.allclose(weights(module), weights(expected), **CLOSE)


# ------------------------------------------------------------------------ cores


def test_a_core_is_named_by_its_number_from_one(tmp_path: Path) -> None:
    module, run = train(tmp_path, cores=[3])
    assert str(module.device) == "xla:2"
    assert (run.tpu_id, run.on_tpu, run.use_tpu, run.world_size) == (3, True, True, 1)
    assert torch.allclose(weights(module), weights(train(tmp_path, cores=None)[0]), **CLOSE)


def test_a_core_that_is_not_there_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="core 7, and this machine has 1 to"):
        trainer(".", tpu_cores=[7])


def test_all_cores_after_a_single_one_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(MisconfigurationException, match="has used a single one already"):
        train(tmp_path, cores=8)


# ------------------------------------------------------------------------ parameters and places


def test_parameters_stay_the_same_objects_and_tied(tmp_path: Path) -> None:
    class Tied(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.b(self.a(batch[0])).pow(2).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    module = Tied()
    held = module.a.weight
    trainer(tmp_path, tpu_cores=1, max_epochs=1).fit(module, loader())
    assert held is module.a.weight is module.b.weight
    assert held.device.type == "xla"


def test_fit_goes_on_and_other_devices_come_after(tmp_path: Path) -> None:
    module, run = train(tmp_path, max_epochs=1)
    run.max_epochs = 3
    run.fit(module, loader())
    assert torch.allclose(weights(module), weights(train(tmp_path, cores=None)[0]), **CLOSE)
    trainer(tmp_path, max_epochs=1).fit(module, loader())
    assert module.device.type == "cpu"


def test_the_module_is_told_that_it_is_on_a_tpu(tmp_path: Path) -> None:
    told: list[bool] = []

    class Stepping(Net):
        def optimizer_step(
            self,
            epoch: Any,
            idx: Any,
            optimizer: Any,
            i: Any,
            closure: Any,
            on_tpu: Any,
            **rest: Any,
        ) -> None:
            import torch_xla.core.xla_model as xm

            told.append(on_tpu)
            # What code for 1.1 does here.
            xm.optimizer_step(optimizer, optimizer_args={"closure": closure})

    module, _ = train(tmp_path, Stepping)
    assert told == [True] * 18
    assert torch.allclose(weights(module), weights(train(tmp_path, cores=None)[0]), **CLOSE)


# ------------------------------------------------------------------------ data


class Failing(Dataset[Any]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        if index == 9:
            raise OSError("sample 9 cannot be read")
        return torch.zeros(6), torch.zeros(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_raises_raises(tmp_path: Path, workers: int) -> None:
    with pytest.raises(OSError, match="sample 9 cannot be read"):
        train(tmp_path, data=DataLoader(Failing(), batch_size=4, num_workers=workers))


def test_workers_feed_a_core(tmp_path: Path) -> None:
    module, _ = train(tmp_path, data=loader(num_workers=2))
    assert torch.allclose(weights(module), weights(train(tmp_path, cores=None)[0]), **CLOSE)


def test_batches_keep_their_shape(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Watched(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append((type(batch), batch["x"].device.type, batch["name"]))
            return self.net(batch["x"]).mean()

    data = [{"x": torch.ones(2, 6), "name": "first"}]
    train(tmp_path, Watched, data, max_epochs=1)
    assert seen == [(dict, "xla", "first")]


# ------------------------------------------------------------------------ random numbers, resuming


def test_the_seed_decides_what_dropout_draws(tmp_path: Path) -> None:
    found = []
    for seed in (1, 1, 2):
        leyden.seed_everything(seed)
        found.append(losses(train(tmp_path, lambda: Net(dropout=0.5), max_epochs=1)[0]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_another_core_begins_with_the_seed_too(tmp_path: Path) -> None:
    found = []
    for core in ([2], [4]):
        leyden.seed_everything(5)
        found.append(losses(train(tmp_path, lambda: Net(dropout=0.5), cores=core, max_epochs=1)[0]))
    assert torch.equal(*found)


def test_torchs_seed_alone_does_not_reach_xla(tmp_path: Path) -> None:
    """Why seed_everything has to: it is what the page says."""
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(losses(train(tmp_path, lambda: Net(dropout=0.5), max_epochs=1)[0]))
    assert not torch.equal(*found)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, accumulated: int) -> None:
    def make() -> Net:
        leyden.seed_everything(7)
        return Net(adamw, dropout=0.4)

    class Save(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            if trainer.current_epoch == 1 and trainer.batch_idx == 3:
                trainer.save_checkpoint(tmp_path / "there.ckpt")

    arguments: dict[str, Any] = {"accumulate_grad_batches": accumulated}
    data = loader(shuffle=True)
    whole, run = train(tmp_path, make, data, callbacks=[Save()], **arguments)
    leyden.seed_everything(99)
    other = Net(adamw, dropout=0.4)
    again = trainer(tmp_path, max_epochs=3, tpu_cores=1, callbacks=[Save()], **arguments)
    again.fit(other, loader(shuffle=True), ckpt_path=str(tmp_path / "there.ckpt"))
    assert torch.equal(losses(other), losses(whole)[-len(other.losses) :])
    assert len(other.losses) == 8
    assert torch.equal(weights(other), weights(whole))
    assert float(again.callback_metrics["loss"]) == float(run.callback_metrics["loss"])


def test_the_stream_is_captured_and_put_back(tmp_path: Path) -> None:
    train(tmp_path, max_epochs=1)
    state = rng.capture()
    first = torch.rand(3, device="xla:0").cpu()
    rng.restore(state)
    assert isinstance(state["xla"], int)
    assert torch.equal(torch.rand(3, device="xla:0").cpu(), first)


# ------------------------------------------------------------------------ features around the step


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


def test_checkpoints_hold_nothing_of_xla(tmp_path: Path) -> None:
    module, run = train(tmp_path, lambda: Net(adamw), callbacks=[EMAWeightAveraging(decay=0.9)])
    path = tmp_path / "run.ckpt"
    run.save_checkpoint(path)
    found = load(path)  # without a map_location: as it lies in the file
    places: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, Tensor):
            places.add(value.device.type)
        elif isinstance(value, dict):
            for item in value.values():
                look(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                look(item)

    look(found)
    assert places == {"cpu"}
    expected = {key: value.cpu() for key, value in module.state_dict().items()}
    plain = Net(adamw)
    plain.load_state_dict(found["state_dict"])
    assert set(expected) == set(found["state_dict"])


def test_a_snapshot_does_not_go_on_with_the_training(tmp_path: Path) -> None:
    """Adam counts its steps in a tensor on the CPU, which a transfer would only pass on."""
    module, run = train(tmp_path, lambda: Net(adamw), max_epochs=1)
    path = tmp_path / "run.ckpt"
    run.save_checkpoint(path)
    run.max_epochs = 2
    run.fit(module, loader())
    steps = [state["step"] for state in load(path)["optimizer_states"][0]["state"].values()]
    assert {float(step) for step in steps} == {6.0}


def test_saving_beside_the_training(tmp_path: Path) -> None:
    class Last(leyden.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            self.weights = weights(module)

    last = Last()
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True, asynchronous=True)
    train(tmp_path, lambda: Net(adamw), callbacks=[saver, last], checkpoint_callback=True)
    found = load(tmp_path / "last.ckpt")["state_dict"]
    assert torch.equal(torch.cat([value.flatten() for value in found.values()]), last.weights)


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

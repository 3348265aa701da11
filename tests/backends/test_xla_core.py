"""One TPU core, tested on the real torch_xla with its CPU devices: it learns what a CPU learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.backends.precision.quantized import fake_quantize, quantized_layers
from leyden.engine.errors import MisconfigurationException
from tests.backends.xla_cases import (
    CLOSE,
    Net,
    Scheduled,
    adamw,
    counted,
    loader,
    losses,
    train,
    trainer,
    weights,
)

pytestmark = [pytest.mark.xla, pytest.mark.slow, pytest.mark.usefixtures("four_devices")]


Make = Callable[..., Any]


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

"""Modules, data and runs that the tests of XLA share; they run in any process, on any device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden

QUIET: dict[str, Any] = dict(
    logger=False,
    checkpoint_callback=False,
    progress_bar_refresh_rate=0,
    weights_summary=None,
    num_sanity_val_steps=0,
)
#: As wide as float32 sums in another order differ over a few dozen steps.
CLOSE: dict[str, float] = dict(rtol=1e-5, atol=1e-5)


def samples(count: int = 24) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(count, 6, generator=generator), torch.randn(count, 1, generator=generator)
    )


def loader(count: int = 24, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    return DataLoader(samples(count), batch_size=batch_size, **options)


class Net(leyden.LightningModule):
    """A small network that keeps the losses of its steps, on the device.

    Args:
        optimizer: makes the optimizer of the parameters.
        dropout: of the middle layer.
        norm: whether there is a batch norm.
    """

    def __init__(
        self,
        optimizer: Callable[..., Any] | None = None,
        *,
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        torch.manual_seed(3)
        middle: nn.Module = nn.BatchNorm1d(8) if norm else nn.ReLU()
        self.net = nn.Sequential(
            nn.Linear(6, 8), middle, nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 1)
        )
        self.losses: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        self.losses.append(loss.detach())
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


class Validated(Net):
    """The same with a validation."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))


class Scheduled(Net):
    """The same with a rate that changes at every step."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 18)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


def trainer(root: Path | str, **arguments: Any) -> leyden.Trainer:
    return leyden.Trainer(**{**QUIET, "default_root_dir": str(root), **arguments})


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in module.parameters()])


def losses(module: Any) -> Tensor:
    return torch.stack([loss.cpu() for loss in module.losses])


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """What XLA did within the block, by the names of its counters; complete at its end."""
    import torch_xla.debug.metrics as met

    names = ("MarkStep", "UncachedCompile", "CachedCompile")
    found: dict[str, int] = {}

    def now() -> dict[str, int]:
        counts = {name: int(met.counter_value(name) or 0) for name in names}
        read = met.metric_data("TransferFromDeviceTime")
        counts["reads"] = 0 if read is None else int(read[0])
        aten = [name for name in met.counter_names() if name.startswith("aten::")]
        counts["on the CPU"] = sum(
            int(met.counter_value(name)) for name in aten if name != "aten::_local_scalar_dense"
        )
        return counts

    before = now()
    yield found
    found.update({name: count - before[name] for name, count in now().items()})


def settings(devices: int) -> dict[str, str]:
    """The environment of a process in which XLA has so many devices of the CPU's."""
    return {**os.environ, "PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(devices)}


def train(
    root: Path,
    make: Callable[..., Any] = Net,
    data: Any = None,
    *,
    cores: Any = 1,
    **arguments: Any,
) -> tuple[Any, leyden.Trainer]:
    """A module that was trained for three epochs on a core, and its Trainer."""
    module = make()
    run = trainer(root, **{"max_epochs": 3, "tpu_cores": cores, **arguments})
    run.fit(module, loader() if data is None else data)
    return module, run

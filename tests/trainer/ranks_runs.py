"""Runs on several ranks: a module, its data, and what a run of them comes to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.backends.environments import find_environment
from leyden.backends.strategies import DDPStrategy

QUIET: dict[str, Any] = dict(
    logger=False,
    checkpoint_callback=False,
    progress_bar_refresh_rate=0,
    weights_summary=None,
    num_sanity_val_steps=0,
)


class Rows(Dataset[Any]):
    """Rows of numbers, the same each time; with ``noise`` each reading draws random numbers."""

    def __init__(self, count: int, *, noise: bool = False, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 5, generator=generator)
        self.y = torch.randn(count, 1, generator=generator)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.x[index]
        if self.noise:
            x = x + 0.1 * torch.randn(5) + random.random() + numpy.random.rand()
        return x, self.y[index]


class Net(leyden.LightningModule):
    """Linear layers; ``noise`` adds dropout, ``norm`` batch normalization."""

    def __init__(self, *, noise: bool = False, norm: bool = False, log: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.noise, self.log_it = noise, log
        self.net = torch.nn.Sequential(
            torch.nn.Linear(5, 8),
            torch.nn.BatchNorm1d(8) if norm else torch.nn.Identity(),
            torch.nn.Dropout(0.3) if noise else torch.nn.Identity(),
            torch.nn.Tanh(),
            torch.nn.Linear(8, 1),
        )

    def loss(self, batch: Any) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        if self.log_it:
            self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test", self.loss(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.8)]


class Bare(Net):
    """Without validation."""

    validation_step = None  # type: ignore[assignment]


def trainer(root: Path | str = ".", *, options: Any = None, **arguments: Any) -> leyden.Trainer:
    """A Trainer on the ranks that are there, or on one; with everything off but what is asked."""
    environment = find_environment()
    part = arguments.pop("strategy_part", None)
    if part is not None:
        arguments["plugins"] = part
    elif environment.world_size > 1:
        arguments["plugins"] = DDPStrategy(
            "cpu", environment, **{"find_unused_parameters": False, **(options or {})}
        )
    return leyden.Trainer(**{**QUIET, "default_root_dir": str(root), **arguments})


def loader(count: int, size: int, *, shuffle: bool = False, **given: Any) -> DataLoader[Any]:
    """Batches whose global size is ``size``, whatever the number of ranks."""
    noise = given.pop("noise", False)
    world = find_environment().world_size
    return DataLoader(Rows(count, noise=noise), size // world, shuffle=shuffle, **given)


def weights(model: torch.nn.Module) -> torch.Tensor:
    """All parameters in one row."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def everything(model: torch.nn.Module) -> torch.Tensor:
    """All parameters and buffers in one row."""
    return torch.cat([v.detach().flatten().float() for v in model.state_dict().values()])


def numbers(metrics: Any) -> dict[str, float]:
    """Metrics as Python numbers."""
    return {name: float(value) for name, value in metrics.items()}

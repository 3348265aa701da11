"""A small module, its data, and a Trainer with everything off: what the tests of fit begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import leyden

BATCHES = 6
QUIET: dict[str, Any] = dict(
    logger=False,
    checkpoint_callback=False,
    progress_bar_refresh_rate=0,
    weights_summary=None,
    num_sanity_val_steps=0,
)


def data(count: int = BATCHES, *, shuffle: bool = False, seed: int = 1) -> DataLoader[Any]:
    """``count`` batches of 4; the same each time."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * count, 5, generator=generator)
    y = torch.randn(4 * count, 1, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4, shuffle=shuffle)


class Tiny(leyden.LightningModule):
    """A network with dropout, so that random numbers are drawn in training.

    Args:
        optimizer: makes the optimizer of the parameters.
        noise: whether validation draws random numbers as well.
    """

    def __init__(self, optimizer: Any = None, *, noise: bool = False, seed: int = 3) -> None:
        super().__init__()
        self.make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.noise = noise
        torch.manual_seed(seed)
        self.net = network()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x = batch[0] + (torch.randn_like(batch[0]) if self.noise else 0.0)
        self.log("val_score", torch.nn.functional.mse_loss(self.net(x), batch[1]))

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


class Bare(Tiny):
    """Without validation."""

    validation_step = None  # type: ignore[assignment]


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(5, 8), torch.nn.Dropout(0.3), torch.nn.ReLU(), torch.nn.Linear(8, 1)
    )


def trainer(root: Path | str = ".", **arguments: Any) -> leyden.Trainer:
    """A Trainer with everything off but what is asked for."""
    return leyden.Trainer(**{**QUIET, "default_root_dir": str(root), **arguments})


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])

"""A run that any launcher can start: ``python launch_runs.py FOLDER ARGUMENTS-AS-JSON``.

Each process writes ``rank<n>.json`` into the folder. There is no ``if __name__`` around it: no
launcher of leyden needs one, and ``tests.trainer.test_launching`` imports the classes alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import leyden

__all__ = ["Counter", "Net", "loader", "main", "trainer_for"]


class Net(leyden.LightningModule):
    """A small regression; every method that a Trainer can call is there."""

    def __init__(self, fail_at: int = -1, how: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        )
        self.seen: list[int] = []
        self.fail_at = fail_at
        self.how = how

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch_idx)
        if self.trainer.global_rank == 1 and len(self.seen) == self.fail_at:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("rank one cannot go on")
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("v", loss, sync_dist=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        loss = torch.nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("t", loss, sync_dist=True)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        found: Tensor = self.layers(batch[0])
        return found

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 0.02)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Counter(leyden.Callback):
    """Counts batches, in a number and in a list that somebody else may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.epochs: list[int] = []

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        self.batches += 1

    def on_train_epoch_end(self, trainer: Any, *rest: Any) -> None:
        self.epochs.append(trainer.current_epoch)


def loader(batch_size: int = 4, count: int = 32) -> DataLoader[Any]:
    """The same samples each time, in their order."""
    generator = torch.Generator().manual_seed(1)
    inputs, targets = (torch.randn(count, size, generator=generator) for size in (4, 2))
    return DataLoader(TensorDataset(inputs, targets), batch_size=batch_size)


def trainer_for(root: Path, **arguments: Any) -> leyden.Trainer:
    """A Trainer that writes to ``root`` only."""
    quiet: dict[str, Any] = dict(
        default_root_dir=root,
        max_epochs=2,
        logger=False,
        checkpoint_callback=False,
        progress_bar_refresh_rate=0,
        weights_summary=None,
    )
    return leyden.Trainer(**{**quiet, **arguments})


def main(folder: Path, arguments: dict[str, Any]) -> None:
    """Fit twice, test and predict; write what came of it."""
    options = {name: arguments.pop(name) for name in ("fail_at", "how") if name in arguments}
    batch = arguments.pop("batch_size", 4)
    again = arguments.pop("again", False)
    trainer = trainer_for(folder / "root", **arguments)
    net = Net(**options)
    trainer.fit(net, loader(batch), loader(batch))
    results: Any = None
    if again:
        trainer.max_epochs += 1
        trainer.fit(net, loader(batch), loader(batch))
        results = trainer.test(net, loader(batch), verbose=False)
    told = {
        "weights": torch.cat([p.detach().flatten() for p in net.parameters()]).tolist(),
        "rank": trainer.global_rank,
        "world": trainer.world_size,
        "where": trainer.strategy.environment.name,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "v": float(trainer.callback_metrics["v"]),
        "results": results,
    }
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))


if Path(sys.argv[0]).name == Path(__file__).name:
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

"""Kill a run in the middle of an epoch with SIGKILL, continue it, and compare every bit.

    python examples/resume.py

The data differ each time they are read, the network drops units at random, batches are shuffled
and gradients accumulated: all that usually makes a continued run another run. Takes seconds.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.callbacks import ModelCheckpoint

__all__ = ["KillMyself", "Noisy", "Regression", "main", "train"]


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """A line, with noise from two sources of random numbers."""

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(4) + random.random()
        return x, x.sum(dim=0, keepdim=True)


class Regression(leyden.LightningModule):
    """A small network with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=60)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class KillMyself(leyden.Callback):
    """Nothing is tidied up, nothing is said: the process is gone."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if trainer.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, kill_at: int | None = None) -> str:
    """Train, or go on with what is in ``folder``; give the bits of the weights, shortened."""
    leyden.seed_everything(7)
    model = Regression()
    saver = ModelCheckpoint(dirpath=folder, every_n_train_steps=2)
    trainer = leyden.Trainer(
        max_epochs=3,
        accumulate_grad_batches=3,
        callbacks=[saver] if kill_at is None else [saver, KillMyself(kill_at)],
        resume_from_checkpoint="last" if any(folder.glob("*.ckpt")) else None,
        default_root_dir=folder,
        logger=False,
        progress_bar_refresh_rate=0,
        weights_summary=None,
    )
    trainer.fit(model, DataLoader(Noisy(), batch_size=4, shuffle=True))
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(weights).hexdigest()[:16]


def main(arguments: list[str] | None = None) -> bool:
    """Run it all; True if the weights are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kill-at", type=int, default=77, help="batch of the whole run, from 0")
    given = parser.parse_args(arguments)
    if given.child is not None:
        train(given.child, given.kill_at)
        return False  # it was to be killed
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        whole.mkdir()
        killed.mkdir()
        expected = train(whole)
        print(f"uninterrupted:  weights {expected}")
        command = [sys.executable, __file__, "--child", str(killed)]
        done = subprocess.run([*command, "--kill-at", str(given.kill_at)], check=False)
        print(f"killed in batch {given.kill_at}: exit code {done.returncode}")
        files = ", ".join(sorted(path.name for path in killed.glob("*.ckpt")))
        print(f"what is left:   {files}")
        found = train(killed)
        print(f"continued:      weights {found}")
    same = found == expected and done.returncode == -signal.SIGKILL
    print("the same bits" if same else "NOT the same")
    return same


if __name__ == "__main__":
    sys.exit(0 if main() else 1)

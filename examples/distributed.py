"""Train in two processes on this machine's CPU, and see that they make what one makes.

    python examples/distributed.py
    python examples/distributed.py --accelerator ddp        # starts this script a second time
    torchrun --nproc-per-node=2 examples/distributed.py --accelerator ddp

Two processes with batches of 16 take the steps of one with batches of 32: the same weights, up to
the order in which sums are added. Needs cloudpickle (``pip install leyden[launch]``), unless the
script is started by torchrun.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import leyden

__all__ = ["Curve", "main"]


class Curve(leyden.LightningModule):
    """A small network that learns a curve."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = functional.mse_loss(self.net(x), y)
        # One message for all values that are due at once, not one each.
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("test_loss", functional.mse_loss(self.net(x), y), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.02)


def samples(batch_size: int) -> DataLoader:
    """The curve at 512 points, in a fixed order, so that one run can be held against another."""
    x = torch.linspace(-3, 3, 512)[torch.randperm(512, generator=torch.Generator().manual_seed(0))]
    return DataLoader(TensorDataset(x[:, None], torch.sin(x)[:, None]), batch_size)


def main(accelerator: str | None = "ddp_cpu", processes: int = 2, out: str = ".") -> float:
    """Train, test, print; returns the loss of the test."""
    leyden.seed_everything(0)
    model = Curve()
    trainer = leyden.Trainer(
        accelerator=accelerator if processes > 1 else None,
        num_processes=processes,
        max_epochs=30,
        logger=False,
        checkpoint_callback=False,
        progress_bar_refresh_rate=0,
        weights_summary=None,
        default_root_dir=Path(out),
    )
    trainer.fit(model, samples(32 // processes))
    # What the processes made of the model, the metrics and the counters is here now.
    steps = trainer.global_step
    (result,) = trainer.test(model, samples(64), verbose=False)
    if trainer.is_global_zero:
        print(
            f"{processes} processes: {steps} steps, train loss "
            f"{float(trainer.callback_metrics['train_loss']):.4f}, "
            f"test loss {result['test_loss']:.6f}"
        )
    return result["test_loss"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--accelerator", default="ddp_cpu", help="ddp_cpu, ddp_spawn or ddp")
    parser.add_argument("--processes", type=int, default=2)
    main(**vars(parser.parse_args()))

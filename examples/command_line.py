"""Every argument of the Trainer on the command line, and callbacks of one's own.

    python examples/command_line.py --max_epochs 4 --gradient_clip_val 0.5
    python examples/command_line.py --lr 0.05 --limit_train_batches 0.5 --fast_dev_run
    python examples/command_line.py --help

A callback overrides the hooks that it needs; the others cost nothing. What a run will do can be
printed before it runs: ``--show_plan``.
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import EarlyStopping, LambdaCallback

__all__ = ["Model", "SlowestBatch", "main"]


class SlowestBatch(leyden.Callback):
    """Remembers the batch that took longest; its state goes into checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.where = 0.0, (0, 0)
        self._began = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        took = time.perf_counter() - self._began
        if took > self.seconds:
            self.seconds, self.where = took, (trainer.current_epoch, trainer.batch_idx)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        epoch, batch = self.where
        print(f"slowest: batch {batch} of epoch {epoch}, {self.seconds * 1e3:.1f} ms")

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "where": list(self.where)}

    def load_state_dict(self, state: Any) -> None:
        self.seconds, self.where = state["seconds"], tuple(state["where"])


class Model(leyden.LightningModule):
    """Tells two clouds of points apart."""

    def __init__(self, lr: float = 0.02, hidden: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        points, labels = batch
        return nn.functional.cross_entropy(self.net(points), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        points, labels = batch
        self.log("val_acc", (self.net(points).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)


def clouds(seed: int) -> TensorDataset:
    """Two rings of points, one in the other."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(400) % 2
    angle = torch.rand(400, generator=random) * 6.2832
    radius = 1 + labels + 0.2 * torch.randn(400, generator=random)
    points = torch.stack([angle.cos(), angle.sin()], 1) * radius[:, None]
    return TensorDataset(points, labels)


def options() -> argparse.ArgumentParser:
    """The program's own options, those of the model, and all of the Trainer's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=0.02, help="learning rate; default: 0.02")
    parser.add_argument("--hidden", type=int, default=16, help="width; default: 16")
    parser.add_argument("--show_plan", action="store_true", help="print what will run, and stop")
    parser = leyden.Trainer.add_argparse_args(parser)
    parser.set_defaults(max_epochs=15, logger=False, checkpoint_callback=False)
    return parser


def main(arguments: list[str] | None = None) -> float:
    """Train as the command line says, and give the accuracy."""
    leyden.seed_everything(0)
    torch.set_num_threads(1)
    given = options().parse_args(arguments)
    model = Model(given.lr, given.hidden)
    said = LambdaCallback(on_train_start=lambda trainer, module: print("training begins"))
    trainer = leyden.Trainer.from_argparse_args(
        given, callbacks=[SlowestBatch(), said, EarlyStopping("val_acc", mode="max", patience=8)]
    )
    if given.show_plan:
        print(trainer.plan())
        return 0.0
    trainer.fit(model, DataLoader(clouds(0), 20, shuffle=True), DataLoader(clouds(1), 100))
    accuracy = float(trainer.callback_metrics["val_acc"])
    print(f"accuracy {accuracy:.1%} after {trainer.global_step} steps")
    return accuracy


if __name__ == "__main__":
    main()

"""Regression on a table: a network beside the straight line it has to beat.

    python examples/tabular.py
    python examples/tabular.py --hidden 16 --max_epochs 60

Friedman's table of 1991, which scikit-learn draws: ten columns, of which five matter, two of them
together and one by its square, and noise. Columns are scaled by the training part alone, early
stopping ends the run, and the best epoch is measured on rows that no model has seen.
"""

import argparse

import torch
from sklearn.datasets import make_friedman1
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint

__all__ = ["Regression", "Table", "main"]

NOISE = 1.0


class Table(leyden.LightningDataModule):
    """The table in three parts, scaled to mean 0 and deviation 1 by the first."""

    def setup(self, stage: str | None = None) -> None:
        table, answers = make_friedman1(1500, n_features=10, noise=NOISE, random_state=0)
        rows = torch.tensor(table, dtype=torch.float32)
        target = torch.tensor(answers, dtype=torch.float32).unsqueeze(1)
        train = slice(1000)
        rows = (rows - rows[train].mean(0)) / rows[train].std(0)
        self.scale = target[train].std()
        target = (target - target[train].mean()) / self.scale
        self.parts = {
            name: TensorDataset(rows[which], target[which])
            for name, which in (
                ("train", train),
                ("val", slice(1000, 1200)),
                ("test", slice(1200, None)),
            )
        }

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.parts["train"], batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.parts["val"], batch_size=200)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.parts["test"], batch_size=300)


class Regression(leyden.LightningModule):
    """Two layers, and a penalty on large weights."""

    def __init__(self, hidden: int = 64, lr: float = 1e-2, weight_decay: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        rows, target = batch
        return functional.mse_loss(self.net(rows), target)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        rows, target = batch
        self.log("val_mse", functional.mse_loss(self.net(rows), target))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        rows, target = batch
        self.log("test_mse", functional.mse_loss(self.net(rows), target))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        hparams = self.hparams
        return torch.optim.AdamW(
            self.parameters(), lr=hparams.lr, weight_decay=hparams.weight_decay
        )


def straight_line(data: Table) -> float:
    """The mean squared error of linear regression on the same parts."""
    (rows, target), (unseen, truth) = (data.parts[part].tensors for part in ("train", "test"))
    fitted = LinearRegression().fit(rows, target)
    predicted = torch.tensor(fitted.predict(unseen), dtype=torch.float32)
    return float(functional.mse_loss(predicted, truth))


def main(hidden: int = 64, max_epochs: int = 100, out: str = "runs/tabular") -> tuple[float, float]:
    """Train, and give the errors of the network and of the straight line, in the table's units."""
    leyden.seed_everything(2)
    torch.set_num_threads(1)
    data, model = Table(), Regression(hidden)
    trainer = leyden.Trainer(
        max_epochs=max_epochs,
        default_root_dir=out,
        logger=False,
        callbacks=[
            EarlyStopping("val_mse", patience=10),
            ModelCheckpoint(monitor="val_mse", mode="min"),
        ],
        progress_bar_refresh_rate=0,
        weights_summary=None,
    )
    trainer.fit(model, datamodule=data)
    [result] = trainer.test(datamodule=data, verbose=False)
    errors = tuple(float(e**0.5 * data.scale) for e in (result["test_mse"], straight_line(data)))
    print(f"stopped after epoch {trainer.current_epoch}, took the best of them")
    print(f"network        {errors[0]:.2f} off, root mean square; the noise alone is {NOISE:.2f}")
    print(f"straight line  {errors[1]:.2f}")
    return errors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=64, help="width of the network; default: 64")
    parser.add_argument("--max_epochs", type=int, default=100, help="at most; default: 100")
    parser.add_argument("--out", default="runs/tabular", help="where checkpoints go")
    main(**vars(parser.parse_args()))

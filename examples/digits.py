"""Train a classifier of handwritten digits: a first look at leyden.

    python examples/digits.py
    python examples/digits.py --max_epochs 5 --out runs/digits

Needs scikit-learn for its 1,797 pictures of 8 x 8 pixels, which come with the package; with
matplotlib and tensorboard (``pip install 'leyden[plot]'``) it draws the curves.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.loggers import TensorBoardLogger

__all__ = ["DigitsData", "DigitsModel", "main"]


class DigitsData(leyden.LightningDataModule):
    """Pictures and labels in three parts: to train, to watch, and to test at the end."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str | None = None) -> None:
        digits = load_digits()
        pictures = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        data = TensorDataset(pictures, torch.tensor(digits.target))
        # The same parts in every run.
        parts = random_split(data, [1200, 297, 300], torch.Generator().manual_seed(0))
        self.train, self.val, self.test = parts

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size)


class DigitsModel(leyden.LightningModule):
    """A small convolutional network."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(64 * 4 * 4, 10),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(pictures)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        pictures, labels = batch
        loss = functional.cross_entropy(self(pictures), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def evaluate(self, batch: list[Tensor], part: str) -> None:
        """Log loss and accuracy; their means over the batches are weighted by the batch size."""
        pictures, labels = batch
        scores = self(pictures)
        accuracy = (scores.argmax(dim=1) == labels).float().mean()
        self.log(f"{part}_loss", functional.cross_entropy(scores, labels))
        self.log(f"{part}_acc", accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def main(max_epochs: int = 15, out: str = "runs/digits") -> float:
    """Train, test the best checkpoint, and return its accuracy on the test part."""
    leyden.seed_everything(1)
    torch.set_num_threads(1)  # pictures this small are not worth sharing out between cores
    data, model = DigitsData(), DigitsModel()
    best = ModelCheckpoint(monitor="val_acc", mode="max", filename="{epoch}-{val_acc:.3f}")
    trainer = leyden.Trainer(
        max_epochs=max_epochs,
        logger=TensorBoardLogger(out, name=""),
        callbacks=[best],
        log_every_n_steps=10,
    )
    trainer.fit(model, datamodule=data)
    [result] = trainer.test(datamodule=data, verbose=False)  # with the weights of the best epoch

    accuracy: float = result["test_acc"]
    folder = Path(trainer.logger.log_dir)
    print(f"\ntest accuracy    {accuracy:.1%} of {len(data.test)} pictures it never saw")
    print(f"best checkpoint  {best.best_model_path}")
    print(f"TensorBoard log  {folder}    (to look at it: tensorboard --logdir {folder.parent})")
    if find_spec("matplotlib") and find_spec("tensorboard"):
        drawn = leyden.plot(folder, metrics=["train_loss", "val_loss", "val_acc"])
        print(f"curves           {drawn}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max_epochs", type=int, default=15, help="default: 15")
    parser.add_argument("--out", default="runs/digits", help="where to write; default: runs/digits")
    main(**vars(parser.parse_args()))

"""Metric objects of torchmetrics: logged as they are, computed over whole epochs.

    python examples/metric_objects.py

A mean of the batches' F1 scores is not the F1 score of the epoch. A metric object keeps counts, so
``self.log(name, metric)`` gives the score of all samples, resets it when the epoch ends, and brings
it back when a killed run goes on. Needs torchmetrics: ``pip install 'leyden[metrics]'``.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

import leyden

__all__ = ["Model", "main"]


class Model(leyden.LightningModule):
    """A straight line through pixels, watched by several metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 10)
        scores = MetricCollection(
            {"accuracy": MulticlassAccuracy(10), "f1": MulticlassF1Score(10, average="macro")}
        )
        # One set for each loop, so that neither counts the other's samples.
        self.train_scores = scores.clone(prefix="train_")
        self.val_scores = scores.clone(prefix="val_")
        self.confusion = MulticlassConfusionMatrix(10)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        pictures, labels = batch
        scores = self.net(pictures)
        self.train_scores.update(scores, labels)
        self.log_dict(dict(self.train_scores.items()), on_step=False, on_epoch=True)
        return functional.cross_entropy(scores, labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pictures, labels = batch
        scores = self.net(pictures)
        self.val_scores.update(scores, labels)
        self.log_dict(dict(self.val_scores.items()), prog_bar=True)
        self.log("mean_of_batches", MulticlassF1Score(10, average="macro")(scores, labels))
        self.confusion.update(scores, labels)

    def on_validation_epoch_start(self) -> None:
        self.confusion.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main(max_epochs: int = 5) -> dict[str, float]:
    """Train, and give what was logged last."""
    leyden.seed_everything(0)
    torch.set_num_threads(1)
    digits = load_digits()
    pictures = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = TensorDataset(pictures, torch.tensor(digits.target))
    parts = torch.utils.data.random_split(data, [1400, 397], torch.Generator().manual_seed(0))
    model = Model()
    trainer = leyden.Trainer(
        max_epochs=max_epochs, logger=False, checkpoint_callback=False, weights_summary=None
    )
    trainer.fit(model, DataLoader(parts[0], 32, shuffle=True), DataLoader(parts[1], 16))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    matrix = model.confusion.compute()
    mistakes = matrix - torch.diag(matrix.diag())
    took, given = divmod(int(mistakes.argmax()), 10)
    print(f"\nF1 of the epoch    {logged['val_f1']:.4f}")
    print(f"mean of batches'   {logged['mean_of_batches']:.4f}    which is another number")
    print(f"most often a {took} was taken for a {given}: {int(mistakes.max())} times")
    return logged


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max_epochs", type=int, default=5, help="default: 5")
    main(**vars(parser.parse_args()))

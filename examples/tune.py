"""Search for a batch size and a learning rate, then train with them.

    python examples/tune.py
    python examples/tune.py --max_epochs 5 --plot rates.png

Needs scikit-learn for its 1,797 pictures of handwritten digits; --plot needs matplotlib.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

import leyden

__all__ = ["DigitsModel", "main"]


class DigitsModel(leyden.LightningModule):
    """A small convolutional network; its batch size and its rate are attributes that tune() sets.

    Args:
        most: the largest batch that "fits": a stand-in for the memory of a device.
    """

    def __init__(self, most: int = 40) -> None:
        super().__init__()
        self.lr = 1e-3
        self.batch_size = 2
        self.most = most
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
        digits = load_digits()
        pictures = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        data = TensorDataset(pictures, torch.tensor(digits.target))
        self.train_data, self.val_data = random_split(
            data, [1400, 397], torch.Generator().manual_seed(0)
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        pictures, labels = batch
        if len(pictures) > self.most:
            raise MemoryError("this is where a real device runs out of memory")
        return functional.cross_entropy(self.net(pictures), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pictures, labels = batch
        right = self.net(pictures).argmax(dim=1) == labels
        self.log("val_acc", right.float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_data, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_data, 100)


def main(max_epochs: int = 3, plot: str = "") -> float:
    """Tune, train, and return the accuracy on pictures that were not trained on."""
    leyden.seed_everything(1)
    torch.set_num_threads(1)  # pictures this small are not worth sharing out between cores
    model = DigitsModel()
    trainer = leyden.Trainer(
        max_epochs=max_epochs,
        auto_scale_batch_size="power",
        logger=False,
        checkpoint_callback=False,
        weights_summary=None,
        num_sanity_val_steps=0,
    )
    trainer.tune(model)  # writes model.batch_size
    # More steps than auto_lr_find takes, and no rates that Adam cannot use: a smoother curve.
    curve = trainer.tuner.lr_find(model, max_lr=0.1, num_training=300)
    model.lr = curve.suggestion()
    if plot:
        curve.plot(suggest=True).savefig(plot)
    trainer.fit(model)
    accuracy = float(trainer.callback_metrics["val_acc"])
    print(f"\nbatch size {model.batch_size}, learning rate {model.lr:.3g}: {accuracy:.1%} right")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max_epochs", type=int, default=3, help="default: 3")
    parser.add_argument("--plot", default="", help="a file for the picture of the search")
    main(**vars(parser.parse_args()))

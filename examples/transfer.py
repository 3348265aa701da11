"""Transfer learning: a network that knows the digits 0 to 4 learns 5 to 9 in a few epochs.

The body is frozen while a new head learns; then a callback sets it free, with a smaller rate. Given
more epochs or more pictures, a network that begins from scratch catches up.

    python examples/transfer.py

Needs scikit-learn for its pictures of 8 x 8 pixels, which come with the package.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden

__all__ = ["Classifier", "Unfreeze", "main"]

QUIET = {"logger": False, "checkpoint_callback": False, "weights_summary": None}


class Classifier(leyden.LightningModule):
    """A body that sees and a head that decides."""

    def __init__(self, body: nn.Module | None = None, lr: float = 3e-3) -> None:
        super().__init__()
        self.lr = lr
        self.body = body or nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(512, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.body(pictures))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        pictures, labels = batch
        return nn.functional.cross_entropy(self(pictures), labels)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pictures, labels = batch
        self.log("accuracy", (self(pictures).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # What is frozen gets no gradient; a callback adds it when it is set free.
        return torch.optim.Adam(self.head.parameters(), lr=self.lr)


class Whole(Classifier):
    """All of it learns from the beginning."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Unfreeze(leyden.Callback):
    """Freezes the body, and sets it free in an epoch, with a smaller rate than the head's.

    Args:
        at_epoch: the epoch, from 0.
        share: the body's rate over the head's.
    """

    def __init__(self, at_epoch: int, share: float = 0.1) -> None:
        super().__init__()
        self.at_epoch = at_epoch
        self.share = share

    def on_fit_start(self, trainer: leyden.Trainer, pl_module: Classifier) -> None:
        pl_module.body.requires_grad_(False)

    def on_train_epoch_start(self, trainer: leyden.Trainer, pl_module: Classifier) -> None:
        if trainer.current_epoch == self.at_epoch:
            pl_module.body.requires_grad_(True)
            (optimizer,) = trainer.optimizers
            group = {"params": list(pl_module.body.parameters()), "lr": pl_module.lr * self.share}
            optimizer.add_param_group(group)


def digits(first: int, rows: slice) -> TensorDataset:
    """Pictures of five digits from ``first`` on, labelled 0 to 4."""
    loaded = load_digits()
    pictures = torch.tensor(loaded.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(loaded.target) - first
    wanted = (labels >= 0) & (labels < 5)
    return TensorDataset(pictures[wanted][rows], labels[wanted][rows])


def trained(model: Classifier, data: TensorDataset, epochs: int, *callbacks: object) -> Classifier:
    """Train a model, and give it back."""
    trainer = leyden.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), progress_bar_refresh_rate=0, **QUIET
    )
    trainer.fit(model, DataLoader(data, batch_size=16, shuffle=True))
    return model


def main(pictures: int = 50, max_epochs: int = 4) -> tuple[float, float]:
    """Return the accuracy on unseen pictures of 5 to 9: with what was known, and from scratch."""
    leyden.seed_everything(0)
    known = trained(Whole(), digits(0, slice(None)), 10)
    few, unseen = digits(5, slice(pictures)), DataLoader(digits(5, slice(200, None)), 128)
    moved = trained(Classifier(known.body), few, max_epochs, Unfreeze(max_epochs // 2))
    fresh = trained(Whole(), few, max_epochs)

    tester = leyden.Trainer(progress_bar_refresh_rate=0, **QUIET)
    results = [tester.test(model, unseen, verbose=False)[0] for model in (moved, fresh)]
    with_body, from_scratch = (result["accuracy"] for result in results)
    others = len(unseen.dataset)
    print(f"5 to 9 from {pictures} pictures in {max_epochs} epochs, tested on {others} others:")
    print(f"{with_body:.1%} with what it knew of 0 to 4, {from_scratch:.1%} from scratch")
    return with_body, from_scratch


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=50, help="to learn from; default: 50")
    parser.add_argument("--max_epochs", type=int, default=4, help="default: 4")
    main(**vars(parser.parse_args()))

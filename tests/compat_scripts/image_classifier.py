"""An image classifier with a data module, in the style of Lightning 1.1's documentation."""

import os
from argparse import ArgumentParser

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.early_stopping import EarlyStopping
from pytorch_lightning.callbacks.model_checkpoint import ModelCheckpoint
from pytorch_lightning.core.datamodule import LightningDataModule
from pytorch_lightning.core.lightning import LightningModule
from pytorch_lightning.core.memory import ModelSummary
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger  # noqa: F401
from pytorch_lightning.metrics.functional import accuracy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.cloud_io import load as pl_load
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset, random_split


class DigitsDataModule(LightningDataModule):
    """Eight by eight images of handwritten digits, in place of MNIST."""

    def __init__(self, data_dir="data", batch_size=64, num_workers=0):
        super().__init__()
        self.data_dir = data_dir
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.dims = (1, 8, 8)

    @property
    def num_classes(self):
        return 10

    def prepare_data(self):
        os.makedirs(self.data_dir, exist_ok=True)
        images, labels = load_digits(return_X_y=True)
        np.savez(os.path.join(self.data_dir, "digits.npz"), images=images, labels=labels)

    def setup(self, stage=None):
        found = np.load(os.path.join(self.data_dir, "digits.npz"))
        images = torch.tensor(found["images"], dtype=torch.float32).view(-1, 1, 8, 8) / 16
        labels = torch.tensor(found["labels"], dtype=torch.long)
        full = TensorDataset(images, labels)
        split = torch.Generator().manual_seed(42)
        parts = random_split(full, [1400, 200, len(full) - 1600], generator=split)
        if stage == "fit" or stage is None:
            self.train, self.val = parts[0], parts[1]
        if stage == "test" or stage is None:
            self.test = parts[2]

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=self.batch_size)

    @staticmethod
    def add_model_specific_args(parent_parser):
        parser = ArgumentParser(parents=[parent_parser], add_help=False)
        parser.add_argument("--batch_size", type=int, default=64)
        parser.add_argument("--data_dir", type=str, default="data")
        return parser


class LitClassifier(LightningModule):
    def __init__(self, hidden_dim=64, learning_rate=1e-3, num_classes=10, **kwargs):
        super().__init__()
        self.save_hyperparameters()
        self.l1 = nn.Linear(64, self.hparams.hidden_dim)
        self.l2 = nn.Linear(self.hparams.hidden_dim, num_classes)
        self.train_acc = pl.metrics.Accuracy()
        self.valid_acc = pl.metrics.Accuracy()
        self.example_input_array = torch.zeros(2, 1, 8, 8)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        return self.l2(torch.relu(self.l1(x)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        loss = F.cross_entropy(y_hat, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, logger=True)
        self.log("train_acc", self.train_acc(torch.softmax(y_hat, 1), y), on_step=True)
        return loss

    def training_epoch_end(self, outputs):
        avg_loss = torch.stack([x["loss"] for x in outputs]).mean()
        self.logger.experiment.add_scalar("Loss/Train", avg_loss, self.current_epoch)
        self.log("train_acc_epoch", self.train_acc.compute())

    def validation_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        self.valid_acc.update(torch.softmax(y_hat, 1), y)
        return {"val_loss": F.cross_entropy(y_hat, y), "batch": len(y)}

    def validation_epoch_end(self, outputs):
        avg_loss = torch.stack([x["val_loss"] for x in outputs]).mean()
        self.log_dict({"val_loss": avg_loss, "val_acc": self.valid_acc.compute()}, prog_bar=True)
        self.valid_acc.reset()

    def test_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        self.log("test_loss", F.cross_entropy(y_hat, y))
        self.log("test_acc", accuracy(y_hat, y, num_classes=10))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
        scheduler = {
            "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
            "monitor": "val_loss",
            "interval": "epoch",
            "frequency": 1,
        }
        return [optimizer], [scheduler]

    @staticmethod
    def add_model_specific_args(parent_parser):
        parser = ArgumentParser(parents=[parent_parser], add_help=False)
        parser.add_argument("--hidden_dim", type=int, default=64)
        parser.add_argument("--learning_rate", type=float, default=1e-3)
        return parser


@rank_zero_only
def report(results):
    print("test results:", results)


def cli_main():
    pl.seed_everything(1234)
    parser = ArgumentParser()
    parser = pl.Trainer.add_argparse_args(parser)
    parser = LitClassifier.add_model_specific_args(parser)
    parser = DigitsDataModule.add_model_specific_args(parser)
    args = parser.parse_args()

    dm = DigitsDataModule(args.data_dir, args.batch_size)
    model = LitClassifier(args.hidden_dim, args.learning_rate, dm.num_classes)
    print(ModelSummary(model, mode="full"))

    logger = TensorBoardLogger("logs", name="digits")
    checkpoint = ModelCheckpoint(
        monitor="val_acc", mode="max", save_top_k=2, filename="{epoch:02d}-{val_acc:.2f}"
    )
    trainer = pl.Trainer.from_argparse_args(
        args,
        logger=logger,
        callbacks=[EarlyStopping(monitor="val_loss", patience=3), checkpoint],
    )
    assert trainer.fit(model, dm) == 1
    results = trainer.test(datamodule=dm, ckpt_path="best")
    report(results)

    best = LitClassifier.load_from_checkpoint(checkpoint.best_model_path, learning_rate=0.5)
    assert best.hparams.hidden_dim == args.hidden_dim and best.hparams["learning_rate"] == 0.5
    saved = pl_load(checkpoint.best_model_path, map_location=lambda storage, loc: storage)
    assert saved["hyper_parameters"]["num_classes"] == 10
    assert len(checkpoint.best_k_models) == 2
    assert trainer.checkpoint_callback.best_model_score > 0.5
    assert {"val_acc", "train_loss_epoch", "test_acc"} <= set(trainer.callback_metrics)
    assert trainer.logged_metrics and not trainer.on_gpu and trainer.proc_rank == 0
    best.freeze()
    with torch.no_grad():
        assert best(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    return results[0]["test_acc"]


if __name__ == "__main__":
    print("accuracy", float(cli_main()))

"""The smallest module that trains, as test suites for Lightning 1.x have one."""

import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, Dataset


class RandomDataset(Dataset):
    def __init__(self, size, length):
        self.len = length
        self.data = torch.randn(length, size)

    def __getitem__(self, index):
        return self.data[index]

    def __len__(self):
        return self.len


class BoringModel(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(32, 2)

    def forward(self, x):
        return self.layer(x)

    def loss(self, batch, prediction):
        return torch.nn.functional.mse_loss(prediction, torch.ones_like(prediction))

    def training_step(self, batch, batch_idx):
        return {"loss": self.loss(batch, self.layer(batch))}

    def training_step_end(self, training_step_outputs):
        return training_step_outputs

    def training_epoch_end(self, outputs):
        torch.stack([x["loss"] for x in outputs]).mean()

    def validation_step(self, batch, batch_idx):
        return {"x": self.loss(batch, self.layer(batch))}

    def validation_epoch_end(self, outputs):
        torch.stack([x["x"] for x in outputs]).mean()

    def test_step(self, batch, batch_idx):
        return {"y": self.loss(batch, self.layer(batch))}

    def test_epoch_end(self, outputs):
        torch.stack([x["y"] for x in outputs]).mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)]

    def train_dataloader(self):
        return DataLoader(RandomDataset(32, 64))

    def val_dataloader(self):
        return DataLoader(RandomDataset(32, 64))

    def test_dataloader(self):
        return DataLoader(RandomDataset(32, 64))


class BoringDataModule(LightningDataModule):
    def setup(self, stage=None):
        self.random_full = RandomDataset(32, 96)

    def train_dataloader(self):
        return DataLoader(self.random_full)

    def val_dataloader(self):
        return DataLoader(self.random_full)

    def test_dataloader(self):
        return DataLoader(self.random_full)

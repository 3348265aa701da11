"""A GAN: two optimizers, images of what is generated in the logger. Lightning 1.1 style."""

from argparse import ArgumentParser, Namespace
from collections import OrderedDict

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.core import LightningModule
from pytorch_lightning.trainer import Trainer
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset


class Generator(nn.Module):
    def __init__(self, latent_dim, img_shape):
        super().__init__()
        self.img_shape = img_shape

        def block(in_feat, out_feat, normalize=True):
            layers = [nn.Linear(in_feat, out_feat)]
            if normalize:
                layers.append(nn.BatchNorm1d(out_feat, 0.8))
            layers.append(nn.LeakyReLU(0.2))
            return layers

        self.model = nn.Sequential(
            *block(latent_dim, 32, normalize=False),
            *block(32, 64),
            nn.Linear(64, int(np.prod(img_shape))),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.model(z).view(z.size(0), *self.img_shape)


class Discriminator(nn.Module):
    def __init__(self, img_shape):
        super().__init__()
        self.model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(int(np.prod(img_shape)), 32),
            nn.LeakyReLU(0.2),
            nn.Linear(32, 1),
        )

    def forward(self, img):
        return torch.sigmoid(self.model(img))


class GAN(LightningModule):
    def __init__(self, latent_dim: int = 16, lr: float = 0.002, b1: float = 0.5, b2: float = 0.999,
                 batch_size: int = 32, **kwargs):  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        img_shape = (1, 8, 8)
        self.generator = Generator(self.hparams.latent_dim, img_shape)
        self.discriminator = Discriminator(img_shape)
        self.validation_z = torch.randn(4, self.hparams.latent_dim)
        self.example_input_array = torch.zeros(2, self.hparams.latent_dim)
        self.turns = {0: 0, 1: 0}

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, y_hat, y):
        return F.binary_cross_entropy(y_hat, y)

    def training_step(self, batch, batch_idx, optimizer_idx):
        (imgs,) = batch
        z = torch.randn(imgs.shape[0], self.hparams.latent_dim).type_as(imgs)
        self.turns[optimizer_idx] += 1
        trained = [p.requires_grad for p in self.generator.parameters()]
        assert all(trained) if optimizer_idx == 0 else not any(trained)

        if optimizer_idx == 0:
            self.generated_imgs = self(z)
            valid = torch.ones(imgs.size(0), 1).type_as(imgs)
            g_loss = self.adversarial_loss(self.discriminator(self(z)), valid)
            tqdm_dict = {"g_loss": g_loss}
            return OrderedDict({"loss": g_loss, "progress_bar": tqdm_dict, "log": tqdm_dict})

        if optimizer_idx == 1:
            valid = torch.ones(imgs.size(0), 1).type_as(imgs)
            real_loss = self.adversarial_loss(self.discriminator(imgs), valid)
            fake = torch.zeros(imgs.size(0), 1).type_as(imgs)
            fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), fake)
            d_loss = (real_loss + fake_loss) / 2
            tqdm_dict = {"d_loss": d_loss}
            return OrderedDict({"loss": d_loss, "progress_bar": tqdm_dict, "log": tqdm_dict})

    def configure_optimizers(self):
        lr, betas = self.hparams.lr, (self.hparams.b1, self.hparams.b2)
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=betas)
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=betas)
        return [opt_g, opt_d], []

    def train_dataloader(self):
        return DataLoader(
            TensorDataset(torch.rand(256, 1, 8, 8) * 2 - 1), batch_size=self.hparams.batch_size
        )

    def on_epoch_end(self):
        z = self.validation_z.type_as(self.generator.model[0].weight)
        sample_imgs = self(z)
        grid = torch.cat(list(sample_imgs), dim=-1)
        self.logger.experiment.add_image("generated_images", grid, self.current_epoch)
        self.logger.log_graph(self)


def main(args: Namespace) -> None:
    model = GAN(**vars(args))
    trainer = Trainer(max_epochs=2, progress_bar_refresh_rate=2, log_every_n_steps=1)
    trainer.fit(model)
    assert model.turns == {0: 16, 1: 16}, model.turns
    assert {"g_loss", "d_loss"} <= set(trainer.logged_metrics), trainer.logged_metrics
    assert {"g_loss", "d_loss"} <= set(trainer.progress_bar_metrics)
    assert {"g_loss", "d_loss"} <= set(trainer.callback_metrics)
    assert len(trainer.optimizers) == 2 and trainer.global_step == 16
    print("generated", float(trainer.callback_metrics["g_loss"]))


if __name__ == "__main__":
    pl.seed_everything(7)
    parser = ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--b1", type=float, default=0.5)
    parser.add_argument("--b2", type=float, default=0.999)
    parser.add_argument("--latent_dim", type=int, default=16)
    main(parser.parse_args())

"""A GAN with two optimizers: one network draws points on a circle, one tells them from real ones.

Lightning 1.1's form: ``training_step`` is called once for each optimizer, with the parameters of
the other frozen.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden

__all__ = ["GAN", "circle", "main", "network"]


def network(inputs: int, outputs: int) -> nn.Sequential:
    """A small multi-layer perceptron."""
    return nn.Sequential(
        nn.Linear(inputs, 64),
        nn.LeakyReLU(0.2),
        nn.Linear(64, 64),
        nn.LeakyReLU(0.2),
        nn.Linear(64, outputs),
    )


class GAN(leyden.LightningModule):
    """Generator and discriminator, each with an optimizer of its own."""

    def __init__(self, latent_dim: int = 8, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.generator = network(latent_dim, 2)
        self.discriminator = network(2, 1)
        self.criterion = nn.BCEWithLogitsLoss()

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)  # type: ignore[no-any-return]

    def training_step(self, batch: list[Tensor], batch_idx: int, optimizer_idx: int) -> Tensor:
        (real,) = batch
        fake = self(torch.randn(len(real), self.hparams["latent_dim"]))
        if optimizer_idx == 0:
            loss = self.criterion(self.discriminator(fake), torch.ones(len(real), 1))
            self.log("g_loss", loss, prog_bar=True)
            return loss  # type: ignore[no-any-return]
        loss_real = self.criterion(self.discriminator(real), torch.ones(len(real), 1))
        loss_fake = self.criterion(self.discriminator(fake.detach()), torch.zeros(len(real), 1))
        loss = (loss_real + loss_fake) / 2
        self.log("d_loss", loss, prog_bar=True)
        return loss  # type: ignore[no-any-return]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(network.parameters(), lr=self.hparams["lr"], betas=(0.5, 0.999))
            for network in (self.generator, self.discriminator)
        ]


def circle(points: int) -> Tensor:
    """Points on the unit circle, with a little noise: (points, 2)."""
    angle = torch.rand(points, 1) * 2 * torch.pi
    return torch.cat([angle.cos(), angle.sin()], dim=1) + 0.02 * torch.randn(points, 2)


def main() -> float:
    """Train, and give the mean distance of generated points from the circle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_epochs", type=int, default=30)
    arguments = parser.parse_args()
    leyden.seed_everything(0)
    model = GAN()
    loader = DataLoader(TensorDataset(circle(2048)), batch_size=64, shuffle=True)
    trainer = leyden.Trainer(
        max_epochs=arguments.max_epochs, logger=False, checkpoint_callback=False
    )
    trainer.fit(model, loader)
    with torch.no_grad():
        distance = (model(torch.randn(1000, 8)).norm(dim=1) - 1).abs().mean().item()
    print(f"generated points are {distance:.3f} away from the circle on average")
    return distance


if __name__ == "__main__":
    main()

"""Optimization by hand: sharpness-aware minimization (SAM), which needs two backward passes a step.

``self.automatic_optimization = False`` hands backward, step and clearing to ``training_step``.
Source of the method: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving
Generalization", 2021.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden

__all__ = ["SharpnessAware", "main", "moons"]


class SharpnessAware(leyden.LightningModule):
    """A classifier of two moons, trained with SAM.

    Args:
        rho: radius of the neighbourhood in which the loss is to be low.
        lr: learning rate.
    """

    def __init__(self, rho: float = 0.05, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))

    def loss(self, batch: list[Tensor]) -> Tensor:
        """Cross entropy of one batch."""
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.manual_backward(loss, optimizer)
        climbed = self._climb()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch), optimizer)
        with torch.no_grad():
            for parameter, step in climbed:
                parameter.sub_(step)
        optimizer.step()
        self.log("loss", loss, prog_bar=True)

    @torch.no_grad()
    def _climb(self) -> list[tuple[Tensor, Tensor]]:
        """Move the weights to where the loss is highest nearby; gives the way back."""
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        steps = [p.grad * (self.hparams["rho"] / (norm + 1e-12)) for p in parameters]
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.add_(step)
        return list(zip(parameters, steps, strict=True))

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self.net(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)


def moons(points: int) -> TensorDataset:
    """Two half circles that reach into each other: features (points, 2), classes (points,)."""
    angle, y = torch.rand(points) * torch.pi, torch.arange(points) % 2
    x = torch.stack([angle.cos() + y, angle.sin() * (1 - 2 * y) + 0.5 * y], dim=1)
    return TensorDataset(x + 0.1 * torch.randn(points, 2), y)


def main() -> float:
    """Train, and give the validation accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_epochs", type=int, default=15)
    arguments = parser.parse_args()
    leyden.seed_everything(0)
    train = DataLoader(moons(1024), batch_size=32, shuffle=True)
    val = DataLoader(moons(512), batch_size=128)
    trainer = leyden.Trainer(
        max_epochs=arguments.max_epochs, logger=False, checkpoint_callback=False
    )
    trainer.fit(SharpnessAware(), train, val)
    accuracy = float(trainer.callback_metrics["val_acc"])
    print(f"validation accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()

"""An LSTM on long sequences with truncated back-propagation through time.

``truncated_bptt_steps`` cuts each sequence; the hidden state of one part is handed to the next, its
gradient is not.
"""

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden

__all__ = ["Waves", "main", "waves"]


class Waves(leyden.LightningModule):
    """Predicts the next value of a wave.

    Args:
        hidden: size of the hidden state.
        lr: learning rate.
    """

    def __init__(self, hidden: int = 32, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int, hiddens: Any) -> dict[str, Any]:
        x, y = batch  # (batch, time, 1), cut along time
        out, hiddens = self.lstm(x, hiddens)
        loss = nn.functional.mse_loss(self.head(out), y)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return {"loss": loss, "hiddens": hiddens}

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        out, _ = self.lstm(x)
        self.log("val_loss", nn.functional.mse_loss(self.head(out), y), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


def waves(sequences: int, length: int = 200) -> TensorDataset:
    """Sums of two sines with random phases; the target is the wave one step later."""
    time = torch.arange(length + 1) / 10
    phase = torch.rand(sequences, 2, 1) * 2 * torch.pi
    wave = (torch.sin(time + phase[:, 0]) + 0.5 * torch.sin(3 * time + phase[:, 1])).unsqueeze(-1)
    return TensorDataset(wave[:, :-1], wave[:, 1:])


def main() -> float:
    """Train, and give the validation loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max_epochs", type=int, default=8)
    arguments = parser.parse_args()
    leyden.seed_everything(0)
    train = DataLoader(waves(256), batch_size=16, shuffle=True)
    val = DataLoader(waves(64), batch_size=64)
    trainer = leyden.Trainer(
        max_epochs=arguments.max_epochs,
        truncated_bptt_steps=25,
        gradient_clip_val=1.0,
        logger=False,
        checkpoint_callback=False,
    )
    trainer.fit(Waves(), train, val)
    loss = float(trainer.callback_metrics["val_loss"])
    print(f"validation loss {loss:.5f}")
    return loss


if __name__ == "__main__":
    main()

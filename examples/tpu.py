"""Train a classifier of handwritten digits on TPU cores, through torch_xla.

    python examples/tpu.py                      # one core
    python examples/tpu.py --tpu_cores 8        # all cores of this machine, from this process
    python examples/tpu.py --tpu_cores 8 --accelerator tpu_spawn    # a process for each core

Without a TPU, XLA has devices on the CPU:

    PJRT_DEVICE=CPU CPU_NUM_DEVICES=4 python examples/tpu.py --tpu_cores 8

Needs ``pip install 'leyden[tpu]' scikit-learn``.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

import leyden

__all__ = ["Classifier", "main"]


class Classifier(leyden.LightningModule):
    """Two layers; nothing in it knows of TPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        pictures, labels = batch
        loss = functional.cross_entropy(self.net(pictures), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pictures, labels = batch
        right = self.net(pictures).argmax(dim=1) == labels
        self.log("val_acc", right.float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(
    tpu_cores: str = "1",
    max_epochs: int = 10,
    precision: int = 32,
    accelerator: str | None = None,
) -> float:
    """Train, and return the accuracy on pictures that were not trained on."""
    leyden.seed_everything(1)
    # Before anything is trained: autograd counts the devices when it is first used.
    trainer = leyden.Trainer(
        tpu_cores=tpu_cores,  # "1", "8" for all, "3" for the third
        accelerator=accelerator,  # "tpu_spawn" for a process for each core, "fsdp" for parts
        max_epochs=max_epochs,
        precision=precision,  # 16 is bfloat16 here
        logger=False,
        checkpoint_callback=False,
        weights_summary=None,
        progress_bar_refresh_rate=0,
    )
    digits = load_digits()
    pictures = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = TensorDataset(pictures, torch.tensor(digits.target))
    train, val = random_split(data, [1437, 360], torch.Generator().manual_seed(0))
    # What each core gets. drop_last: XLA compiles once for each size of a batch.
    trainer.fit(
        Classifier(),
        DataLoader(train, batch_size=16, shuffle=True, drop_last=True),
        DataLoader(val, batch_size=45),
    )
    accuracy = float(trainer.callback_metrics["val_acc"])
    print(f"{trainer.strategy}: {trainer.global_step} steps, accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tpu_cores", default="1", help="1, 8 for all, 3 for the third")
    parser.add_argument("--max_epochs", type=int, default=10, help="default: 10")
    parser.add_argument("--precision", type=int, default=32, help="32 or 16; default: 32")
    parser.add_argument("--accelerator", help="tpu_spawn or fsdp, with all cores; default: neither")
    main(**vars(parser.parse_args()))

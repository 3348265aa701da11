"""Train a small transformer to write like Python's documentation, letter by letter.

    python examples/char_transformer.py
    python examples/char_transformer.py --max_epochs 8 --out runs/characters

The text is the docstrings of Python's own library; nothing is downloaded.
"""

import argparse
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import leyden

__all__ = ["CharModel", "Characters", "Transformer", "corpus", "main"]


def corpus() -> str:
    """Return the docstrings of a few modules of the standard library, in ASCII."""
    import argparse
    import asyncio
    import collections
    import datetime
    import decimal
    import fractions
    import itertools
    import logging
    import pathlib
    import statistics
    import string
    import textwrap

    modules = (argparse, asyncio, collections, datetime, decimal, fractions, itertools, logging,
               pathlib, statistics, string, textwrap)  # fmt: skip
    texts = []
    for module in modules:
        members = [module, *vars(module).values()]
        texts += [str(m.__doc__) for m in members if callable(m) or m is module if m.__doc__]
    unique = dict.fromkeys(texts)  # many things share the docstring of their class
    return "\n\n".join(unique).encode("ascii", "ignore").decode()


class Characters(Dataset):
    """Windows of a text as numbers; the target of each character is the one behind it."""

    def __init__(self, text: str, length: int = 64) -> None:
        self.alphabet = sorted(set(text))
        numbers = {character: i for i, character in enumerate(self.alphabet)}
        self.data = torch.tensor([numbers[character] for character in text])
        self.length = length

    def __len__(self) -> int:
        return (len(self.data) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.data[index * self.length : (index + 1) * self.length + 1]
        return window[:-1], window[1:]


class Transformer(nn.Module):
    """Scores of the next character at each place: (batch, length) -> (batch, alphabet, length)."""

    def __init__(self, alphabet: int, length: int = 64, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, width)
        self.places = nn.Parameter(torch.randn(length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=4 * width, dropout=0.0, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(width, alphabet)
        future = torch.full((length, length), -math.inf).triu(1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        hidden = self.characters(x) + self.places[:length]
        hidden = self.layers(hidden, mask=self.future[:length, :length])
        return self.head(hidden).transpose(1, 2)


class CharModel(leyden.LightningModule):
    """Learns to guess the next character."""

    def __init__(self, alphabet: int, length: int = 64, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = Transformer(alphabet, length)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        return [optimizer], [schedule]

    @torch.no_grad()
    def write(self, start: Tensor, count: int) -> Tensor:
        """Go on with the numbers in ``start`` for ``count`` characters."""
        numbers = start
        for _ in range(count):
            scores = self.net(numbers[None, -self.hparams.length :])[0, :, -1]
            following = torch.multinomial((scores / 0.7).softmax(0), 1)
            numbers = torch.cat([numbers, following])
        return numbers


def main(max_epochs: int = 15, out: str = "runs/characters") -> float:
    """Train, show a sample, and return the loss of the last step."""
    leyden.seed_everything(1)
    data = Characters(corpus())
    model = CharModel(len(data.alphabet), data.length)
    trainer = leyden.Trainer(
        max_epochs=max_epochs, default_root_dir=out, gradient_clip_val=1.0, log_every_n_steps=10
    )
    trainer.fit(model, DataLoader(data, batch_size=32, shuffle=True))

    model.eval()
    sample = model.write(data.data[:20], 300)
    print(f"\n{''.join(data.alphabet[i] for i in sample.tolist())}\n")
    print(f"written by a model of {sum(p.numel() for p in model.parameters()):,} parameters,")
    print(f"kept in {trainer.checkpoint_callback.best_model_path}")
    return float(trainer.callback_metrics["loss"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max_epochs", type=int, default=15, help="default: 15")
    parser.add_argument("--out", default="runs/characters", help="default: runs/characters")
    main(**vars(parser.parse_args()))

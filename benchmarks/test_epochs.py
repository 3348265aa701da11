"""How many times as long as the hand-written loop an epoch takes, with a real DataLoader."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.contenders import (
    IGNITE,
    LEYDEN_OFF,
    LIGHTNING_OFF,
    HandWritten,
    accelerate_loop,
    engine_loop,
    leyden_fit,
    lightning_fit,
)
from benchmarks.harness import Epochs, Rounds, Row


@functools.cache
def digits() -> Dataset[Any]:
    """1,797 pictures of 8 x 8 pixels: 57 batches of 32."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pictures = torch.tensor(loaded.images, dtype=torch.float32) / 16
    return TensorDataset(pictures.unsqueeze(1), torch.tensor(loaded.target))


def mlp() -> nn.Module:
    """Pictures to scores."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    """Pictures to scores, with convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


@functools.cache
def characters() -> Any:
    """160 windows of 64 characters: 5 batches of 32."""
    from examples.char_transformer import Characters, corpus

    return Characters(corpus()[: 160 * 64 + 1])


def transformer() -> nn.Module:
    """Two layers of width 32."""
    from examples.char_transformer import Transformer

    return Transformer(len(characters().alphabet), width=32)


def epoch(
    run: Callable[..., None],
    net: Callable[[], nn.Module],
    data: Callable[[], Dataset[Any]],
    epochs: int,
    **arguments: Any,
) -> Callable[[], float]:
    """An epoch of ``run`` as a multiple of the hand-written loop's, one after the other."""

    def go() -> float:
        loader = Epochs(DataLoader(data(), batch_size=32, shuffle=True), HandWritten(net()))
        run(net(), loader, epochs, **arguments)
        return loader.ratio

    return go


# Epochs of a run; the first and the last do not count.
@pytest.mark.parametrize(
    ("what", "net", "data", "epochs", "must", "aim"),
    [
        ("epoch of a digits MLP", mlp, digits, 12, 1.10, 1.03),
        ("epoch of a digits CNN", cnn, digits, 6, 1.10, 1.03),
        ("epoch of a character transformer", transformer, characters, 4, 1.10, 1.03),
    ],
)
def test_epoch(
    measure: Any,
    smoke: bool,
    what: str,
    net: Callable[[], nn.Module],
    data: Callable[[], Dataset[Any]],
    epochs: int,
    must: float,
    aim: float,
) -> None:
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's: make bench installs it")
    contenders = {"leyden": epoch(leyden_fit, net, data, epochs, **LEYDEN_OFF)}
    if not smoke:
        few = max(epochs // 2, 4)
        ignite = functools.partial(engine_loop, IGNITE)
        contenders["ignite"] = epoch(ignite, net, data, few)
        if importlib.util.find_spec("lightning") is not None:
            contenders["Lightning"] = epoch(lightning_fit, net, data, few, **LIGHTNING_OFF)
        if importlib.util.find_spec("accelerate") is not None:
            contenders["Accelerate"] = epoch(accelerate_loop, net, data, few)

    def row(done: Rounds) -> Row:
        values = {name: done.median(name) for name in contenders}
        return Row(what, values, "x", must, aim, digits=2)

    measure(contenders, row)

"""Compose an engine and handlers without the Trainer: digits, accumulation, clipping, early stop.

Run it with ``python examples/power_user.py``; it needs scikit-learn for its data.
"""

from typing import Any

import torch
from ignite.handlers import EarlyStopping, EMAHandler, ProgressBar
from ignite.metrics import Accuracy, RunningAverage
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leyden.engine import Engine, Events
from leyden.handlers import (
    GradientAccumulation,
    GradientClipping,
    NanTermination,
    OptimizerStep,
    Stopping,
    Validation,
)

__all__ = ["main"]


def loaders() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Give the digits that ship with scikit-learn: for training and for validation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    train, val = TensorDataset(x[:1500], y[:1500]), TensorDataset(x[1500:], y[1500:])
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=128)


def main(max_epochs: int = 12, *, show: bool = True) -> float:
    """Train, and give the best validation accuracy."""
    torch.manual_seed(0)
    train, val = loaders()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    # The function of a batch returns its loss; what to do with a loss is OptimizerStep's to know.
    def step(engine: Engine, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def evaluation_step(engine: Engine, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = batch
        return model(x), y

    trainer, evaluator = Engine(step), Engine(evaluation_step)
    scores: list[float] = []

    def validate(on_epoch: bool) -> None:
        model.eval()
        with torch.no_grad():
            evaluator.run(val, max_epochs=1)
        model.train()
        scores.append(evaluator.state.metrics["accuracy"])

    stopping = Stopping(max_steps=2000)
    handlers = [
        OptimizerStep(optimizer, model),
        GradientAccumulation({0: 1, 2: 2}),
        GradientClipping(1.0),
        NanTermination(),
        Validation(validate),
        stopping,
    ]
    for handler in handlers:
        handler.attach(trainer)

    # ignite's own handlers and metrics attach to the same engines.
    Accuracy().attach(evaluator, "accuracy")
    RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
    EMAHandler(model, momentum=0.01).attach(trainer, event=Events.ITERATION_COMPLETED)
    patience = EarlyStopping(3, lambda engine: engine.state.metrics["accuracy"], trainer)
    evaluator.add_event_handler(Events.COMPLETED, patience)
    if show:
        ProgressBar().attach(trainer, ["loss"])

    trainer.run(train, max_epochs=max_epochs)
    if show:
        print(f"accuracy {max(scores):.3f} after {trainer.state.epoch} epochs")
        for entry in trainer.entries():
            name = getattr(entry.handler, "__qualname__", type(entry.handler).__name__)
            print(f"{entry.event.name:24}{entry.order:>5g}  {name}")
    return max(scores)


if __name__ == "__main__":
    main()

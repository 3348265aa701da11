"""A bare engine with a hand-written step, for tests of one handler at a time."""

from __future__ import annotations

from typing import Any

import torch

from leyden.engine import Engine, Events
from leyden.handlers import Handler, OptimizerStep

BATCHES = 4


def batches(count: int = BATCHES) -> list[torch.Tensor]:
    """The same data each time it is asked for."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 2, generator=generator) for _ in range(count)]


class Small:
    """A linear model on an engine whose function returns the loss.

    Args:
        handlers: attached in this order, after ``OptimizerStep`` unless ``step_last``.
        scale: multiplies the loss.
    """

    def __init__(self, *handlers: Handler, step_last: bool = False, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scale = scale
        self.engine = Engine(self.loss, data_ends_epoch=True, reraise=True)
        self.step = OptimizerStep(self.optimizer, self.model)
        order = [*handlers, self.step] if step_last else [self.step, *handlers]
        for handler in order:
            handler.attach(self.engine)

    def loss(self, engine: Engine, batch: torch.Tensor) -> torch.Tensor:
        return self.model(batch).pow(2).mean() * self.scale

    @property
    def state(self) -> Any:
        return self.engine.state

    def run(self, epochs: int = 2, count: int = BATCHES) -> Small:
        self.engine.run(batches(count), max_epochs=epochs, epoch_length=count)
        return self

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def by_hand(
    epochs: int = 2, count: int = BATCHES, factor: int = 1, limit: float | None = None
) -> torch.Tensor:
    """The weights after a plain loop over the same data."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for index, batch in enumerate(batches(count)):
            (model(batch).pow(2).mean() / factor).backward()
            if (index + 1) % factor == 0 or index + 1 == count:
                if limit is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
                optimizer.step()
                optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def record(engine: Engine, *events: Any) -> list[str]:
    """The names of these events, as they are fired, in a list that fills."""
    seen: list[str] = []
    for event in events or (Events.ITERATION_COMPLETED,):
        engine.listen(event, lambda engine, name=event.name: seen.append(name), order=0.5)
    return seen

"""The same training in different frameworks; each function gives a number of its stopwatch."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import ignite.engine
import torch
from torch import Tensor, nn

import leyden
from benchmarks.harness import Batches
from leyden.engine import Engine, Events

__all__ = [
    "IGNITE",
    "LEYDEN",
    "LEYDEN_OFF",
    "LIGHTNING_OFF",
    "HandWritten",
    "accelerate_loop",
    "empty",
    "engine_loop",
    "leyden_fit",
    "lightning_fit",
    "module_of",
    "timed",
]

LEYDEN_OFF: dict[str, Any] = {
    "logger": False,
    "checkpoint_callback": False,
    "progress_bar_refresh_rate": 0,
    "weights_summary": None,
}
LIGHTNING_OFF: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
NAMES = tuple(f"value_{i}" for i in range(10))


def small_net() -> nn.Module:
    """What a step of about 115 us needs."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def small_batch() -> tuple[Tensor, Tensor]:
    """Digits-sized."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(32, 64, generator=generator), torch.arange(32) % 10


@functools.cache
def module_of(base: type) -> type:
    """The model as a LightningModule, of leyden or of Lightning: the same text for both."""

    class Net(base):  # type: ignore[misc]
        """A network, its loss, and as many logged values as asked for."""

        def __init__(self, net: nn.Module, logs: int = 0, lr: float = 0.05) -> None:
            super().__init__()
            self.net = net
            self.names = NAMES[:logs]
            self.lr = lr

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            loss = nn.functional.cross_entropy(self.net(x), y)
            for name in self.names:
                self.log(name, loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    return Net


class HandWritten:
    """The loop that everything is compared with."""

    def __init__(self, net: nn.Module) -> None:
        self.model = module_of(leyden.LightningModule)(net)
        self.optimizer = self.model.configure_optimizers()
        self.model.train()

    def __call__(self, data: Iterable[Any]) -> None:
        """Run one epoch."""
        model, optimizer = self.model, self.optimizer
        for batch_idx, batch in enumerate(data):
            loss = model.training_step(batch, batch_idx)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def engine_loop(kind: Any, net: nn.Module, data: Any, epochs: int = 1) -> None:
    """A hand-written step in an engine: leyden's or ignite's."""
    model = module_of(leyden.LightningModule)(net)
    optimizer = model.configure_optimizers()
    model.train()

    def step(engine: Any, batch: Any) -> Tensor:
        loss: Tensor = model.training_step(batch, engine.state.iteration)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    kind(step).run(data, max_epochs=epochs)


def leyden_fit(net: nn.Module, data: Any, epochs: int = 1, logs: int = 0, **arguments: Any) -> None:
    """leyden's Trainer."""
    model = module_of(leyden.LightningModule)(net, logs)
    leyden.Trainer(max_epochs=epochs, **arguments).fit(model, data)


def lightning_fit(
    net: nn.Module, data: Any, epochs: int = 1, logs: int = 0, **arguments: Any
) -> None:
    """Lightning's Trainer."""
    import lightning.pytorch

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model = module_of(lightning.pytorch.LightningModule)(net, logs)
    trainer = lightning.pytorch.Trainer(max_epochs=epochs, accelerator="cpu", **arguments)
    trainer.fit(model, data)


def accelerate_loop(net: nn.Module, data: Any, epochs: int = 1) -> None:
    """Accelerate: the hand-written loop with its wrapped model, optimizer and loader."""
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = module_of(leyden.LightningModule)(net)
    prepared = accelerator.prepare(model, model.configure_optimizers(), data)
    model, optimizer, data = prepared
    model.train()
    for _ in range(epochs):
        for batch_idx, batch in enumerate(data):
            loss = model.training_step(batch, batch_idx)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()


def nothing(engine: Any, batch: Any) -> None:
    """An empty step."""


def empty(kind: Any, size: int, slices: int = 15, handlers: int = 0) -> Callable[[], float]:
    """Microseconds of an iteration of an engine with an empty step, over a for loop's."""

    def base(data: Iterable[Any]) -> None:
        for batch in data:
            nothing(None, batch)

    def run() -> float:
        engine = kind(nothing)
        engine.logger.setLevel(logging.WARNING)
        for _ in range(handlers):
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=100), lambda engine: None)
        batches = Batches(None, base, size, slices)
        engine.run(batches, max_epochs=1)
        return batches.over

    return run


def timed(run: Callable[..., None], slices: int, **arguments: Any) -> Callable[[], float]:
    """Microseconds of an iteration of ``run(net, batches, **arguments)`` over the hand-written."""

    def go() -> float:
        # Short slices, so that many pairs bear the noise; as long as a row of the log is written in
        # each, which is every 50 steps.
        batches = Batches(small_batch(), HandWritten(small_net()), 50, slices)
        run(small_net(), batches, **arguments)
        return batches.over

    return go


IGNITE: Any = ignite.engine.Engine
LEYDEN: Any = Engine

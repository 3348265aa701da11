"""A module with everything that a search can change, and a fingerprint of all of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader, TensorDataset

import leyden


def rows(count: int = 48) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(count, 5, generator=generator), torch.randn(count, 1, generator=generator)
    )


class Rich(leyden.LightningModule):
    """Weights, buffers, dropout, batch norm, counters, a metric, a generator, a frozen layer.

    Args:
        limit: batches above it run out of memory.
        trouble: called at each of the module's hooks, with its name.
    """

    def __init__(
        self,
        lr: float = 0.01,
        batch_size: int = 4,
        limit: int = 10**9,
        trouble: Callable[[str], None] = lambda hook: None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters("lr", "batch_size")
        torch.manual_seed(3)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3)
        )
        self.head = torch.nn.Linear(8, 1)
        self.frozen = torch.nn.Linear(1, 1).requires_grad_(False).eval()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.total = torch.zeros(2)  # a tensor that is no buffer, as metrics have
        self.history: list[float] = []
        self.counts = {"steps": 0, "nested": [0]}
        self.generator = torch.Generator().manual_seed(5)
        self.own_random = random.Random(4)
        self.loader_generator = torch.Generator().manual_seed(6)
        self.rows = rows()
        self.limit = limit
        self.trouble = trouble

    def setup(self, stage: str) -> None:
        self.trouble("setup")
        self.extra = torch.nn.Linear(2, 2)  # made anew in each run
        self.register_buffer("late", torch.rand(3))

    def on_train_start(self) -> None:
        self.trouble("on_train_start")
        self.frozen.requires_grad_(True)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        if len(x) > self.limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1.00 GiB")
        self.trouble("training_step")
        x = x + 0.01 * torch.randn(x.shape, generator=self.generator) + self.own_random.random()
        x = x + 0.01 * random.random() + 0.01 * float(numpy.random.rand())
        loss = torch.nn.functional.mse_loss(self.frozen(self.head(self.net(x))), y)
        self.seen += 1
        self.total[0] += len(x)
        self.history.append(loss.item())
        self.counts["steps"] += 1
        self.counts["nested"][0] += 2
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.trouble("validation_step")
        self.log("val_loss", torch.nn.functional.mse_loss(self.head(self.net(batch[0])), batch[1]))

    def on_train_end(self) -> None:
        self.trouble("on_train_end")

    def configure_optimizers(self) -> Any:
        self.trouble("configure_optimizers")
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]

    def train_dataloader(self) -> DataLoader[Any]:
        size = self.hparams["batch_size"]
        return DataLoader(self.rows, batch_size=size, shuffle=True, generator=self.loader_generator)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(rows(8), batch_size=4)


def fingerprint(module: Any, trainer: Any, folder: Path) -> dict[str, Any]:
    """Everything there is, as values that compare: bits, not tolerances."""
    found: dict[str, Any] = {}
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        found[f"tensor {name}"] = _bits(value), value.requires_grad, id(value)
        found[f"grad {name}"] = None if value.grad is None else _bits(value.grad)
    for name, part in module.named_modules():
        found[f"attributes {name}"] = sorted(vars(part)), part.training
    found["total"] = _bits(module.total), id(module.total)
    plain = (list(module.history), str(module.counts), id(module.history))
    found["plain"] = plain, dict(module.hparams), id(module.counts["nested"])
    found["generators"] = (
        _bits(module.generator.get_state()),
        module.own_random.getstate(),
        _bits(module.loader_generator.get_state()),
    )
    found["streams"] = (
        random.getstate(),
        _bits(torch.get_rng_state()),
        numpy.random.get_state()[1].tobytes(),  # type: ignore[index,union-attr]
        torch.is_grad_enabled(),
    )
    found["trainer"] = (
        trainer.current_epoch,
        trainer.global_step,
        trainer.batch_idx,
        trainer.state,
        trainer.interrupted,
        trainer.should_stop,
        trainer.max_steps,
        trainer.max_epochs,
        trainer.auto_lr_find,
    )
    found["parts"] = (
        id(trainer._run),
        id(trainer.logger),
        [id(callback) for callback in trainer.callbacks],
        trainer.handlers.names(),
        [id(optimizer) for optimizer in trainer.optimizers],
        id(trainer.train_dataloader),
    )
    for kind in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
        found[kind] = {name: float(value) for name, value in getattr(trainer, kind).items()}
    for index, optimizer in enumerate(trainer.optimizers):
        found[f"optimizer {index}"] = _deep(optimizer.state_dict())
    for index, entry in enumerate(trainer.lr_schedulers):
        found[f"scheduler {index}"] = _deep(entry["scheduler"].state_dict())
    found["files"] = {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }
    return found


def _bits(value: torch.Tensor) -> bytes:
    return value.detach().clone().contiguous().numpy().tobytes()


def _deep(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _bits(value)
    if isinstance(value, dict):
        return {key: _deep(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_deep(item) for item in value]
    return value

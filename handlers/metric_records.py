"""What the recorder keeps: one record a name and hook, one stage an epoch or evaluation run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leyden.handlers.metric_reduce import Accumulator

__all__ = ["Nowhere", "Record", "Stage"]


class Nowhere:
    """The position before a run is bound."""

    epoch = 0
    iteration = 0
    batch: Any = None
    batch_idx = 0
    global_step = 0
    optimizer_idx: int | None = None
    split_idx: int | None = None


class Record:
    """One name logged from one hook: its settings, its latest value, its running mean."""

    __slots__ = (
        "acc",
        "bar_key",
        "enable_graph",
        "epoch_key",
        "flags",
        "forked",
        "hook",
        "key",
        "loader",
        "logger",
        "name",
        "on_epoch",
        "on_step",
        "optimizer_idx",
        "parts",
        "pending",
        "prog_bar",
        "row_key",
        "shown",
        "split_idx",
        "step_key",
        "value",
        "weighted",
    )

    def __init__(self, name: str, hook: str) -> None:
        self.name = name
        self.hook = hook
        self.key = self.step_key = self.epoch_key = self.row_key = name
        self.loader: int | None = None
        self.flags: tuple[Any, ...] = ()
        self.prog_bar = self.logger = self.shown = False
        self.on_step = self.on_epoch = self.forked = False
        self.enable_graph = False
        self.weighted = False
        self.acc: Accumulator | None = None
        self.value: Any = None
        self.pending = False
        self.optimizer_idx: int | None = None
        self.split_idx: int | None = None
        self.parts: list[Any] | None = None

    def bare(self) -> Any:
        """The value under the plain name of a forked metric: the batch's, over all its splits."""
        if self.parts is None:
            return self.value
        parts, self.parts = [*self.parts, self.value], None
        if isinstance(self.value, Tensor):
            return torch.stack([torch.as_tensor(p, device=self.value.device) for p in parts]).mean()
        return sum(parts) / len(parts)


class Stage:
    """The records of one training epoch or one evaluation run."""

    __slots__ = (
        "callback",
        "carried",
        "loader",
        "loaders",
        "name",
        "pending",
        "records",
        "row",
        "rows",
        "tables",
        "weight",
    )

    def __init__(self, name: str, loaders: int = 1) -> None:
        self.name = name
        self.loaders = loaders
        self.loader = 0
        self.records: list[Record] = []
        self.tables: list[dict[str | None, dict[str, Record]]] = [
            {} for _ in range(max(loaders, 1))
        ]
        self.pending: list[Record] = []
        self.weight = 0
        self.callback: dict[str, tuple[Any, int | None]] = {}
        self.row: dict[str, Any] = {}
        self.carried: dict[str, Any] = {}
        self.rows: list[tuple[dict[str, Any], int]] = []

"""One name logged from one hook: its settings, its latest value, its running reduction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.metric_objects import batch_value
from leyden.handlers.metric_reduce import Accumulator, reduction_of
from leyden.handlers.metric_rules import Rules
from leyden.handlers.metric_sync import op_name, world_size

__all__ = ["FLAG_NAMES", "Record"]

FLAG_NAMES = (
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "reduce_fx",
    "enable_graph",
    "sync_dist",
    "sync_dist_op",
    "sync_dist_group",
    "add_dataloader_idx",
    "rank_zero_only",
)
"""The settings of a metric, in the order in which a record holds them."""
_WHEN = slice(FLAG_NAMES.index("on_step"), FLAG_NAMES.index("on_epoch") + 1)


class Record:
    """One name logged from one hook: its settings, its latest value, its running reduction.

    Attributes:
        key: the plain name, with the loader's suffix; `step_key`, `epoch_key` and `row_key` are
            the names of the step's value, the epoch's value and the step's value in the logger.
        forked: logged per step and per epoch, so that both names carry a suffix.
        shown: whether anybody sees it: the logger or the bar, and then the callbacks too.
        weighted: whether the batch size weighs the value.
        value: the newest value; `pending` until the batch that logged it is over.
        parts: earlier values of the same batch, from other splits of it.
        computed: what a metric object came to when the epoch's values were last shown.
        acc: the running reduction; None if nothing is asked for the epoch or `metric` does it.
        other: the running reduction of a call with other settings, in the same batches.
    """

    __slots__ = (
        "acc",
        "computed",
        "enable_graph",
        "epoch_key",
        "flags",
        "forked",
        "key",
        "loader",
        "logger",
        "metric",
        "name",
        "on_epoch",
        "on_step",
        "optimizer_idx",
        "other",
        "parts",
        "pending",
        "prog_bar",
        "row_key",
        "rules",
        "shown",
        "split_idx",
        "step_key",
        "sync",
        "value",
        "weighted",
    )

    def __init__(self, name: str, rules: Rules) -> None:
        self.name = name
        self.rules = rules
        self.flags: tuple[Any, ...] = ()
        self.loader: int | None = None
        self.key = self.step_key = self.epoch_key = self.row_key = name
        self.prog_bar = self.logger = self.shown = False
        self.on_step = self.on_epoch = self.forked = False
        self.enable_graph = False
        self.weighted = not rules.epoch_level
        self.sync: tuple[str, Any] | None = None
        self.acc: Accumulator | None = None
        self.other: Accumulator | None = None
        self.metric: Any = None
        self.computed: Any = None
        self.value: Any = None
        self.pending = False
        self.parts: list[Any] | None = None
        self.optimizer_idx: int | None = None
        self.split_idx: int | None = None

    @property
    def hook(self) -> str:
        """The hook it is logged from."""
        return str(self.rules.hook)

    def configure(self, flags: tuple[Any, ...], loader: int | None, epoch: int | None) -> None:
        """Take the settings of ``self.log``; what was gathered stays if it is reduced alike.

        Args:
            flags: the settings, as in `FLAG_NAMES`.
            loader: the data loader it belongs to, where there are several.
            epoch: the number of the epoch in an evaluation run, None in training.
        """
        prog_bar, logger, on_step, on_epoch, reduce_fx, graph, sync, sync_op, group, add, zero = (
            flags
        )
        step, per_epoch = self.rules.when(self.name, on_step, on_epoch)
        if sync and zero and world_size(group) > 1:
            raise MisconfigurationException(
                f"self.log({self.name!r}, sync_dist=True, rank_zero_only=True) in {self.hook}: rank"
                " 0 would wait for processes that never come: give one of the two"
            )
        self.sync = (op_name(sync_op, self.name, self.hook), group) if sync else None
        reduction = reduction_of(reduce_fx, self.name, self.hook)
        self.flags = flags
        self.prog_bar, self.logger = bool(prog_bar), bool(logger)
        self.shown = self.prog_bar or self.logger
        self.enable_graph = bool(graph)
        suffix = ""
        if loader is not None and add and not self.rules.epoch_level:
            self.loader = loader
            suffix = f"/dataloader_idx_{loader}"
        self._set_when(step, per_epoch, suffix, epoch)
        if self.metric is not None:
            self.acc = None
        elif not per_epoch:
            self.acc, self.other = None, self.acc or self.other
        elif self.acc is None or not self.acc.reduces(reduction):
            known = self.other if self.other and self.other.reduces(reduction) else None
            self.acc, self.other = known or Accumulator(reduction), self.acc

    def _set_when(self, step: bool, per_epoch: bool, suffix: str, epoch: int | None) -> None:
        self.on_step, self.on_epoch, self.forked = step, per_epoch, step and per_epoch
        self.key = self.name + suffix
        self.step_key = f"{self.name}_step{suffix}" if self.forked else self.key
        self.epoch_key = f"{self.name}_epoch{suffix}" if self.forked else self.key
        # Each evaluation run draws a curve of its own over the batch index.
        self.row_key = self.step_key if epoch is None else f"{self.step_key}/epoch_{epoch}"

    def metric_value(self, metric: Any) -> Tensor | None:
        """Take a metric object, and return its value of the running batch if that is asked for.

        Without one, where nobody asked in so many words, it is a metric of the epoch only.
        """
        self.metric = metric
        self.acc = None
        if not self.on_step:
            return None
        value = batch_value(metric)
        if value is None:
            if self.flags[FLAG_NAMES.index("on_step")]:
                raise MisconfigurationException(
                    f"self.log({self.name!r}, on_step=True) in {self.hook}: the metric object"
                    f" {type(metric).__name__} holds no value of the batch: call it"
                    " (metric(preds, target)) instead of metric.update(...), or leave on_step out"
                )
            self._set_when(False, True, self.key[len(self.name) :], None)
        return value

    def bare(self) -> Any:
        """The batch's value under the plain name of a forked metric, over all its splits."""
        if self.parts is None:
            return self.value
        parts, self.parts = [*self.parts, self.value], None
        if isinstance(self.value, Tensor):
            return torch.stack([torch.as_tensor(p, device=self.value.device) for p in parts]).mean()
        return sum(parts) / len(parts)

    def repeats(self, position: Any) -> bool:
        """Whether the value of this very step, split and optimizer is there already."""
        return (
            self.pending
            and self.optimizer_idx == position.optimizer_idx
            and self.split_idx == position.split_idx
        )

    def joined(self, flags: tuple[Any, ...]) -> tuple[Any, ...]:
        """The settings of a second call: the names that the first one made per step stay."""
        step, per_epoch = self.rules.when(self.name, *flags[_WHEN])
        if self.forked and not (step and per_epoch):
            return (*flags[: _WHEN.start], True, True, *flags[_WHEN.stop :])
        return flags

    def retract(self) -> None:
        """Take the value of this step back: another call with other settings takes its place."""
        self.pending = False
        if self.acc is not None and self.acc.values:
            self.acc.values.pop()
            self.acc.weights.pop()

    def forget(self) -> None:
        """Drop every value; a metric object is reset."""
        self.pending = False
        self.parts = self.computed = self.other = None
        if self.acc is not None:
            self.acc.clear()
        if self.metric is not None:
            self.metric.reset()

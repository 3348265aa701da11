"""The recorder behind ``self.log``: values stay tensors until a row is written or read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.metric_records import Nowhere, Record, Stage
from leyden.handlers.metric_reduce import FLUSH_EVERY, Accumulator, reduction_of
from leyden.handlers.metric_rules import rules_of
from leyden.handlers.metric_values import (
    LazyScalars,
    as_scalar,
    batch_size_of,
    check_name,
    host_scalars,
)

__all__ = ["MetricRecorder"]


class MetricRecorder:
    """Keeps what ``self.log`` is given and hands it to the metric dicts and the logger.

    Between two written rows nothing is read from a device, formatted or reduced: a value is
    detached and appended to a list.

    Args:
        log_every_n_steps: a step row goes to the logger when the number of the step, counted
            from 1, is a multiple of it; 0 never.
        move_metrics_to_cpu: keep logged tensors in host memory. This waits for the device on each
            logged value, and is worth it only where device memory is short.
        logger: gets ``agg_and_log_metrics(scalars, step=...)``; None keeps the dicts only.
        fast_dev_run: write every step.

    Attributes:
        callback_metrics: the newest value of everything shown, tensors as tensors.
        logged_metrics: what went to the logger, as numbers, with ``epoch``.
        progress_bar_metrics: what was logged with ``prog_bar=True``, as numbers.
        hook: the name of the hook or step that runs now; whoever calls user code assigns it.
        stage: "train", "sanity", "validate", "test" or "predict".
    """

    state_keys = ("train", "callback_metrics", "logged_metrics", "progress_bar_metrics")

    def __init__(
        self,
        *,
        log_every_n_steps: int = 50,
        move_metrics_to_cpu: bool = False,
        logger: Any = None,
        fast_dev_run: bool = False,
    ) -> None:
        self.log_every_n_steps = log_every_n_steps
        self.move_metrics_to_cpu = move_metrics_to_cpu
        self.logger = logger
        self.fast_dev_run = fast_dev_run
        self.callback_metrics: dict[str, Any] = {}
        self.logged_metrics = LazyScalars()
        self.progress_bar_metrics = LazyScalars()
        self.hook: str | None = None
        self._state: Any = Nowhere()
        self._train = Stage("train")
        self._outer: list[Stage] = []
        self._batch: Any = None
        self._batch_idx = 0
        self._batches = 0
        self._since_flush = 0
        self._grad_norms: dict[str, Any] = {}
        self._legacy: dict[str, Any] = {}
        self._restored = False
        self._enter(self._train)

    def bind(self, state: Any) -> None:
        """Read the position (epoch, global step, batch) from `state` from now on."""
        self._state = state

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self.stage = stage.name
        self._tables = stage.tables[stage.loader]
        self._pending = stage.pending
        self._weight = stage.weight

    # self.log ----------------------------------------------------------------------------------

    def log(
        self,
        module: Any,
        name: str,
        value: Any,
        prog_bar: bool,
        logger: bool,
        on_step: bool | None,
        on_epoch: bool | None,
        reduce_fx: Any,
        enable_graph: bool,
        sync_dist: bool,
        sync_dist_op: Any,
        sync_dist_group: Any,
        add_dataloader_idx: bool,
        batch_size: int | None,
        rank_zero_only: bool,
    ) -> None:
        """Take one value; ``LightningModule.log`` says what the arguments mean."""
        flags = (
            prog_bar,
            logger,
            on_step,
            on_epoch,
            reduce_fx,
            enable_graph,
            sync_dist,
            sync_dist_op,
            sync_dist_group,
            add_dataloader_idx,
            rank_zero_only,
        )
        try:
            record = self._tables[self.hook][name]
        except (KeyError, TypeError):
            found = self._register(name, flags)
            if found is None:
                return
            record = found
        else:
            if record.flags != flags:
                self._change(record, flags)
        kind = type(value)
        if kind is Tensor and not value.dim():
            if not record.enable_graph:
                # A result of the graph is not written to again; whatever may be (a buffer, a
                # parameter, a running sum) is copied, so that the mean sees today's value.
                if value.is_leaf or value._version or value._is_view():
                    value = value.detach().clone() if value.requires_grad else value.clone()
                else:
                    value = value.detach()
            if self.move_metrics_to_cpu:
                value = value.cpu()
        elif kind is not float and kind is not int:
            value = self._slow_value(record, value)
        state = self._state
        if record.pending:
            self._again(record)
        else:
            record.pending = True
            self._pending.append(record)
        record.optimizer_idx = state.optimizer_idx
        record.split_idx = state.split_idx
        record.value = value
        acc = record.acc
        if acc is not None:
            acc.values.append(value)
            if record.weighted:
                if batch_size is None:
                    acc.weights.append(self._weight or self._find_weight())
                else:
                    acc.weights.append(self._given_weight(batch_size, name))
            else:
                acc.weights.append(1)

    def _slow_value(self, record: Record, value: Any) -> Any:
        """A value that is neither a plain tensor without dimensions nor a plain number."""
        value = as_scalar(value, record.name, self.hook)
        if isinstance(value, Tensor):
            if not record.enable_graph:
                value = value.detach().clone()
            if self.move_metrics_to_cpu:
                value = value.cpu()
        return value

    def _find_weight(self) -> int:
        """The size of the running batch, looked for once a batch and only if it is needed."""
        batch = self._batch if self._outer else self._state.batch
        self._weight = batch_size_of(batch)
        return self._weight

    def _given_weight(self, batch_size: Any, name: str) -> int:
        if type(batch_size) is int and batch_size >= 0:
            return batch_size
        try:
            size = int(batch_size)
        except (TypeError, ValueError):
            size = -1
        if size < 0:
            raise MisconfigurationException(
                f"self.log({name!r}, batch_size={batch_size!r}) in {self.hook}: pass the number of"
                " samples in the batch, 0 or more"
            )
        return size

    def _again(self, record: Record) -> None:
        """The record has a value of this batch already: another split or optimizer, or a repeat."""
        state = self._state
        if record.optimizer_idx == state.optimizer_idx and record.split_idx == state.split_idx:
            # Logged twice in one call of the hook: the last one counts, as in Lightning 1.1.8.
            if record.acc is not None and record.acc.values:
                record.acc.values.pop()
                record.acc.weights.pop()
        elif record.split_idx != state.split_idx and record.on_step:
            record.parts = [*(record.parts or ()), record.value]

    def _register(self, name: str, flags: tuple[Any, ...]) -> Record | None:
        """The first call of a name in a hook: check it, and make its record."""
        rules = rules_of(self.hook)
        if rules.dropped:
            return None
        check_name(name, rules.hook)
        assert rules.hook is not None
        record = Record(name, rules.hook)
        self._configure(record, flags)
        if record.loader is None and self._stage.loaders > 1:
            for table in self._stage.tables:
                table.setdefault(rules.hook, {})[name] = record
        else:
            self._tables.setdefault(rules.hook, {})[name] = record
        self._stage.records.append(record)
        return record

    def _change(self, record: Record, flags: tuple[Any, ...]) -> None:
        """The name came with other flags than before: fine in another batch, an error in this."""
        state = self._state
        if (
            record.pending
            and record.optimizer_idx == state.optimizer_idx
            and record.split_idx == state.split_idx
        ):
            names = (
                "prog_bar logger on_step on_epoch reduce_fx enable_graph sync_dist sync_dist_op"
                " sync_dist_group add_dataloader_idx rank_zero_only"
            ).split()
            changed = ", ".join(
                f"{n}={old!r} and {n}={new!r}"
                for n, old, new in zip(names, record.flags, flags, strict=True)
                if old is not new and old != new
            )
            raise MisconfigurationException(
                f"self.log({record.name!r}) was called twice in one {record.hook}, with {changed}:"
                " give both calls the same settings, or different names"
            )
        self._configure(record, flags)

    def _configure(self, record: Record, flags: tuple[Any, ...]) -> None:
        (prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, *_, add_index, _zero) = flags
        rules = rules_of(record.hook)
        record.on_step, record.on_epoch = rules.when(record.name, on_step, on_epoch)
        record.flags = flags
        record.prog_bar, record.logger = bool(prog_bar), bool(logger)
        record.shown = record.prog_bar or record.logger
        record.enable_graph = bool(enable_graph)
        record.weighted = not rules.epoch_level
        record.forked = record.on_step and record.on_epoch
        stage = self._stage
        suffix = ""
        if stage is not self._train and stage.loaders > 1 and add_index and not rules.epoch_level:
            record.loader = stage.loader
            suffix = f"/dataloader_idx_{stage.loader}"
        name = record.name
        record.key = name + suffix
        record.step_key = f"{name}_step{suffix}" if record.forked else record.key
        record.epoch_key = f"{name}_epoch{suffix}" if record.forked else record.key
        record.row_key = record.step_key
        if stage is not self._train:
            record.row_key = f"{record.step_key}/epoch_{self._epoch()}"
        if not record.on_epoch:
            record.acc = None
        else:
            reduction = reduction_of(reduce_fx, name, record.hook)
            if record.acc is None or not record.acc.reduces(reduction):
                record.acc = Accumulator(reduction)

    # training ----------------------------------------------------------------------------------

    def train_epoch_started(self, *, resumed: bool = False) -> None:
        """A training epoch begins, or goes on after a restored state or with `resumed`."""
        if self._batches and not resumed and not self._restored:
            # The epoch before was abandoned in its middle.
            self._clear_train()
        self._restored = False

    def train_step_output(self, output: Mapping[str, Any], loss: Any) -> None:
        """Take the dict of a training step that logs by its 'log' and 'progress_bar' entries."""
        shown = {"loss": loss} if loss is not None else {}
        self._take_legacy({**output, **shown}, None)

    def train_batch_ended(self, *, write: bool, force: bool = False) -> None:
        """Show the batch's values, and write a row if one is due.

        Args:
            write: whether the batch ended a group of accumulated gradients; only then is a row
                written.
            force: write although the step's number is not a multiple (the run is to stop).
        """
        self._weight = 0
        self._batches += 1
        pending = self._pending
        if not pending and not self._legacy and not self._grad_norms:
            return
        row: dict[str, Any] | None = {} if write and self.row_due(force) else None
        callback = self.callback_metrics
        for record in pending:
            record.pending = False
            if not (record.on_step and record.shown):
                record.parts = None
                continue
            value = record.value
            callback[record.step_key] = value
            if record.forked:
                callback[record.key] = record.bare()
            if record.logger:
                self.logged_metrics[record.step_key] = value
                self.logged_metrics.stale = True
                if row is not None:
                    row[record.row_key] = value
            if record.prog_bar:
                self.progress_bar_metrics[record.step_key] = value
                self.progress_bar_metrics.stale = True
        pending.clear()
        self._since_flush += 1
        if self._since_flush == FLUSH_EVERY:
            self._flush(self._train)
        if row is not None:
            row.update(self._legacy)
            row.update(self._grad_norms)
            callback.update(self._grad_norms)
            if row:
                self._write(row)
        self._legacy.clear()
        self._grad_norms.clear()

    def row_due(self, force: bool = False) -> bool:
        """Whether the running step's row goes to the logger; who measures only for the row asks."""
        every = self.log_every_n_steps
        if force or self.fast_dev_run:
            return True
        return every > 0 and (self._state.global_step + 1) % every == 0

    def train_epoch_ended(self, epoch_end_result: Any = None) -> None:
        """Reduce the epoch's values, show and write them, and begin anew.

        Call it after the epoch-end hooks and ``training_epoch_end``.

        Args:
            epoch_end_result: what ``training_epoch_end`` returned.
        """
        row = self._reduce(self._train)
        row.update(self._take_results(epoch_end_result))
        if row:
            self._write(row)
        self._clear_train()

    def _clear_train(self) -> None:
        stage = self._train
        for record in stage.records:
            if record.acc is not None:
                record.acc.clear()
            record.pending = False
            record.parts = None
        stage.pending.clear()
        self._batches = self._since_flush = 0
        self._legacy.clear()
        self._grad_norms.clear()

    # evaluation --------------------------------------------------------------------------------

    def eval_started(self, stage: str, num_loaders: int) -> None:
        """An evaluation run begins; the training epoch around it stays as it is.

        Call it before the hook ``on_validation_start`` (or ``on_test_start``).

        Args:
            stage: "sanity", "validate" or "test".
            num_loaders: how many data loaders it has.
        """
        self._stage.weight = self._weight
        self._outer.append(self._stage)
        self._enter(Stage(stage, num_loaders))

    def eval_batch_started(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """An evaluation batch begins."""
        stage = self._stage
        self._batch = batch
        self._batch_idx = batch_idx
        self._weight = 0
        if dataloader_idx != stage.loader:
            stage.loader = dataloader_idx
            stage.carried.update(stage.row)
            stage.row = {}
            self._tables = stage.tables[dataloader_idx]

    def eval_batch_ended(self, output: Any = None) -> None:
        """Show the batch's step values; `output` is what the step returned."""
        if isinstance(output, Mapping) and ("log" in output or "progress_bar" in output):
            self._take_step_output(output)
        stage = self._stage
        self._batch = None
        if stage.pending:
            row = self._commit_eval(stage)
            if row:
                stage.row = row
                stage.rows.append(({**stage.carried, **row}, self._batch_idx))
        self._weight = 0
        self._since_flush += 1
        if self._since_flush >= FLUSH_EVERY:
            self._flush(stage)
            self._write_steps(stage)

    def _commit_eval(self, stage: Stage) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for record in stage.pending:
            record.pending = False
            if not (record.on_step and record.shown):
                continue
            if record.forked:
                self.callback_metrics[record.key] = record.value
                stage.callback[record.key] = (record.value, record.loader)
            if record.logger:
                row[record.row_key] = record.value
            if record.prog_bar:
                self.progress_bar_metrics[record.step_key] = record.value
                self.progress_bar_metrics.stale = True
        stage.pending.clear()
        return row

    def _write_steps(self, stage: Stage) -> None:
        """Hand the step rows that have gathered to the logger, in one transfer."""
        rows, stage.rows = stage.rows, []
        if not rows or stage.name == "sanity":
            return
        numbers = iter(host_scalars(v for row, _ in rows for v in row.values()))
        for row, step in rows:
            self._write({key: next(numbers) for key in row}, step)

    def eval_epoch_ended(self, epoch_end_result: Any = None) -> list[dict[str, Any]]:
        """Reduce, show and write what was logged; return one dict of numbers a data loader.

        Call it after ``validation_epoch_end`` and ``on_validation_epoch_end``, before
        ``on_validation_end``: the callbacks there read the metrics.

        Args:
            epoch_end_result: what ``validation_epoch_end`` (or ``test_epoch_end``) returned.
        """
        stage = self._stage
        self._commit_eval(stage)
        self._write_steps(stage)
        row = self._reduce(stage)
        row.update(self._take_results(epoch_end_result))
        if row:
            self._write(row)
        numbers = host_scalars(value for value, _ in stage.callback.values())
        found = [
            (key, number, loader)
            for (key, (_, loader)), number in zip(stage.callback.items(), numbers, strict=True)
        ]
        return [
            {key: number for key, number, loader in found if loader is None or loader == i}
            for i in range(stage.loaders)
        ]

    def eval_finished(self) -> None:
        """The evaluation run is over: go on with the training epoch around it.

        What a sanity check left in `callback_metrics` is dropped; a callback must not take it for
        a result.
        """
        if not self._outer:
            return
        if self.stage == "sanity":
            self.callback_metrics.clear()
        self._batch = None
        self._enter(self._outer.pop())

    # shared ------------------------------------------------------------------------------------

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        grad_norms: Mapping[str, Any] | None = None,
        step: int | None = None,
    ) -> None:
        """Write a row of a handler's own numbers.

        Args:
            metrics: written now, if there are any.
            grad_norms: kept for the running batch's row, and dropped if none is due; ask
                `row_due` before measuring them.
            step: the row's number; without it the current step, and the row gets the epoch.
        """
        if grad_norms:
            self._grad_norms.update(grad_norms)
        if metrics:
            self._write(dict(metrics), step)

    def _epoch(self) -> int:
        return max(int(self._state.epoch) - 1, 0)

    def _flush(self, stage: Stage) -> None:
        self._since_flush = 0
        for record in stage.records:
            if record.acc is not None:
                record.acc.flush()

    def _reduce(self, stage: Stage) -> dict[str, Any]:
        """Reduce every epoch value, show it, and return what the logger gets."""
        row: dict[str, Any] = {}
        for record in stage.records:
            record.pending = False
            value = None if record.acc is None else record.acc.result()
            if value is None or not record.shown:
                continue
            if self.move_metrics_to_cpu:
                value = value.cpu()
            self._show(record.epoch_key, value, record.loader)
            if record.prog_bar:
                self.progress_bar_metrics[record.epoch_key] = value
                self.progress_bar_metrics.stale = True
            if record.logger:
                row[record.epoch_key] = value
        stage.pending.clear()
        return row

    def _show(self, key: str, value: Any, loader: int | None = None) -> None:
        self.callback_metrics[key] = value
        self._stage.callback[key] = (value, loader)

    def _take_results(self, result: Any) -> dict[str, Any]:
        """The dicts an ``*_epoch_end`` method returned, the older way to log."""
        row: dict[str, Any] = {}
        if isinstance(result, Mapping):
            result = [result]
        if isinstance(result, (list, tuple)):
            for part in result:
                if isinstance(part, Mapping):
                    self._take_legacy(part, row)
        return row

    def _take_legacy(self, output: Mapping[str, Any], row: dict[str, Any] | None) -> None:
        """Spread a returned dict over the logger, the bar and the callbacks."""
        logged, bar = _part(output, "log"), _part(output, "progress_bar")
        rest = {
            k: v
            for k, v in output.items()
            if k not in ("log", "progress_bar", "hiddens") and _is_scalar(v)
        }
        for key, value in {**rest, **logged, **bar}.items():
            self._show(key, value.detach() if isinstance(value, Tensor) else value)
        self.progress_bar_metrics.update(_detached(bar))
        self.progress_bar_metrics.stale = True
        if row is None:
            self._legacy.update(_detached(logged))
            self.logged_metrics.update(_detached(logged))
            self.logged_metrics.stale = True
        else:
            row.update(_detached(logged))

    def _take_step_output(self, output: Mapping[str, Any]) -> None:
        """The older dict of an evaluation step: its entries are averaged over the batches."""
        hook, self.hook = self.hook, "validation_step"
        try:
            for part, bar in (("log", False), ("progress_bar", True)):
                for key, value in _part(output, part).items():
                    self.log(
                        None, key, value, bar, not bar, False, True, torch.mean, False, False,
                        "mean", None, True, None, False,
                    )  # fmt: skip
        finally:
            self.hook = hook

    def _write(self, row: dict[str, Any], step: int | None = None) -> None:
        """Hand one row to the logger, read to the host in one transfer, and remember it."""
        if step is None and "step" in row:
            step = int(row.pop("step"))
        elif step is None:
            row["epoch"] = self._epoch()
            step = self._state.global_step
        if self.logger is not None and self.stage != "sanity":
            row = dict(zip(row, host_scalars(row.values()), strict=True))
            self.logger.agg_and_log_metrics(row, step=step)
        else:
            self.logged_metrics.stale = True
        self.logged_metrics.update(row)

    # state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The running values of the training epoch and the dicts, as tensors and plain data."""
        return {
            "train": [
                {
                    "hook": record.hook,
                    "name": record.name,
                    "on_step": record.on_step,
                    "prog_bar": record.prog_bar,
                    "logger": record.logger,
                    "acc": record.acc.state_dict(),
                }
                for record in self._train.records
                if record.acc
            ],
            "batches": self._batches,
            "callback_metrics": dict(self.callback_metrics),
            "logged_metrics": dict(self.logged_metrics),
            "progress_bar_metrics": dict(self.progress_bar_metrics),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state: before the first batch of the resumed run."""
        self._clear_train()
        self._train.records.clear()
        for table in self._train.tables:
            table.clear()
        for saved in state["train"]:
            record = Record(saved["name"], saved["hook"])
            op = saved["acc"]["op"]
            # The function of a custom reduction comes back with the first call of self.log.
            flags = (
                saved["prog_bar"], saved["logger"], saved["on_step"], True,
                torch.cat if op == "keep" else op, False, False, None, None, True, False,
            )  # fmt: skip
            self._configure(record, flags)
            assert record.acc is not None
            record.acc.load_state_dict(saved["acc"])
            self._train.records.append(record)
            self._train.tables[0].setdefault(record.hook, {})[record.name] = record
        self._batches = state["batches"]
        self._restored = True
        self.callback_metrics.clear()
        self.callback_metrics.update(state["callback_metrics"])
        for mine, name in (
            (self.logged_metrics, "logged_metrics"),
            (self.progress_bar_metrics, "progress_bar_metrics"),
        ):
            mine.clear()
            mine.update(state[name])
            mine.stale = True


def _part(output: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = output.get(key)
    return dict(part) if isinstance(part, Mapping) else {}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float)) or isinstance(value, Tensor) and value.numel() == 1


def _detached(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()}

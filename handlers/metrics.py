"""The recorder behind ``self.log``: values stay tensors until a row is written or read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from leyden.handlers.metric_legacy import returned_dicts, split_returned
from leyden.handlers.metric_objects import is_metric
from leyden.handlers.metric_records import Record
from leyden.handlers.metric_reduce import FLUSH_EVERY
from leyden.handlers.metric_rules import rules_of
from leyden.handlers.metric_stage import Nowhere, Stage, share_steps
from leyden.handlers.metric_state import load_stage, place_metrics, save_stage
from leyden.handlers.metric_sync import is_writer
from leyden.handlers.metric_values import (
    LazyScalars,
    as_batch_size,
    as_scalar,
    batch_size_of,
    host_scalars,
)

__all__ = ["MetricRecorder"]


class MetricRecorder:
    """Keeps what ``self.log`` is given and hands it to the metric dicts and the logger.

    Between two written rows nothing is read from a device, formatted or reduced: a value is
    detached and appended to a list.

    Args:
        log_every_n_steps: a step row goes to the logger at each multiple of it; 0 never.
        move_metrics_to_cpu: keep logged tensors in host memory; waits for the device each time.
        logger: gets ``log_row(numbers, step)`` for each row; None keeps the dicts only.
        fast_dev_run: write every step.

    Attributes:
        callback_metrics: the newest value of everything shown, tensors as tensors.
        logged_metrics: what went to the logger, as numbers, with ``epoch``.
        progress_bar_metrics: what was logged with ``prog_bar=True``, as numbers.
        hook: the name of the hook or step that runs now; whoever calls user code assigns it.
        stage: "train", "sanity", "validate", "test" or "predict".
        busy: whether anything was logged since the last `train_batch_ended`.
        monitored: what decisions depend on: reduced over all processes, asked for or not.
    """

    state_keys = ("records", "objects", "batches", "since_flush", "dicts")

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
        self.monitored: frozenset[str] = frozenset()
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
        self._grad_norms: dict[str, Any] = {}
        self._returned: dict[str, Any] = {}
        self.busy = False
        self._restored = False
        self._module: Any = None
        self._unplaced: dict[str, Any] = {}
        self._enter(self._train)

    def bind(self, state: Any, module: Any = None) -> None:
        """Read the position from `state` from now on; called once a run.

        Args:
            state: has ``epoch`` (1-based), ``global_step`` (0-based, of the running step),
                ``batch``, ``optimizer_idx`` and ``split_idx``.
            module: where metric objects are looked for when the state is saved or restored; the
                module of the first ``self.log`` if it is left out.
        """
        self._state = state
        other = module is not None and module is not self._module
        left = not self._batches or (other and self._module is not None)
        if left and not self._restored:
            # Nothing of an epoch is to be kept: this run may log other things by these names.
            self._clear_train()
            self._train.empty()
            self._module = None
        if module is not None:
            self._module = module
            self._place_metrics()

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self.stage = stage.name
        self._tables = stage.tables[stage.loader]
        self._pending = stage.pending
        self._weight = stage.weight

    # self.log ----------------------------------------------------------------------------------

    def log(
        self, module: Any, name: str, value: Any, prog_bar: bool, logger: bool,
        on_step: bool | None, on_epoch: bool | None, reduce_fx: Any, enable_graph: bool,
        sync_dist: bool, sync_dist_op: Any, sync_dist_group: Any, add_dataloader_idx: bool,
        batch_size: int | None, rank_zero_only: bool,
    ) -> None:  # fmt: skip
        """Take one value; ``LightningModule.log`` says what the arguments mean."""
        flags = (
            prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_op,
            sync_dist_group, add_dataloader_idx, rank_zero_only,
        )  # fmt: skip
        try:
            record = self._tables[self.hook][name]
        except (KeyError, TypeError):
            if self._module is None:
                self._module = module
            if not is_metric(value):
                as_scalar(value, name, self.hook)  # the quick way below looks at the shape only
            found = self._stage.register(name, rules_of(self.hook), flags, self._epoch())
            if found is None:
                return
            record = found
        else:
            if record.flags != flags:
                self._stage.change(record, flags, self._state, self._epoch())
        kind = type(value)
        if kind is Tensor and not value.dim():
            if not record.enable_graph:
                # A result of the graph is not written to again; whatever may be (a buffer, a
                # parameter, a running sum) is copied, so that the mean sees today's value.
                if value.is_leaf or value._version or value._is_view():
                    value = value.detach().clone() if value.requires_grad else value.clone()
                else:
                    value = value.data  # detach() that does not share the version: a third faster
            if self.move_metrics_to_cpu:
                value = value.cpu()
        elif kind is not float and kind is not int:
            if is_metric(value):
                value = record.metric_value(value)
            else:
                value = as_scalar(value, name, self.hook)
                if isinstance(value, Tensor):
                    if not record.enable_graph:
                        value = value.detach().clone()
                    if self.move_metrics_to_cpu:
                        value = value.cpu()
        if record.pending:
            self._again(record)
        else:
            record.pending = True
            self._pending.append(record)
        state = self._state
        record.optimizer_idx = state.optimizer_idx
        record.split_idx = state.split_idx
        record.value = value
        self.busy = True
        acc = record.acc
        if acc is not None:
            acc.values.append(value)
            if not record.weighted:
                acc.weights.append(1)
            elif batch_size is None:
                acc.weights.append(self._weight or self._find_weight())
            else:
                acc.weights.append(as_batch_size(batch_size, name, self.hook))

    def _find_weight(self) -> int:
        """The size of the running batch, looked for once a batch and only if it is needed."""
        batch = self._batch if self._outer else self._state.batch
        self._weight = batch_size_of(batch)
        return self._weight

    def _again(self, record: Record) -> None:
        """The record has a value of this batch already: another split or optimizer, or a repeat."""
        if record.repeats(self._state):
            # Logged twice in one call of the hook: the last one counts, as in Lightning 1.1.8.
            if record.acc is not None and record.acc.values:
                record.acc.values.pop()
                record.acc.weights.pop()
        elif record.split_idx != self._state.split_idx and record.forked:
            record.parts = [*(record.parts or ()), record.value]

    # training ----------------------------------------------------------------------------------

    def train_epoch_started(self, *, resumed: bool = False) -> None:
        """A training epoch begins, or goes on after a restored state or with `resumed`."""
        if self._unplaced:
            raise RuntimeError(
                f"the state of the metric objects {sorted(self._unplaced)} was restored, but no"
                " module with them is known: pass it, bind(state, module)"
            )
        if self._batches and not resumed and not self._restored:
            # The epoch before was abandoned in its middle.
            self._clear_train()
        self._restored = False

    def train_step_output(self, output: Mapping[str, Any]) -> None:
        """Take the dict of a training step that logs by its 'log' and 'progress_bar' entries."""
        shown, logged, bar = split_returned(output)
        self.callback_metrics.update(shown)
        self._returned.update(logged)
        self.busy = True
        self.logged_metrics.store(logged)
        self.progress_bar_metrics.store(bar)

    def train_batch_ended(self, *, write: bool, force: bool = False) -> None:
        """Show the batch's values, and write a row if one is due.

        Args:
            write: whether the batch ended a group of accumulated gradients; only then is a row
                written.
            force: write although the step's number is not a multiple (the run is to stop).
        """
        self.busy = False
        self._weight = 0
        self._batches += 1
        pending = self._pending
        if not pending and not self._returned and not self._grad_norms:
            return
        row: dict[str, Any] | None = None
        if write and self.row_due(force):
            row = {}
            share_steps(pending)
        callback, logged = self.callback_metrics, self.logged_metrics
        for record in pending:
            record.pending = False
            if not record.on_step:
                continue
            value, key = record.value, record.step_key
            if record.forked:
                callback[record.key] = value if record.parts is None else record.bare()
                record.parts = None
            if not record.shown:
                continue
            callback[key] = value
            if record.logger:
                logged[key] = value
                if row is not None:
                    row[record.row_key] = value
            if record.prog_bar:
                self.progress_bar_metrics[key] = value
                self.progress_bar_metrics.stale = True
        logged.stale = True
        pending.clear()
        stage = self._train
        stage.since_flush += 1
        if stage.since_flush == FLUSH_EVERY:
            stage.flush()
        if row is not None:
            row.update(self._returned)
            row.update(self._grad_norms)
            callback.update(self._grad_norms)
            if row:
                self._write(row)
        if self._returned or self._grad_norms:
            self._returned.clear()
            self._grad_norms.clear()

    def row_due(self, force: bool = False) -> bool:
        """Whether the running step's row goes to the logger; who measures only for the row asks."""
        every = self.log_every_n_steps
        if every > 0 and (self._state.global_step + 1) % every == 0:
            return True
        return force or self.fast_dev_run

    def train_epoch_ended(self, epoch_end_result: Any = None) -> None:
        """Reduce the epoch's values, show and write them, and begin anew.

        Call it after the epoch-end hooks and ``training_epoch_end``.

        Args:
            epoch_end_result: what ``training_epoch_end`` returned.
        """
        self._finish(epoch_end_result)
        self._clear_train()

    def _clear_train(self) -> None:
        self._train.forget()
        self._train.callback.clear()
        self._batches = 0
        self._returned.clear()
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

    def eval_batch_ended(self) -> None:
        """Show the batch's step values."""
        stage = self._stage
        self._batch = None
        self._weight = 0
        self._show_steps(stage)
        stage.since_flush += 1
        if stage.since_flush == FLUSH_EVERY:
            stage.flush()
            self._write_steps(stage)

    def _show_steps(self, stage: Stage) -> None:
        if stage.pending:
            row = stage.show_steps(
                self.callback_metrics, self.progress_bar_metrics, self._batch_idx
            )
            if self.logger is not None:
                self.logged_metrics.store(row)

    def _write_steps(self, stage: Stage) -> None:
        self._show_steps(stage)
        for row, step in stage.take_rows():
            if stage.name != "sanity" and self.logger is not None:
                self._write(row, step)

    def eval_epoch_ended(self, epoch_end_result: Any = None) -> list[dict[str, Any]]:
        """Reduce, show and write what was logged; return one dict of numbers a data loader.

        Call it after ``validation_epoch_end`` and ``on_validation_epoch_end``, before
        ``on_validation_end``: the callbacks there read the metrics.

        Args:
            epoch_end_result: what ``validation_epoch_end`` (or ``test_epoch_end``) returned, or
                where there is none the last batch's step.
        """
        stage = self._stage
        self._write_steps(stage)
        self._finish(epoch_end_result)
        stage.forget()
        return stage.results()

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

    # rows --------------------------------------------------------------------------------------

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
            self.busy = True
        if metrics:
            self._write(dict(metrics), step)

    def _epoch(self) -> int:
        return max(int(self._state.epoch) - 1, 0)

    def show_epoch(self, *, alone: bool = False) -> None:
        """Show what the epoch's values come to so far, and write nothing.

        Call it before the hooks at the end of an epoch: they read the values, and may log more.

        Args:
            alone: the other processes may not call it now: show what needs none of them.
        """
        self.logged_metrics.store(self._reduced(alone=alone))

    def _reduced(self, *, alone: bool = False) -> dict[str, Any]:
        """Reduce the stage's epoch values and show them; return those for the logger."""
        stage = self._stage
        row: dict[str, Any] = {}
        for record, value in stage.reduced(self.monitored, alone=alone):
            if self.move_metrics_to_cpu:
                value = value.cpu()
            self.callback_metrics[record.epoch_key] = value
            stage.callback[record.epoch_key] = (value, record.loader)
            if record.forked and record.metric is not None:
                # A metric object's plain name is computed over the epoch too.
                self.callback_metrics[record.key] = value
                stage.callback[record.key] = (value, record.loader)
            if record.prog_bar:
                self.progress_bar_metrics.store({record.epoch_key: value})
            if record.logger:
                row[record.epoch_key] = value
        self.logged_metrics["epoch"] = self._epoch()  # also where nothing is logged
        return row

    def _finish(self, returned: Any) -> None:
        """Reduce the stage's epoch values, show them, and write their row."""
        stage, row = self._stage, self._reduced()
        for part in () if stage.name == "sanity" else returned_dicts(returned):
            shown, logged, bar = split_returned(part)
            self.callback_metrics.update(shown)
            stage.callback.update((key, (value, None)) for key, value in shown.items())
            self.progress_bar_metrics.store(bar)
            row.update(logged)
        if row:
            self._write(row)

    def _write(self, row: dict[str, Any], step: int | None = None) -> None:
        """Hand one row to the logger, read to the host in one transfer, and remember it."""
        if step is None and "step" in row:
            step = int(row.pop("step"))
        elif step is None:
            row["epoch"] = self._epoch()
            step = self._state.global_step
        if self.logger is not None and self.stage != "sanity" and is_writer():
            row = dict(zip(row, host_scalars(row.values()), strict=True))
            self.logger.log_row(row, step)
        self.logged_metrics.store(row)

    # state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The running values of the training epoch and the dicts, as tensors and plain data."""
        dicts = (self.callback_metrics, self.logged_metrics, self.progress_bar_metrics)
        return {
            **save_stage(self._train, self._module),
            "batches": self._batches,
            "grad_norms": dict(self._grad_norms),
            "dicts": [
                {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in d.items()}
                for d in dicts
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; call it before the first batch of the resumed run."""
        self._clear_train()
        self._unplaced = load_stage(self._train, state)
        self._batches = state["batches"]
        self._grad_norms = dict(state.get("grad_norms", {}))
        self._restored, self.busy = True, bool(self._train.pending or self._grad_norms)
        self._place_metrics()
        mine = (self.callback_metrics, self.logged_metrics, self.progress_bar_metrics)
        for target, saved in zip(mine, state["dicts"], strict=True):
            target.clear()
            target.update(saved)

    def _place_metrics(self) -> None:
        if self._module is not None and self._unplaced:
            place_metrics(self._module, self._unplaced)
            self._unplaced = {}

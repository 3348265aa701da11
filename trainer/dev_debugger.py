"""``trainer.dev_debugger``: what a run did, for tests that ask for it by ``PL_DEV_DEBUG=1``.

Without the variable nothing of this is attached, and the histories stay empty.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers.base import Handler, Order
from leyden.handlers.metric_legacy import split_returned
from leyden.handlers.metric_values import LazyScalars, host_scalars
from leyden.handlers.metrics import MetricRecorder

__all__ = ["InternalDebugger", "debugger_of", "make_recorder", "watch", "watched_step"]

VARIABLE = "PL_DEV_DEBUG"
#: where ``run.features`` keeps it.
KEY = "dev_debugger"


class InternalDebugger:
    """The histories of one Trainer, with the names and entries of Lightning 1.1's.

    Args:
        trainer: says where the run is.

    Attributes:
        enabled: whether ``PL_DEV_DEBUG`` was 1 when the Trainer was made; else all stays empty.
        events: what :meth:`track_event` was told: one ``"backward_call"`` for each backward pass.
        logged_metrics: the rows that went to the logger, with their ``global_step``.
        pbar_added_metrics: what the progress bar got of a batch, or of an epoch.
        saved_train_losses, saved_val_losses, saved_test_losses: what the steps gave.
        saved_lr_scheduler_updates: each step of a scheduler, the rate before and after it.
        early_stopping_history: each value that an EarlyStopping looked at.
        checkpoint_callback_history: each file that a ModelCheckpoint wrote.
        dataloader_sequence_calls: each time that loaders were asked for; by kind in
            ``train_dataloader_calls``, ``val_dataloader_calls`` and ``test_dataloader_calls``.
    """

    def __init__(self, trainer: Any) -> None:
        self.enabled = os.environ.get(VARIABLE, "0") == "1"
        self.trainer = trainer
        self.events: list[dict[str, Any]] = []
        self.logged_metrics: list[dict[str, Any]] = []
        self.pbar_added_metrics: list[dict[str, Any]] = []
        self.saved_train_losses: list[dict[str, Any]] = []
        self.saved_val_losses: list[dict[str, Any]] = []
        self.saved_test_losses: list[dict[str, Any]] = []
        self.saved_lr_scheduler_updates: list[dict[str, Any]] = []
        self.early_stopping_history: list[dict[str, Any]] = []
        self.checkpoint_callback_history: list[dict[str, Any]] = []
        self.dataloader_sequence_calls: list[dict[str, Any]] = []
        self.train_dataloader_calls: list[dict[str, Any]] = []
        self.val_dataloader_calls: list[dict[str, Any]] = []
        self.test_dataloader_calls: list[dict[str, Any]] = []

    def track_event(
        self,
        evt_type: str,
        evt_value: Any = None,
        global_rank: int | None = None,
        local_rank: int | None = None,
        comment: str = "",
    ) -> None:
        """Keep an event of any kind, with the time."""
        self.events.append(
            {
                "timestamp": time.time(),
                "event": evt_type,
                "value": evt_value,
                "global_rank": global_rank,
                "local_rank": local_rank,
                "comment": comment,
            }
        )

    def count_events(self, evt_type: str, strict: bool = False) -> int:
        """How many events have ``evt_type`` in their name; ``strict``: as their name."""
        names = [one["event"] for one in self.events]
        return names.count(evt_type) if strict else sum(evt_type in name for name in names)

    def track_load_dataloader_call(self, name: str, dataloaders: Sequence[Any]) -> None:
        """Keep that loaders were asked for: how many, and the length of each (-1: none)."""
        entry = {
            "global_step": self.trainer.global_step,
            "epoch": self.trainer.current_epoch,
            "num_loaders": len(dataloaders),
            "lengths": [_length(loader) for loader in dataloaders],
            "name": name,
        }
        if self._keep(self.dataloader_sequence_calls, entry):
            for kind in ("train", "val", "test"):
                if kind in name:
                    getattr(self, f"{kind}_dataloader_calls").append(entry)
                    break

    def track_logged_metrics_history(self, scalar_metrics: dict[str, Any]) -> None:
        """Keep a row of the logger; it gets the step."""
        if self.enabled:
            scalar_metrics["global_step"] = self.trainer.global_step
        self._keep(self.logged_metrics, scalar_metrics)

    def track_pbar_metrics_history(self, metrics: dict[str, Any]) -> None:
        """Keep what the progress bar gets; it gets the epoch."""
        if self.enabled:
            metrics["debug_epoch"] = self.trainer.current_epoch
        self._keep(self.pbar_added_metrics, metrics)

    def track_train_loss_history(self, batch_idx: int, loss: Any) -> None:
        """Keep the loss of a batch that completes a step."""
        entry = {"batch_idx": batch_idx, "epoch": self.trainer.current_epoch, "loss": loss.detach()}
        self._keep(self.saved_train_losses, entry)

    def track_lr_schedulers_update(
        self,
        batch_idx: int,
        interval: str,
        scheduler_idx: int,
        old_lr: float,
        new_lr: float,
        monitor_key: str | None = None,
    ) -> None:
        """Keep one step of a scheduler."""
        entry = {
            "batch_idx": batch_idx,
            "interval": interval,
            "scheduler_idx": scheduler_idx,
            "epoch": self.trainer.current_epoch,
            "monitor_key": monitor_key,
            "old_lr": old_lr,
            "new_lr": new_lr,
        }
        self._keep(self.saved_lr_scheduler_updates, entry)

    def track_eval_loss_history(self, batch_idx: int, dataloader_idx: int, output: Any) -> None:
        """Keep what a validation or test step gave."""
        entry = {
            "sanity_check": self.trainer.running_sanity_check,
            "dataloader_idx": dataloader_idx,
            "batch_idx": batch_idx,
            "epoch": self.trainer.current_epoch,
            "output": output,
        }
        testing = self.trainer.testing
        self._keep(self.saved_test_losses if testing else self.saved_val_losses, entry)

    def track_early_stopping_history(self, callback: Any, current: Any) -> None:
        """Keep a value that is checked, and what it is compared with."""
        entry = {
            "epoch": self.trainer.current_epoch,
            "global_step": self.trainer.global_step,
            "rank": self.trainer.global_rank,
            "current": current,
            "best": callback.best_score,
            "patience": callback.wait_count,
        }
        self._keep(self.early_stopping_history, entry)

    def track_checkpointing_history(self, filepath: str) -> None:
        """Keep that a ModelCheckpoint writes a file."""
        saver = self.trainer.checkpoint_callback
        entry = {
            "epoch": self.trainer.current_epoch,
            "global_step": self.trainer.global_step,
            "monitor": getattr(saver, "monitor", None),
            "rank": self.trainer.global_rank,
            "filepath": filepath,
        }
        self._keep(self.checkpoint_callback_history, entry)

    @property
    def num_seen_sanity_check_batches(self) -> int:
        """How many batches the sanity check saw."""
        return sum(1 for entry in self.saved_val_losses if entry["sanity_check"])

    @property
    def num_seen_val_check_batches(self) -> Counter[int]:
        """How many batches validation saw, by the number of the loader."""
        return _by_loader(self.saved_val_losses)

    @property
    def num_seen_test_check_batches(self) -> Counter[int]:
        """How many batches test saw, by the number of the loader."""
        return _by_loader(self.saved_test_losses)

    def _keep(self, history: list[dict[str, Any]], entry: dict[str, Any]) -> bool:
        if self.enabled:
            history.append(entry)
        return self.enabled


class DebugHistories(Handler):
    """Fills an :class:`InternalDebugger` with what the engines do.

    Runs on: BACKWARD_STARTED and BACKWARD_COMPLETED; ITERATION_COMPLETED of the training engine
    and of those that validate and test.

    Args:
        run: the parts of the Trainer.
        debugger: the histories.
    """

    order = Order.METRICS + 0.5
    order_reason = "after the metrics of the batch (30): it keeps what the bar got"

    def __init__(self, run: Any, debugger: InternalDebugger) -> None:
        super().__init__()
        self.run = run
        self.debugger = debugger

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.BACKWARD_STARTED, self.count_backward)
        self.listen(engine, TrainerEvents.BACKWARD_COMPLETED, self.keep_loss)
        self.listen(engine, Events.ITERATION_COMPLETED, self.keep_bar)
        for stage in ("validate", "test"):
            evaluator = self.run.evaluators[stage]
            # After the hooks of the batch (10), before its metrics.
            self.listen(evaluator, Events.ITERATION_COMPLETED, self.keep_output, order=20)

    def count_backward(self, engine: Engine) -> None:
        """One more backward pass."""
        self.debugger.track_event("backward_call")
        settings = self.run.settings
        if settings.amp_backend == "apex" and settings.precision in (16, "16-mixed"):
            self.debugger.track_event("AMP", "AMPType.APEX")

    def keep_loss(self, engine: Engine) -> None:
        """Keep the loss of a batch that completes a step, its share of the group's."""
        step, state = self.run.step, self.run.state
        if not step.manual and step.closes_group(state):
            self.debugger.track_train_loss_history(state.batch_idx, state.loss)

    def keep_bar(self, engine: Engine) -> None:
        """Keep what the bar got of a batch that completes a step."""
        step, state, recorder = self.run.step, self.run.state, self.run.recorder
        shown = recorder.take_shown()
        if step.manual or step.closes_group(state):
            self.debugger.track_pbar_metrics_history(shown)
            # Source: Lightning 1.1, where the callbacks' dict has it, and the entry lost it.
            recorder.callback_metrics["debug_epoch"] = shown.pop("debug_epoch")

    def keep_output(self, evaluator: Engine) -> None:
        """Keep what an evaluation step gave."""
        state: Any = evaluator.state
        self.debugger.track_eval_loss_history(state.batch_idx, state.dataloader_idx, state.output)


class _WatchedScalars(LazyScalars):
    """The values of the progress bar; remembers what came since somebody took it."""

    __slots__ = ("came",)

    def __init__(self) -> None:
        super().__init__()
        self.came: dict[str, Any] = {}

    def __setitem__(self, key: str, value: Any) -> None:
        self.came[key] = value
        super().__setitem__(key, value)

    def store(self, values: Mapping[str, Any]) -> None:
        self.came.update(values)
        super().store(values)


class _WatchedRecorder(MetricRecorder):
    """Tells the histories of rows and of the progress bar."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.debugger: InternalDebugger | None = None
        self.progress_bar_metrics: _WatchedScalars = _WatchedScalars()

    def take_shown(self) -> dict[str, Any]:
        """What the progress bar got since the last call."""
        shown, self.progress_bar_metrics.came = self.progress_bar_metrics.came, {}
        return shown

    def train_step_output(self, output: Mapping[str, Any]) -> None:
        kept = self.take_shown()
        super().train_step_output(output)
        self.progress_bar_metrics.came = kept
        returned = split_returned(output)[2]
        if returned and self.debugger is not None:
            self.debugger.track_pbar_metrics_history(returned)

    def _reduced(self, *, alone: bool = False) -> dict[str, Any]:
        row = super()._reduced(alone=alone)
        epoch = self._epoch()
        self.callback_metrics["debug_epoch"] = epoch
        if self.stage == "test":
            self._stage.callback["debug_epoch"] = (epoch, None)
        return row

    def _finish(self, returned: Any) -> None:
        super()._finish(returned)
        if self.debugger is not None:
            self.debugger.track_pbar_metrics_history(self.take_shown())

    def _write(self, row: dict[str, Any], step: int | None = None) -> None:
        super()._write(row, step)
        if self.logger is not None and self.stage != "sanity" and self.debugger is not None:
            numbers = dict(zip(row, host_scalars(row.values()), strict=True))
            self.debugger.track_logged_metrics_history(numbers)


def make_recorder(**arguments: Any) -> MetricRecorder:
    """The recorder of a run; under ``PL_DEV_DEBUG=1`` one that is watched."""
    if os.environ.get(VARIABLE, "0") == "1":
        return _WatchedRecorder(**arguments)
    return MetricRecorder(**arguments)


def watch(run: Any, trainer: Any) -> None:
    """Keep the histories of a Trainer that is made under ``PL_DEV_DEBUG=1``."""
    if not isinstance(run.recorder, _WatchedRecorder):
        return
    debugger = debugger_of(trainer)
    run.recorder.debugger = debugger
    run.loaders.told = debugger.track_load_dataloader_call
    run.handlers.add(DebugHistories(run, debugger), origin=f"{VARIABLE}=1")


def debugger_of(trainer: Any) -> InternalDebugger:
    """The histories of a Trainer."""
    features = trainer._run.features
    if KEY not in features:
        features[KEY] = InternalDebugger(trainer)
    found: InternalDebugger = features[KEY]
    return found


def watched_step(
    run: Any, step_by: Callable[[Any, Any], Any] | None
) -> Callable[[Any, Any], Any] | None:
    """What steps a scheduler, ``step_by`` itself where nobody watches."""
    if not isinstance(run.recorder, _WatchedRecorder):
        return step_by

    def step(scheduler: Any, metric: Any) -> None:
        at = (i for i, one in enumerate(run.parts.schedulers) if one["scheduler"] is scheduler)
        index = next(at, 0)
        entry = run.parts.schedulers[index]
        before = scheduler.optimizer.param_groups[0]["lr"]
        if step_by is not None:
            step_by(scheduler, metric)
        else:
            scheduler.step(*([] if metric is None else [metric]))
        debugger_of(run.trainer).track_lr_schedulers_update(
            run.state.batch_idx,
            entry["interval"],
            index,
            before,
            scheduler.optimizer.param_groups[0]["lr"],
            monitor_key=entry["monitor"] if entry["reduce_on_plateau"] else None,
        )

    return step


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return -1


def _by_loader(entries: Sequence[Mapping[str, Any]]) -> Counter[int]:
    return Counter(entry["dataloader_idx"] for entry in entries if not entry["sanity_check"])

"""Saves checkpoints while a run goes on, and keeps the best or the last of them."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Literal

import torch

from leyden.engine import Channel, Engine, Events, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.engine.notice import warn
from leyden.handlers.base import Order
from leyden.handlers.checkpoint_arguments import (
    Triggers,
    check_arguments,
    split_filepath,
    tell_deprecated,
)
from leyden.handlers.checkpoint_files import make_directory
from leyden.handlers.checkpoint_following import announce, follow, talks
from leyden.handlers.checkpoint_leftovers import remove_leftovers
from leyden.handlers.checkpoint_names import default_directory, is_remote
from leyden.handlers.checkpoint_record import CheckpointRecord
from leyden.handlers.monitored import listed, score_of, worst

__all__ = ["ModelCheckpoint"]

log = logging.getLogger(__name__)


class ModelCheckpoint(CheckpointRecord):
    """Save a checkpoint after each validation run, and keep the best ``save_top_k`` by a logged
    value.

    Where nothing is validated it saves at the end of each training epoch; and once more when the
    training ends, by itself, by Ctrl-C or by an exception, if there was a step since. Without
    ``monitor`` only the last file is kept. A new file is complete on the disk before an old one is
    removed, and no file is removed that another run wrote.

    Runs on: the end of a validation run (not the sanity check); the end of a training epoch; the
    end of a batch where ``every_n_train_steps`` or ``train_time_interval`` ask for it; the end of
    training.

    State: all that decides which files are kept.

    Source: Lightning 1.1, with the triggers of Lightning 2. A metric ``val_loss`` or
    ``checkpoint_on`` becomes the monitor when none is given, as in 1.1, but with a warning.

    Args:
        filepath: directory and template in one (deprecated by ``dirpath`` and ``filename``).
        monitor: name of the logged value; None: the last checkpoint is kept.
        verbose: log each decision.
        save_last: also keep the newest checkpoint as ``last.ckpt``.
        save_top_k: how many to keep; -1: all, 0: none is saved at all, None: 1 if there is a
            monitor.
        save_weights_only: leave out what only a resumed run needs.
        mode: "min" or "max"; None: "max" for names with "acc" in them or that begin with
            "fmeasure". ("auto", deprecated, is the same.)
        period: save every so many epochs; 0 or less: never.
        prefix: put before the file name; deprecated, ``filename`` can begin with it.
        dirpath: directory; None: below the logger's, or ``default_root_dir/checkpoints``.
        filename: template such as ``"{epoch}-{val_loss:.2f}"``; a name that was not logged becomes
            0.
        every_n_train_steps: save every so many optimizer steps, after the validation of the same
            step.
        train_time_interval: save when this time has passed.
        every_n_epochs: the same as ``period``. Where one of the two before is given, epochs count
            only if this or ``period`` is given too.
        save_on_train_epoch_end: True: at the end of training epochs (after their validation) and
            not after each validation run; False: after validation runs only; None: as said above.
        save_on_exception: save when the training fails.
        auto_insert_metric_name: write ``epoch=3`` for ``{epoch}`` rather than ``3``.
        asynchronous: write in a thread; the training waits only for the copy. The file is there
            when the next save begins or the training ends.
        on_error: "raise", or "warn" to go on training when the disk refuses a checkpoint.

    Attributes:
        best_model_path, best_model_score: the best file and its score; without ``monitor`` the last
            file.
        last_model_path: the file of ``save_last``, or the last file without ``monitor``.
        best_k_models: score by path of the files that are kept.
        kth_best_model_path, kth_value: the worst of them.
        current_score: score of the last file saved.
        save_function: called with path and ``save_weights_only`` to write a file; the Trainer's
            ``save_checkpoint`` from the start of training on, unless another was put there.
    """

    order: ClassVar[float] = Order.CHECKPOINT
    order_reason: ClassVar[str] = (
        "after everything of the event: the file holds its metrics and the stopping decision"
    )

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | None = None,
        save_top_k: int | None = None,
        save_weights_only: bool = False,
        mode: str | None = None,
        period: int | None = None,
        prefix: str = "",
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        *,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        save_on_exception: bool = True,
        auto_insert_metric_name: bool = True,
        asynchronous: bool = False,
        on_error: Literal["raise", "warn"] = "raise",
    ) -> None:
        check_arguments(filepath, monitor, save_last, save_top_k, dirpath, filename, on_error)
        tell_deprecated(filepath, prefix, mode)
        directory, template = split_filepath(filepath, dirpath, filename)
        super().__init__(
            monitor,
            mode=mode or "auto",
            save_top_k=save_top_k,
            save_last=save_last,
            dirpath=directory,
            filename=template,
            prefix=prefix,
            auto_insert_metric_name=auto_insert_metric_name,
            triggers=Triggers.parse(
                period, every_n_epochs, every_n_train_steps, train_time_interval
            ),
        )
        self.verbose = verbose
        self.save_weights_only = save_weights_only
        self.save_on_train_epoch_end = save_on_train_epoch_end
        self.save_on_exception = save_on_exception
        self.save_function: Callable[..., None] | None = None
        self.asynchronous = asynchronous
        self.on_error = on_error
        self._failed = False
        self._unheard = False
        self._step: int | None = None  # the one to save for, where the counter has passed it
        self._warned: set[str] = set()
        self._writer: Any = None
        self._pending = False  # the writer has a file of ours
        self._pending_path = ""
        self._before_pending: dict[str, Any] = {}
        self._saved: Channel | None = None

    # ------------------------------------------------------------------ moments

    def attach(self, engine: Engine) -> None:
        """Bind the hooks, and the ends of batches and epochs where they may be due."""
        super().attach(engine)
        if getattr(engine.state, "stage", "train") != "train":
            return
        if self.triggers.within_epochs:
            self.listen(engine, Events.ITERATION_COMPLETED, self._batch_over)
        if self.asynchronous:
            self._saved = engine.channel(TrainerEvents.CHECKPOINT_SAVED)
            self.listen(engine, Events.ITERATION_COMPLETED, self._settle_if_done)
        if self.triggers.within_epochs or self.save_on_train_epoch_end:
            self.listen(engine, Events.EPOCH_COMPLETED, self._epoch_over)

    def on_pretrain_routine_start(self, trainer: Any, pl_module: Any) -> None:
        """Settle where the files go: a directory that cannot be made fails before training."""
        self._due = False  # what is restored comes later
        self.save_function = trainer.save_checkpoint
        if not self.dirpath:
            self.dirpath = default_directory(trainer)
        writes = not getattr(trainer, "fast_dev_run", False) and getattr(
            trainer, "is_global_zero", True
        )
        if writes and self.save_top_k != 0 and self.triggers.any:
            make_directory(self.dirpath)
            if not is_remote(self.dirpath):
                remove_leftovers(self.dirpath)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a run: finish what a killed one had begun."""
        self._failed, self._as_before = False, {}
        if self._saved_at == 0.0:
            self._saved_at = time.monotonic()
        self._remove_superseded(trainer, later=getattr(trainer, "optimizer_steps", -1))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Save after a validation run."""
        if not self.save_on_train_epoch_end:
            self.save_checkpoint(trainer, pl_module)

    def on_train_epoch_metrics(self, trainer: Any, pl_module: Any) -> None:
        """Save at the end of an epoch where nothing is validated."""
        if self.save_on_train_epoch_end is None and not getattr(
            trainer, "enable_validation", False
        ):
            self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save what the last save does not hold, and wait for a writer."""
        if not self._failed and self.save_on_train_epoch_end is not False:
            # The counter has passed the last batch by now; names carry the step seen in its hooks.
            step = trainer.global_step - 1
            if self.save_last:
                log.info("Saving latest checkpoint...")
            if self._is_replaced:
                self._save_as_replaced(trainer, pl_module, step)
            elif self.triggers.epochs or self._due:
                self._save_if_epoch_due(trainer, step)
        self._settle(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Save the state in which the training failed: beside the best, in the place of the last.

        A run that goes on from there comes by this moment once more, and decides then.
        """
        self._failed, self._as_before = True, self._record()
        # Where one of several processes is lost, its part of the state is, too.
        lost = getattr(getattr(trainer, "strategy", None), "broken", False)
        if self.save_on_exception and not lost and not self._is_of_a_save(exception):
            step = getattr(trainer, "optimizer_steps", trainer.global_step) - 1
            if self._is_replaced:
                self._save_as_replaced(trainer, pl_module, step)
            else:
                self._save_if_epoch_due(trainer, step)
        self._settle(trainer)

    @property
    def _is_replaced(self) -> bool:
        """Whether a subclass says itself what is done after a validation run, or when to save."""
        cls, names = type(self), ("on_validation_end", "save_checkpoint")
        return any(getattr(cls, name) is not getattr(ModelCheckpoint, name) for name in names)

    def _save_as_replaced(self, trainer: Any, pl_module: Any, step: int) -> None:
        # Lightning 1.1 calls this hook, and only it, at the end of training too.
        self._step = step
        try:
            self.on_validation_end(trainer, pl_module)
        finally:
            self._step = None

    def _is_of_a_save(self, exception: BaseException) -> bool:
        """Whether a checkpoint could not be written or chosen: the next one could not either."""
        name = getattr(exception, "filename", None)
        refused = isinstance(exception, OSError) and str(name).endswith(self.FILE_EXTENSION)
        return refused or isinstance(exception, MisconfigurationException)

    def save_checkpoint(self, trainer: Any, pl_module: Any = None) -> None:
        """Save now, if this epoch is one to save in and this step was not saved before."""
        if self.triggers.epochs:
            step = trainer.global_step if self._step is None else self._step
            self._save_if_epoch_due(trainer, step)

    def _batch_over(self, engine: Engine) -> None:
        state: Any = engine.state
        trainer = state.trainer
        steps = getattr(state, "optimizer_steps", state.iteration)
        if getattr(state, "closed_at", state.iteration) != state.iteration:
            return  # in the middle of an accumulated group
        seconds = self.triggers.seconds
        late = seconds is not None and time.monotonic() - self._saved_at >= seconds
        processes = None if seconds is None else talks(trainer)
        if processes is not None:
            late = processes.any(late)  # clocks differ
        every = self.triggers.steps
        if not (late or (every and steps % every == 0)):
            return
        last = state.iteration - getattr(state, "epoch_start", 0) == getattr(
            state, "num_batches", -1
        )
        if last and getattr(trainer, "enable_validation", False):
            self._due = True  # its validation comes first
        else:
            self._save(trainer, trainer.global_step, strict=False)

    def _epoch_over(self, engine: Engine) -> None:
        trainer = engine.state.trainer  # type: ignore[attr-defined]
        if self._due:
            self._due = False
            self._save(trainer, trainer.global_step, strict=False)
        elif self.save_on_train_epoch_end:
            self.save_checkpoint(trainer)

    def _save_if_epoch_due(self, trainer: Any, step: int) -> None:
        every = self.triggers.epochs
        if step >= 0 and (not every or (trainer.current_epoch + 1) % every == 0):
            self._save(trainer, step, strict=True)

    # ------------------------------------------------------------------ saving

    def _save(self, trainer: Any, step: int, *, strict: bool) -> None:
        """Save for ``step``; ``strict``: a monitor that was never logged is an error."""
        if (
            self.save_top_k == 0
            or getattr(trainer, "fast_dev_run", False)
            or getattr(trainer, "running_sanity_check", False)
            or follow(self, trainer)
        ):
            return
        self._unheard = True  # the other processes wait for what is decided here
        try:
            if step != self._last_step_saved:
                self._decide(trainer, step, strict=strict)
        finally:
            if self._unheard:
                announce(trainer, None)

    def _decide(self, trainer: Any, step: int, *, strict: bool) -> None:
        """What is due for ``step``, on the process that decides."""
        metrics = trainer.callback_metrics
        self._adopt_monitor(metrics)
        values = {**metrics, "epoch": trainer.current_epoch, "step": step}
        monitored = not self._failed and (
            self.monitor in ("epoch", "step") or self._monitored(metrics, strict)
        )
        before, self._last_step_saved = self._last_step_saved, step  # the file says so itself
        self._saved_at = time.monotonic()
        complete = False
        try:
            complete = not monitored or self._attempt(self._save_among_best, trainer, values)
            if self._failed and self.monitor is not None:
                complete = self._attempt(self._save_beside, trainer, values)
            if self.monitor is None or self.save_last:
                complete &= self._attempt(self._save_newest, trainer, values)
        finally:
            if not complete:
                self._last_step_saved = before

    def _attempt(
        self,
        part: Callable[[Any, dict[str, Any]], None],
        trainer: Any,
        values: dict[str, Any],
    ) -> bool:
        """Write one file; if the disk refuses, the record is as if it had not been tried."""
        self._settle(trainer)
        before = self._record()
        try:
            part(trainer, values)
        except OSError as error:
            self.__dict__.update(before)
            self._refused(error)
            return False
        except BaseException:
            self.__dict__.update(before)
            raise
        if self._pending:
            self._before_pending = before
        return True

    def _refused(self, error: OSError) -> None:
        if self.on_error == "raise":
            raise error
        newest = self.last_model_path or self.best_model_path or "not there yet"
        warn(
            f"a checkpoint was not saved: {error}. Training goes on (on_error='warn'); the newest "
            f"checkpoint is {newest}",
            RuntimeWarning,
        )

    def _save_among_best(self, trainer: Any, values: dict[str, Any]) -> None:
        score = score_of(values[self.monitor or ""])
        if not self.check_monitor_top_k(score):
            if self.verbose:
                log.info(
                    "epoch %d, step %d: %s=%g is not among the best %s",
                    values["epoch"], values["step"], self.monitor, float(score), self.save_top_k,
                )  # fmt: skip
            return
        if torch.isnan(score):
            score = worst(self.mode)
        full = self.save_top_k != -1 and len(self.best_k_models) == self.save_top_k
        dropped = self.kth_best_model_path if full else None
        path = self._free_path(trainer, values, dropped)
        if dropped is not None:
            del self.best_k_models[dropped]
        self.best_k_models[path] = self.current_score = score
        if self.save_top_k == -1 or len(self.best_k_models) == self.save_top_k:
            self.kth_best_model_path = self._extreme(worst_one=True)
            self.kth_value = self.best_k_models[self.kth_best_model_path]
        self.best_model_path = self._extreme(worst_one=False)
        self.best_model_score = self.best_k_models[self.best_model_path]
        self._write(trainer, path, dropped, more=bool(self.save_last))

    def _save_beside(self, trainer: Any, values: dict[str, Any]) -> None:
        # What is logged may be of an earlier moment: nothing is chosen by it, and nothing goes.
        path = self._free_path(trainer, values)
        self._write(trainer, path, None, more=bool(self.save_last))

    def _save_newest(self, trainer: Any, values: dict[str, Any]) -> None:
        if self.save_last:
            path = self._path(self._filled(self.CHECKPOINT_NAME_LAST, values))
        else:
            path = self._free_path(trainer, values)
        old = self.last_model_path
        self.last_model_path = path
        keeps_all = self.save_top_k == -1 and not self.save_last
        self._write(trainer, path, None if keeps_all else old)
        if self.monitor is None:
            self.best_model_path = path

    def _write(self, trainer: Any, path: str, replaced: str | None, *, more: bool = False) -> None:
        self._written.add(path)
        debugger = getattr(trainer, "dev_debugger", None)
        if debugger is not None:
            debugger.track_checkpointing_history(path)
        if replaced and replaced != path:
            self._superseded.append(replaced)
        if self._as_before:
            self._as_before["_superseded"].append(path)
        if talks(trainer) is not None:
            self._unheard = more
            best = {} if self.monitor is not None else {"best_model_path": path}
            settled = {"dirpath": self.dirpath, "monitor": self.monitor, **best}
            record = {**self._record(), **settled, "_last_step_saved": self._last_step_saved}
            announce(trainer, {"path": path, "record": record, "last": not more})
        if self.asynchronous:
            self._write_later(trainer, path)
        else:
            self._save_model(path, trainer, getattr(trainer, "lightning_module", None))
            self._remove_superseded(trainer)
        if self.verbose:
            log.info("saved %s", path)

    def _save_model(self, filepath: str, trainer: Any, pl_module: Any) -> None:
        """Write one file; code that derives from Lightning 1.1's class overrides it."""
        (self.save_function or trainer.save_checkpoint)(filepath, self.save_weights_only)

    def __getstate__(self) -> dict[str, Any]:
        # It is bound to a Trainer: the next run of a copy brings its own.
        return {**super().__getstate__(), "save_function": None}

    def _write_later(self, trainer: Any, path: str) -> None:
        from leyden.handlers.checkpoint_async import AsyncWriter
        from leyden.handlers.checkpoint_later import to_write_later
        from leyden.handlers.trace import Traced

        checkpoint, save = to_write_later(trainer, self.save_weights_only)
        if checkpoint is None:
            return
        if self._writer is None:
            self._writer = AsyncWriter(Traced(trainer, "write_checkpoint", save))
        self._writer.save(checkpoint, path)
        self._pending = True
        self._pending_path = path

    def _settle(self, trainer: Any) -> None:
        """Wait for the writer: what it replaced goes, or what it could not write is forgotten."""
        if not self._pending:
            return
        self._pending = False
        try:
            self._writer.join()
        except OSError as error:
            self.__dict__.update(self._before_pending)
            self._refused(error)
            return
        self._remove_superseded(trainer)
        if self._saved is not None and self._saved.live:
            trainer.engine.state.saved_path = self._pending_path
            self._saved.fire()

    def _settle_if_done(self, engine: Engine) -> None:
        if self._pending and not self._writer.busy:
            self._settle(engine.state.trainer)  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ the monitor

    def _adopt_monitor(self, metrics: Mapping[str, Any]) -> None:
        for name in ("val_loss", "checkpoint_on"):
            if self.monitor is None and name in metrics:
                self.monitor = name
                self._warn_once(
                    f"ModelCheckpoint has no monitor and {name!r} is logged: it becomes the "
                    "monitor, and the file "
                    f"with the lowest is kept, as in Lightning 1.1. Pass monitor={name!r} to say "
                    "so yourself"
                )
        if self.save_top_k is None and self.monitor is not None:
            self.save_top_k = 1

    def _monitored(self, metrics: Mapping[str, Any], strict: bool) -> bool:
        if self.monitor is None or self.monitor in metrics:
            return self.monitor is not None
        text = (
            f"ModelCheckpoint(monitor={self.monitor!r}) found no such value; logged are: "
            f"{listed(metrics)}. "
            f"Call self.log({self.monitor!r}, value) in the module, or pass one of those names"
        )
        if metrics and strict:
            raise MisconfigurationException(text)
        self._warn_once(f"{text}. No checkpoint is chosen by it now")
        return False

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warn(text, UserWarning)

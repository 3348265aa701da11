"""How training ends: whoever wants to know of an error is told, every hook of the end is called."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from leyden.engine import Channel, Engine, Events, Phase, TrainerEvents
from leyden.engine.notice import warn
from leyden.handlers.checkpoint_names import default_directory, join
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.module import LightningModule
from leyden.overrides import overrides
from leyden.run import Run
from leyden.states import TrainerState

__all__ = ["BETWEEN_BATCHES", "INTERRUPTED", "end_of_training", "failed"]

#: the checkpoint that a signal leaves beside the others.
INTERRUPTED = "interrupted.ckpt"
#: where nothing of a batch was begun: exact as it is.
BETWEEN_BATCHES = (
    Events.ITERATION_COMPLETED,
    Events.GET_BATCH_STARTED,
    Events.EPOCH_COMPLETED,
)

log = logging.getLogger(__name__)


def failed(run: Run, error: BaseException) -> None:
    """Tell of what ended the training; keep the state of a run that was asked to stop."""
    run.error = error
    state = run.state
    run.closed_before_error = state.closed_at == state.iteration
    if run.engine._machine.left is Phase.FETCHING:
        state.settle()  # the loader raised: the batch before is over
    if isinstance(error, KeyboardInterrupt):
        if not run.interrupted:
            run.interrupted = True
            run.status = TrainerState.INTERRUPTED
            if run.trainer.is_global_zero:
                log.warning("interrupted: training ends here, what is done is kept")
            if run.interruption.requested:
                run.interruption.out_of_danger()
                _noted(error, partial(_save_interrupted, run))
            run.call("on_keyboard_interrupt", module=False)
    # One by one: a hook that fails itself keeps no other from running.
    for callback in run.callbacks():
        if run.interrupted_path and isinstance(callback, ModelCheckpoint):
            callback._failed = True  # what it would save now is saved, as it was
        elif callback.defines("on_exception"):
            _noted(error, partial(callback.on_exception, run.trainer, run.model, error))
    if overrides(run.model, "on_exception", LightningModule):
        _noted(error, partial(run.model.on_exception, error))
    if run.engine.phase is Phase.INTERRUPTED and run.engine._paused_at in BETWEEN_BATCHES:
        run.state.settle()


def end_of_training(run: Run, error: BaseException | None) -> None:
    """Call every hook of the end, also where one of them fails.

    Raises:
        Exception: the first that failed, if training itself did not. All others are warnings.
    """
    failures = _fire_each(run.engine.channel(TrainerEvents.TRAINING_ENDED), run.engine)
    if error is None and failures:
        error = failures.pop(0)
        for other in failures:
            _tell(error, other)
        raise error
    for other in failures:
        _tell(error, other)


def _fire_each(self: Channel, engine: Engine) -> list[Exception]:
    """Run all handlers of an event, those behind one that fails too; give what they raised."""
    # Its local names are those of the channel's own functions, for who looks at the stack.
    failures: list[Exception] = []
    watchers, counter = self.watchers, engine._hub.counter(self.event)
    engine.last_event_name = self.event
    for watcher in watchers:
        watcher.event_started(engine, self)
    try:
        for record in tuple(self.handlers or ()):
            for watcher in watchers:
                watcher.handler_started(engine, self, record)
            try:
                record.compile(engine, counter)(engine)
            except Exception as failure:
                failures.append(failure)
            finally:
                for watcher in watchers:
                    watcher.handler_ended(engine, self, record)
    finally:
        for watcher in watchers:
            watcher.event_ended(engine, self)
    return failures


def _save_interrupted(run: Run) -> None:
    """After a signal: one checkpoint of this very moment, where checkpoints are wanted."""
    savers = [saver for saver in run.trainer.checkpoint_callbacks if saver.save_top_k != 0]
    quiet = run.interruption.forced or run.settings.fast_dev_run or not run.state.iteration
    if savers and not quiet:
        folder = savers[0].dirpath or default_directory(run.trainer)
        run.interrupted_path = join(os.fspath(folder), INTERRUPTED)
        run.trainer.save_checkpoint(run.interrupted_path)


def _noted(error: BaseException, action: Callable[[], Any]) -> None:
    """Do something on the way out; what it raises is told, the first error goes on."""
    try:
        action()
    except Exception as second:
        _tell(error, second)


def _tell(error: BaseException | None, second: Exception) -> None:
    warn(
        f"while ending after {type(error).__name__}: {type(second).__name__}: {second}",
        RuntimeWarning,
    )

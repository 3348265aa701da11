"""The procedure of fit: prepare, check, loop, end; every way out passes the end hooks."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from leyden.engine import Events, Phase, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.handlers.checkpoint_names import default_directory, join
from leyden.handlers.hooks import accepted
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.handlers.schedulers import LRSchedulers
from leyden.journal import give_journal
from leyden.module import LightningModule
from leyden.optimizers import configured
from leyden.overrides import overrides
from leyden.run import Run
from leyden.states import TrainerState
from leyden.stepping import training_step, verify

__all__ = ["INTERRUPTED", "fit"]

#: the checkpoint that a signal leaves beside the others.
INTERRUPTED = "interrupted.ckpt"
# Where nothing of a batch was begun: exact as it is.
_BETWEEN_BATCHES = (
    Events.ITERATION_COMPLETED,
    Events.GET_BATCH_STARTED,
    Events.EPOCH_COMPLETED,
)

log = logging.getLogger(__name__)


def fit(run: Run, model: Any, train: Any, val: Any, datamodule: Any) -> None:
    """Train. See :meth:`leyden.Trainer.fit`."""
    verify(model, "fit")
    run.datamodule = datamodule
    run.loaders.provide(model, datamodule, train_dataloader=train, val_dataloader=val)
    if run.loaders.source("train_dataloader", LightningModule) is None:
        raise MisconfigurationException(
            f"no training data: pass train_dataloader= to fit, or define train_dataloader() on "
            f"{type(model).__name__} or on a data module"
        )
    _warn_of_idle_parts(run, model)
    with run.running(model, "fit"):
        run.prepare_data()
        run.setup("fit")
        _prepare_training(run)
        run.engine.fire_event(TrainerEvents.FIT_STARTED)
        run.engine.fire_event(TrainerEvents.PRETRAIN_STARTED)
        run.restore()
        give_journal(run)
        run.engine.fire_event(TrainerEvents.PRETRAIN_COMPLETED)
        error = _train(run)
        if error is not None and (not run.interrupted or run.interruption.forced):
            raise error
        run.engine.fire_event(TrainerEvents.FIT_COMPLETED)
        if datamodule is not None:
            datamodule.teardown("fit")
        run.call("teardown", "fit")
        if run.status == TrainerState.RUNNING:
            run.status = TrainerState.FINISHED
        if run.interrupted and run.interruption.ends_process:
            raise SystemExit(run.interruption.exit_code)


def _warn_of_idle_parts(run: Run, model: Any) -> None:
    """Tell of a loader without a step, and of a step without a loader: neither is used."""
    step = overrides(model, "validation_step", LightningModule)
    loader = run.loaders.source("val_dataloader", LightningModule) is not None
    if step != loader:
        there, missing = (
            ("a validation_step", "validation loader")
            if step
            else ("a validation loader", "validation_step")
        )
        warnings.warn(
            f"there is {there} but no {missing}: this run does not validate",
            UserWarning,
            stacklevel=4,
        )


def _warn_of_short_epoch(run: Run) -> None:
    factor, batches = run.state.accumulate_grad_batches, run.loaders.num_training_batches
    if factor > batches > 0:
        warnings.warn(
            f"accumulate_grad_batches={factor} is more than the {int(batches)} batches of an "
            f"epoch: each epoch makes one step, of gradients divided by {factor}",
            UserWarning,
            stacklevel=5,
        )
    if batches == 0 and run.settings.limit_train_batches:
        warnings.warn(
            "the training loader has no batches: nothing is trained; look at the length of its "
            "dataset, batch_size and drop_last",
            UserWarning,
            stacklevel=5,
        )


def _prepare_training(run: Run) -> None:
    model, settings = run.model, run.settings
    run.strategy.place(model)
    fresh = not run.parts.optimizers
    if fresh:
        run.recorder.hook = "configure_optimizers"
        run.parts = configured(model.configure_optimizers())
    run.state.optimizers = run.parts.optimizers
    run.prepare_precision(run.parts.optimizers, fresh=fresh)
    if run.model_callbacks is None:
        own = overrides(model, "configure_callbacks", LightningModule)
        run.model_callbacks = list(model.configure_callbacks() or ()) if own else []
        for callback in run.model_callbacks:
            run.callback_list.append(callback)
            run.handlers.add(callback, origin=f"{type(model).__name__}.configure_callbacks")
    run.bind()
    readers = ("on_train_epoch_end", "on_train_batch_end")
    keep = any(
        overrides(model, name, LightningModule) for name in ("training_epoch_end", *readers)
    ) or any(callback.defines(name) for callback in run.callbacks() for name in readers)
    step = training_step(
        model,
        run.parts,
        settings,
        scope=run.recorder,
        trainer=run.trainer,
        keep_outputs=keep,
        precision=run.precision,
        strategy=run.strategy,
    )
    step.prepare(run.engine)
    run.step = step
    run.engine._process_function = step
    if run.schedulers is not None:
        run.handlers.remove(run.schedulers)
        run.schedulers = None
    if run.parts.schedulers:
        run.schedulers = LRSchedulers(
            run.parts.schedulers,
            lambda: run.recorder.callback_metrics,
            evaluator=run.evaluators["validate"],
            warn=lambda message: warnings.warn(message, RuntimeWarning, stacklevel=2),
            validates=lambda: run.validates,
            step_by=_own_scheduler_step(run),
        )
        run.handlers.add(run.schedulers, origin="configure_optimizers")


def _own_scheduler_step(run: Run) -> Callable[[Any, Any], Any] | None:
    """The module's ``lr_scheduler_step``, if it has one of its own."""
    if not overrides(run.model, "lr_scheduler_step", LightningModule):
        return None
    own = run.model.lr_scheduler_step
    if accepted(own, 0) == 2:  # Lightning 2.x dropped the number of the optimizer
        return lambda scheduler, metric: own(scheduler, metric)

    def step(scheduler: Any, metric: Any) -> None:
        optimizer = getattr(scheduler, "optimizer", None)
        at = (i for i, known in enumerate(run.parts.optimizers) if known is optimizer)
        own(scheduler, next(at, 0), metric)

    return step


def _train(run: Run) -> BaseException | None:
    """Sanity check, then epochs. Gives the exception that ended training; the end hooks ran."""
    error: BaseException | None = None
    run.stopping().should_stop, run.error = False, None
    try:
        torch.set_grad_enabled(True)
        run.loaders.evaluation.pop("validate", None)
        run.loaders.num_batches.pop("validate", None)
        if run.settings.num_sanity_val_steps and run.validates:
            run.request_validation()
            run.sanity_check()
        run.model.train()
        run.request_training()
        _warn_of_short_epoch(run)
        if not run._requested("validate") and not run.settings.reload_dataloaders_every_epoch:
            run.request_validation()
        _loop(run)
        _stopped_by_signal(run)
    except BaseException as raised:  # every way out passes the end hooks, then goes on as it was
        error = raised
        _failed(run, raised)
    if error is None:
        run.state.settle()
    _end_of_training(run, error)
    if run.interrupted_path:
        # Of what was saved by the ending, this one holds the run as it was: it counts as newest.
        with contextlib.suppress(OSError):
            os.utime(run.interrupted_path)
    run.error, run.interrupted_path = None, ""
    return error


def _loop(run: Run) -> None:
    state, engine, settings = run.state, run.engine, run.settings
    epochs = state.epoch - (1 if engine.inside_epoch else 0)
    limit = settings.max_epochs
    batch = 0
    if run.resumed is not None:
        epochs, batch = run.resumed["epoch"], run.resumed["batch"]
    inside = run.kept is not None and run.kept["position"]["inside"]
    # Saved inside an epoch: its end is still to come, even if no step is.
    done = epochs >= limit or (
        not inside
        and settings.max_steps is not None
        and state.optimizer_steps >= settings.max_steps
    )
    run.nothing_left = done
    if done or run.loaders.num_training_batches == 0:
        if done and epochs:
            log.info("nothing is left to train: %s epochs are done, max_epochs=%s", epochs, limit)
        engine.fire_event(Events.STARTED)
        return
    engine.load_state_dict(
        {
            "iteration": state.iteration,
            "epoch_length": None,
            "max_epochs": limit,
            "epoch": epochs,
            "batch": batch,
        }
    )
    _stopped_by_signal(run)  # one that came before
    engine.run(run.feed, max_epochs=limit)
    if engine.phase is Phase.INTERRUPTED and engine._paused_at not in _BETWEEN_BATCHES:
        # The batch is fetched: finish its step, for an exact continuation.
        handle = engine.listen(
            Events.ITERATION_COMPLETED, lambda engine: engine.interrupt(), order=10_000
        )
        engine.run(run.feed, max_epochs=limit)
        handle.remove()


def _stopped_by_signal(run: Run) -> None:
    if run.interruption.requested:
        raise KeyboardInterrupt


def _save_interrupted(run: Run) -> None:
    """After a signal: one checkpoint of this very moment, where checkpoints are wanted."""
    savers = [saver for saver in run.trainer.checkpoint_callbacks if saver.save_top_k != 0]
    quiet = run.interruption.forced or run.settings.fast_dev_run or not run.state.iteration
    if savers and not quiet:
        folder = savers[0].dirpath or default_directory(run.trainer)
        run.interrupted_path = join(os.fspath(folder), INTERRUPTED)
        run.trainer.save_checkpoint(run.interrupted_path)


def _failed(run: Run, error: BaseException) -> None:
    run.error = error
    if isinstance(error, KeyboardInterrupt):
        if not run.interrupted:
            run.interrupted = True
            run.status = TrainerState.INTERRUPTED
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


def _end_of_training(run: Run, error: BaseException | None) -> None:
    ended = run.engine.channel(TrainerEvents.TRAINING_ENDED)
    if error is None:
        if ended.live:
            ended.fire()
    else:
        _noted(error, lambda: ended.fire() if ended.live else None)


def _noted(error: BaseException, action: Callable[[], Any]) -> None:
    """Do something on the way out; what it raises is told, the first error goes on."""
    try:
        action()
    except Exception as second:
        warnings.warn(
            f"while ending after {type(error).__name__}: {type(second).__name__}: {second}",
            RuntimeWarning,
            stacklevel=2,
        )

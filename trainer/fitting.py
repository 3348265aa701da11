"""The procedure of fit: prepare, check, loop, end; every way out passes the end hooks."""

import contextlib
import logging
import os
from typing import Any

import torch

from leyden.compiling import capture
from leyden.ending import BETWEEN_BATCHES, INTERRUPTED, end_of_training, failed
from leyden.engine import Events, Phase, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.engine.notice import warn
from leyden.journal import give_journal
from leyden.module import LightningModule
from leyden.optimizers import configured
from leyden.overrides import overrides
from leyden.placing import place
from leyden.replacing_optimizers import schedule
from leyden.run import Run
from leyden.states import TrainerState
from leyden.stepping import training_step, verify, verify_accumulation

__all__ = ["INTERRUPTED", "fit"]

log = logging.getLogger(__name__)


def fit(run: Run, model: Any, train: Any, val: Any, datamodule: Any) -> None:
    """Train. See :meth:`leyden.Trainer.fit`."""
    verify(model, "fit")
    verify_accumulation(model, run.settings)
    run.datamodule = datamodule
    run.loaders.provide(model, datamodule, train_dataloader=train, val_dataloader=val)
    if run.loaders.source("train_dataloader", LightningModule) is None:
        raise MisconfigurationException(
            f"no training data: pass train_dataloader= to fit, or define train_dataloader() on "
            f"{type(model).__name__} or on a data module"
        )
    _warn_of_idle_parts(run, model)
    with run.running(model, "fit"):
        run.stopping().should_stop = False
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
        warn(
            f"there is {there} but no {missing}: this run does not validate",
            UserWarning,
        )


def _warn_of_short_epoch(run: Run) -> None:
    factor, batches = run.state.accumulate_grad_batches, run.loaders.num_training_batches
    if factor > batches > 0:
        warn(
            f"accumulate_grad_batches={factor} is more than the {int(batches)} batches of an "
            f"epoch: each epoch makes one step, of gradients divided by {factor}",
            UserWarning,
        )
    if batches == 0 and run.settings.limit_train_batches:
        warn(
            f"limit_train_batches={run.settings.limit_train_batches} leaves no batch of the "
            "training loader: nothing is trained; use a larger share, or a number of batches",
            UserWarning,
        )


def _prepare_training(run: Run) -> None:
    model, settings = run.model, run.settings
    place(run)
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
        compiling=run.compiling,
    )
    if settings.cuda_graph:
        capture(run, step)
    step.prepare(run.engine)
    run.step = step
    run.engine._process_function = step
    schedule(run)


def _train(run: Run) -> BaseException | None:
    """Sanity check, then epochs. Gives the exception that ended training; the end hooks ran."""
    error: BaseException | None = None
    run.error = None
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
        error = _told(run, raised)
        failed(run, raised)
    if error is None:
        run.state.settle()
    end_of_training(run, error)
    if run.interrupted_path:
        # Of what was saved by the ending, this one holds the run as it was: it counts as newest.
        with contextlib.suppress(OSError):
            os.utime(run.interrupted_path)
    run.error, run.interrupted_path = None, ""
    return error


def _told(run: Run, error: BaseException) -> BaseException:
    """Tell the other processes, if there are any; what to raise may come from one of them."""
    if isinstance(error, KeyboardInterrupt) and run.interruption.requested:
        if not run.interruption.forced:
            return error  # they know, and end here as well
    told = run.strategy.failed(error)
    if told is not error:
        told.__cause__ = error
    return told


def _loop(run: Run) -> None:
    state, engine, settings = run.state, run.engine, run.settings
    # One that got no batch was none.
    epochs = state.epoch - (engine.inside_epoch or 0 < state.epoch and run.epoch_empty())
    limit = settings.max_epochs
    batch = 0
    if run.resumed is not None and "samples" in run.resumed:
        _settle(run)
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
    if engine.phase is Phase.INTERRUPTED and engine._paused_at not in BETWEEN_BATCHES:
        # The batch is fetched: finish its step, for an exact continuation.
        handle = engine.listen(
            Events.ITERATION_COMPLETED, lambda engine: engine.interrupt(), order=10_000
        )
        engine.run(run.feed, max_epochs=limit)
        handle.remove()


def _settle(run: Run) -> None:
    """The checkpoint is of another number of processes: go on at the same number of samples."""
    from leyden.handlers.rank_parts import settle

    kept: Any = run.kept
    size = getattr(run.loaders.train, "batch_size", None)
    loader = kept.get("loader")
    run.state.iteration += settle(kept["position"], loader, size, run.strategy.world_size)


def _stopped_by_signal(run: Run) -> None:
    if run.interruption.requested:
        raise KeyboardInterrupt

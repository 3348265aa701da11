"""Put a run back where a checkpoint was saved, each piece at the right moment."""

import logging
import os
from typing import Any

from leyden.checkpoint_choice import WORDS, choose
from leyden.engine import Engine, Events, TrainerEvents, rng
from leyden.engine.errors import MisconfigurationException
from leyden.engine.notice import warn
from leyden.handlers import checkpoint_state
from leyden.handlers.base import Handler
from leyden.moments import event_named, finish, remaining
from leyden.requeueing import is_requeued, left_by_job
from leyden.resuming import stateful
from leyden.saving import own_part, read_checkpoint
from leyden.transfer import move_to_device

__all__ = ["Resume", "load_resume_state", "restore"]

log = logging.getLogger(__name__)

_ITERATION, _EPOCH = Events.ITERATION_COMPLETED.name, Events.EPOCH_COMPLETED.name
_EPOCH_BEGINS = Events.EPOCH_STARTED.name


def restore(run: Any) -> None:
    """Continue from the checkpoint that was asked for, if any."""
    path, run.checkpoint_to_restore = run.checkpoint_to_restore, None
    run.resumed_path = None
    handed, run.handed = run.handed, None
    if not run.state.iteration and handed is None:
        left = left_by_job(run.trainer.weights_save_path)
        if left is not None:
            log.warning(
                "going on from %s, which a job left when its time was up; to begin anew, remove "
                "it, or choose another default_root_dir",
                left,
            )
            path = left
    if path is None:
        if handed is not None:
            checkpoint_state.restore(run.trainer, own_part(run, handed))
        return
    if path in WORDS:
        found = choose(run.trainer, path, trust=run.trust_checkpoint)
    else:
        found = path if "://" in str(path) or os.path.exists(path) else None
    found = run.strategy.broadcast(found)
    if found is None:
        warn(
            f"there is no checkpoint {path!s}: training starts from scratch",
            UserWarning,
        )
        return
    run.resumed_path = found
    checkpoint = read_checkpoint(run, found, trust=run.trust_checkpoint)
    if is_requeued(found):
        run.model.on_hpc_load(checkpoint)
    checkpoint_state.restore(run.trainer, checkpoint)
    run.engine.fire_event(TrainerEvents.CHECKPOINT_LOADED)


def load_resume_state(run: Any, kept: Any, epoch: int, global_step: int) -> None:
    """Go on where a checkpoint was saved.

    ``kept`` is what ``resume_state`` gave; None: the checkpoint has no such part.
    """
    state = run.state
    position = (kept or {}).get("position") or {
        "epoch": epoch,
        "batch": 0,
        "iteration": global_step,
    }
    state.epoch = position["epoch"]
    state.iteration = position["iteration"]
    state.epoch_start = position["iteration"] - position["batch"]
    state.optimizer_steps = global_step
    state.settle()
    run.resumed, run.kept = position, kept
    run.run_id = (kept or {}).get("run") or run.run_id
    if kept and "streams" in kept:
        rng.restore(kept["streams"])
    if position["epoch"] > run.settings.max_epochs:
        raise MisconfigurationException(
            f"the checkpoint is at the beginning of epoch {position['epoch']}, but "
            f"max_epochs={run.settings.max_epochs}: raise max_epochs to go on"
        )
    resume = getattr(run.logger, "resume", None)
    if resume is not None and run.trainer.is_global_zero:
        resume(global_step, (kept or {}).get("logger"))
    if kept:
        run.handlers.add(Resume(run, kept), origin="resume_from_checkpoint")


class Resume(Handler):
    """Puts a run back in place, piece by piece as its first events come, then is gone.

    What was left to do of the event in which the checkpoint was saved is done first: the rest of
    an epoch's end at STARTED, the rest of a batch's end before the next batch is fetched. What the
    start of an epoch resets is restored after it; the streams of random numbers go on where they
    were, whatever was drawn meanwhile.

    Runs on: STARTED (last), EPOCH_STARTED (first and last), GET_BATCH_STARTED (first), once each;
    TRAINING_ENDED.
    """

    order = 98.0
    order_reason = "after the epoch's start hooks, which begin with empty accumulators"

    def __init__(self, run: Any, kept: dict[str, Any]) -> None:
        super().__init__()
        self.run = run
        self.kept = kept
        self.moment: list[Any] = kept.get("moment") or []
        self._positioned: Any = None  # the feed that was told where to go on
        self._heard: Any = None  # the logger, while nothing is written
        self._finished = False

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.STARTED, self.begin, order=10_000)
        self.listen(engine, Events.EPOCH_STARTED, self.restore_streams, order=-10_000)
        self.listen(engine, Events.EPOCH_STARTED, self.restore_epoch)
        self.listen(engine, TrainerEvents.TRAINING_ENDED, self.leave, order=-10_000)

    # ------------------------------------------------------------------ in the order of the events

    def begin(self, engine: Engine) -> None:
        """The run begins: states of handlers and metrics; what is left of an epoch's end."""
        run, position, state = self.run, self.kept["position"], self.run.state
        stopping = run.stopping()
        state.epoch_start = position["epoch_start"]
        if position["optimizer_steps"]:
            for optimizer in run.parts.optimizers:
                # torch warns of a scheduler that steps first; the steps were in another process.
                optimizer._opt_called = True
        self._restore_states()
        if position["should_stop"]:
            stopping.should_stop = True
        stopping.asked = position.get("asked", False)
        if position["inside"]:
            return
        goes_on = not position["epoch_done"] and not stopping.should_stop and not run.nothing_left
        if position["batch"] and not position["epoch_done"] and not goes_on:
            state.epoch += 1  # it was cut, and is over
        if self._inside_of(_EPOCH) and not goes_on:
            run.resumed = run.kept = None  # the epoch that is ending is the one of now
            self._restore_gradients()
            state.closed_at = state.iteration if position["closed"] else -1
            run.module_handler.kept_outputs = list(self.kept.get("outputs", []))
            state.epoch_outputs = run.module_handler.kept_outputs
            self._position_feed()
            run.feed.restore_streams()
            self._finish(engine)
            run.feed.keep_streams()
            self._finished = True
        over = run.nothing_left
        if stopping.should_stop and stopping.minima_met(engine):
            engine.terminate()
            over = True
        if self._inside_of(_EPOCH_BEGINS):
            self._place_streams(engine)
        if over and run.feed is not None:
            self._position_feed()
            run.feed.restore_streams()

    def restore_streams(self, engine: Engine) -> None:
        """At the beginning of an epoch the hooks draw from the streams as they were saved."""
        if self.kept["position"]["inside"] or self._inside_of(_EPOCH_BEGINS):
            self._mute()
        self._position_feed()
        if self.kept["position"]["epoch_done"] and not self._inside_of(_EPOCH_BEGINS):
            self.run.feed.restore_streams()

    def restore_epoch(self, engine: Engine) -> None:
        """Inside an epoch: accumulators, outputs and gradients of its first part."""
        run = self.run
        run.resumed = run.kept = None
        self._unmute()
        self._position_feed()
        if not self._finished:
            self._restore_gradients()
        if self.kept["position"]["epoch_done"]:
            run.feed.keep_streams()
            self.leave(engine)
            return
        self._restore_states()
        run.module_handler.kept_outputs.extend(self.kept.get("outputs", []))
        run.state.epoch_start = run.state.iteration - engine.epoch_iteration
        self.listen(engine, Events.GET_BATCH_STARTED, self.finish_batch, order=-10_000)

    def finish_batch(self, engine: Engine) -> None:
        """What is left of the last batch's end; the streams are in place now."""
        run, state = self.run, self.run.state
        self.leave(engine)
        if self.kept["position"]["closed"]:
            state.closed_at = state.iteration
        if self._inside_of(_ITERATION):
            seen = self.kept.get("batch", {})
            transfer = run.transfer()
            batch = seen.get("batch")
            state.batch = batch if batch is None or transfer is None else transfer(batch)
            state.output, state.outputs = seen.get("output"), seen.get("outputs", [])
            self._finish(engine)
            state.batch = state.output = None
        stopping = run.stopping()
        stopping.after_batch(engine)
        if self.kept["position"]["inside"] and stopping.should_stop:
            stopping.stop()

    def leave(self, engine: Engine) -> None:
        """All is in place, or the run ended before."""
        self.run.resumed = self.run.kept = None
        self._unmute()
        if self in self.run.handlers:
            self.run.handlers.remove(self)

    # ------------------------------------------------------------------ parts

    def _inside_of(self, event: str) -> bool:
        return bool(self.moment) and self.moment[0][1] == event

    def _position_feed(self) -> None:
        feed, loader = self.run.feed, self.kept.get("loader")
        if loader is not None and feed is not None and feed is not self._positioned:
            # A loader that is made anew each epoch has a new feed.
            feed.load_state_dict({**loader, "loader": None} if self._begins_anew() else loader)
            self._positioned = feed

    def _begins_anew(self) -> bool:
        """Whether the coming epoch has workers of its own, which know of no epoch before."""
        position, loader = self.kept["position"], self.kept["loader"]["loader"]
        every = int(self.run.settings.reload_dataloaders_every_epoch)
        indexed = loader is not None and loader["kind"] == "indexed"
        return bool(every and indexed and position["epoch_done"] and not position["epoch"] % every)

    def _place_streams(self, engine: Engine) -> None:
        """The checkpoint was saved by a hook of an epoch's start: those before it have drawn."""
        rest = remaining(engine, Events.EPOCH_STARTED, self.moment[0][2])
        own = [record for record in rest if record.owner is not self]
        order = own[0].order - 1e-9 if own else 97.0
        self.listen(
            engine,
            Events.EPOCH_STARTED,
            self._go_on,
            order=order,
        )

    def _go_on(self, engine: Engine) -> None:
        self._unmute()
        self.run.feed.restore_streams()

    def _mute(self) -> None:
        """The epoch began in another process, and its first rows are written."""
        run = self.run
        if run.guard is not None and self._heard is None:
            self._heard = run.guard
            run.guard = run.recorder.logger = _Silent(run.guard)

    def _unmute(self) -> None:
        if self._heard is not None:
            self.run.guard = self.run.recorder.logger = self._heard
            self._heard = None

    def _restore_states(self) -> None:
        metrics, device = self.kept["metrics"], self.run.strategy.root_device
        if device.type != "cpu" and not self.run.settings.move_metrics_to_cpu:
            # Where they were: sums of values from two places would be added in another order.
            metrics = move_to_device(metrics, device)
        self.run.recorder.load_state_dict(metrics)
        states = self.kept["handlers"]
        for key, handler in stateful(self.run):
            if key in states:
                handler.load_state_dict(states[key])

    def _restore_gradients(self) -> None:
        named, strategy = dict(self.run.model.named_parameters()), self.run.strategy
        for name, gradient in self.kept["gradients"].items():
            like = named[name]
            like.grad = strategy.spread(gradient.clone().to(like.device), like)

    def _finish(self, engine: Engine) -> None:
        """Run the handlers behind the one that saved; a validation inside comes to its end too."""
        run = self.run
        (_, name, done), *inner = self.moment
        validated = False
        for stage, event, inner_done in inner:
            if stage == "validate" and event == Events.COMPLETED.name:
                run.evaluators["validate"].state.on_epoch = name == _EPOCH
                run.recorder.eval_started("validate", len(run.loaders.num_batches["validate"]))
                try:
                    with run.surroundings.entered():
                        finish(run.evaluators["validate"], Events.COMPLETED, inner_done)
                finally:
                    run.recorder.eval_finished()
                engine.fire_event(TrainerEvents.VALIDATION_COMPLETED)
                validated = True
            elif event == TrainerEvents.VALIDATION_COMPLETED.name:
                finish(engine, TrainerEvents.VALIDATION_COMPLETED, inner_done)
                validated = True
        if not validated and any(stage == "validate" or "VALIDATION" in e for stage, e, _ in inner):
            done = done[:-1]  # it was in the middle of a validation: that is done again
        finish(engine, event_named(engine, name), done)


class _Silent:
    """A logger that writes nothing."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        if "log_" in name:
            return lambda *args, **named: None
        return getattr(self._logger, name)

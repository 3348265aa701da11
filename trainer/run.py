"""The parts of one Trainer and the procedures over them: fit and the evaluations.

Nothing here is a feature: features are handlers, put on the engines by ``assembly.py``. What
remains is the order in which a run is prepared, looped and ended.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from leyden.backends.plugins import named, plugin_of
from leyden.backends.precision import Precision, QuantizedTraining, precision_for
from leyden.backends.precision.quantized import plain_again
from leyden.backends.strategies import Strategy, strategy_for
from leyden.bringing import Bringing
from leyden.compiling import Compiling
from leyden.dev_debugger import make_recorder
from leyden.engine import Engine, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.engine.feed import Feed
from leyden.engine.phases import Phase
from leyden.engine.state import TrainState, give_state
from leyden.engine.step import TrainingStep, register_training_events
from leyden.handler_set import HandlerSet
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.cost import CostMeter
from leyden.handlers.evaluation import EvalFeed, Surroundings, evaluate, evaluator
from leyden.handlers.gpu_memory import GPUMemoryRows
from leyden.handlers.interruption import Interruption
from leyden.handlers.loggers.guard import guarded
from leyden.handlers.profiling import acted
from leyden.handlers.schedulers import LRSchedulers
from leyden.handlers.stopping import Stopping
from leyden.loaders import INFINITE, Loaders
from leyden.memory_errors import memory_explained
from leyden.module import LightningModule
from leyden.module_handler import ModuleHandler
from leyden.optimizers import OptimizerSet
from leyden.overrides import overrides
from leyden.restoring import load_resume_state, restore
from leyden.resuming import resume_state
from leyden.saving import write_checkpoint
from leyden.states import TrainerState
from leyden.stepping import evaluation_step
from leyden.uneven import feed_of

__all__ = ["Run", "TrainerState"]

log = logging.getLogger(__name__)
STAGES = ("validate", "test", "predict")


class Run:
    """The engines, the loaders and the recorder of one Trainer.

    Attributes:
        engine: the training engine; ``evaluators`` those of validation, test and prediction.
        handlers: everything attached to them.
        recorder: takes the values of ``self.log``.
        settings: the arguments in force; read, never written here.
    """

    def __init__(self, settings: Any, trainer: Any) -> None:
        self.settings = settings
        self.engine = Engine(self._step, data_ends_epoch=True, reraise=True)
        register_training_events(self.engine)
        self.state: TrainState = give_state(self.engine, TrainState)
        self.evaluators = {
            stage: evaluator(self._evaluation_step(stage), stage) for stage in STAGES
        }
        self.handlers = HandlerSet(self.engines_of)
        self.recorder = make_recorder(
            log_every_n_steps=settings.log_every_n_steps,
            move_metrics_to_cpu=settings.move_metrics_to_cpu,
            fast_dev_run=settings.fast_dev_run is True or settings.fast_dev_run == 1,
        )
        self.interruption = Interruption(self.engine, *self.evaluators.values())
        self.cost = CostMeter(self.engine, self.evaluators.values())
        self.step: TrainingStep | None = None
        self.steps: dict[str, Any] = {}
        self.parts = OptimizerSet()
        self.strategy: Strategy = strategy_for(settings)
        self.loaders = Loaders(self.strategy.share, processes=self.strategy.world_size)
        self.precision = plugin_of(settings.plugins, Precision) or precision_for(
            settings.precision,
            self.strategy.root_device.type,
            amp_backend=settings.amp_backend,
            amp_level=settings.amp_level,
            apex=named(settings.plugins, "apex"),
        )
        self.compiling = Compiling(settings, self.strategy.root_device)
        self.surroundings = Surroundings(None)
        self.bringing = Bringing(self)
        self.model: Any = None
        self.datamodule: Any = None
        self.status = TrainerState.INITIALIZING
        self.stage: str | None = None
        self.interrupted = False
        self.sanity_checking = False
        self.module_handler: ModuleHandler | None = None
        self.schedulers: LRSchedulers | None = None
        self.features: dict[Any, Any] = {}
        self.logger: Any = None
        self.guard: Any = None  # stands before it: a logger that fails does not end the run
        self.callback_list: list[Any] = []
        self.model_callbacks: list[Any] | None = None
        self.sanity_batches: list[float] = []
        self.tested_path: Any = None
        self.told_twice: set[str] = set()  # names that the progress bar has twice, told of
        self.checkpoint_to_restore: Any = None
        self.trust_checkpoint = False  # whether reading it may run code
        self.run_id = ""  # the same in every process that continues the run
        self.resumed: dict[str, Any] | None = None
        self.kept: dict[str, Any] | None = None  # restored, until the first epoch goes on
        self.handed: Any = None  # by the processes of the last fit, for the next one
        self.requeueing = False  # whether what is saved is for the job's next turn
        self.closed_before_error = False  # whether its last batch made a step
        self.error: BaseException | None = None  # what ended the training, while it ends
        self.nothing_left = False
        self.interrupted_path = ""
        self.resumed_path: Any = None  # what the run goes on from
        self.feed: Feed | None = None
        for engine in (self.engine, *self.evaluators.values()):
            state: Any = engine.state
            state.trainer = trainer
        self.trainer = trainer

    # ------------------------------------------------------------------ the parts

    def engines_of(self, handler: Any) -> list[Engine]:
        """The engines that a handler listens on: all for callbacks, else the training engine."""
        if isinstance(handler, (CallbackBase, ModuleHandler)):
            return [self.engine, *self.evaluators.values()]
        return [self.engine]

    def _step(self, engine: Engine, batch: Any) -> Any:
        raise MisconfigurationException("call trainer.fit(model) to run the training engine")

    def _evaluation_step(self, stage: str) -> Callable[[Engine, Any], Any]:
        def step(engine: Engine, batch: Any) -> Any:
            return self.steps[stage](engine, batch)

        return step

    def callbacks(self) -> list[Any]:
        """The handlers that are callbacks, in order."""
        return [handler for handler in self.handlers if isinstance(handler, CallbackBase)]

    def stopping(self) -> Stopping:
        """The handler that decides when training ends."""
        found: Stopping = self.handlers["Stopping"]
        return found

    def call(self, hook: str, *arguments: Any, module: bool = True, reverse: bool = False) -> None:
        """Call a hook that belongs to no event, of the callbacks, then of the module itself."""
        self.recorder.hook = hook

        def on_module() -> None:
            if module and self.model is not None and overrides(self.model, hook, LightningModule):
                getattr(self.model, hook)(*arguments)

        if reverse:
            on_module()
        for callback in self.callbacks():
            if callback.defines(hook):
                getattr(callback, hook)(self.trainer, self.model, *arguments)
        if not reverse:
            on_module()

    def say_hooks(self, hook: str) -> None:
        """Call a callback's hook that takes the Trainer alone."""
        for callback in self.callbacks():
            if callback.defines(hook):
                getattr(callback, hook)(self.trainer)

    def use_logger(self, logger: Any) -> None:
        """Take this logger from now on."""
        self.logger, self.guard = logger, guarded(logger)
        memory = self.settings.log_gpu_memory
        if memory is not None and logger is not None:
            self.guard = GPUMemoryRows(self.guard, memory, self._on_gpu)
        self.recorder.logger = self.guard

    def _on_gpu(self) -> bool:
        return self.strategy.root_device.type == "cuda"

    @property
    def in_batch(self) -> bool:
        """Whether a batch has begun that is not over."""
        return self.engine.phase is Phase.STEPPING

    @property
    def by_hand(self) -> bool:
        """Whether the training step of now does backward pass and optimizer step itself."""
        return self.step is not None and self.step.manual

    def loader_of_batch(self) -> int | None:
        """The loader of the evaluation batch that has begun; None where there is only one."""
        for engine in self.evaluators.values():
            state: Any = engine.state
            if engine.phase is Phase.STEPPING and state.num_loaders > 1:
                return int(state.dataloader_idx)
        return None

    def say(self, message: str) -> None:
        """Tell the user, on the first process."""
        log.info(message)

    def save_logger(self) -> None:
        """Make the loggers write."""
        if self.guard is not None and self.trainer.is_global_zero:
            self.guard.save()

    # ------------------------------------------------------------------ before and after a run

    @contextmanager
    def running(self, model: Any, stage: str) -> Iterator[None]:
        """Connect the module for one run; it is free again afterwards, whatever happens."""
        if model is not self.model:
            self.forget()
        self.model = model
        self.stage, self.status = stage, TrainerState.RUNNING
        model.trainer = self.trainer
        model._recorder = self.recorder
        for engine in (self.engine, *self.evaluators.values()):
            state: Any = engine.state
            state.model, state.scope = model, self.recorder
        self.recorder.bind(self.state, model)
        self.interrupted = False
        self.state.settle()
        self.cost.start()
        try:
            self.strategy.connect()
            if self.strategy.world_size > 1:
                from leyden.together import join

                join(self)
            with self.interruption.listening(ending=stage == "fit"), memory_explained(self):
                yield
        except Exception as error:
            told = self.strategy.failed(error)
            if told is error:
                raise
            raise told from error
        finally:
            self.cost.stop()
            self.stage = None
            self.recorder.hook = None
            self.precision.release()
            self.compiling.release()
            self.strategy.release()
            model._recorder = None
            model._untoggle_all()

    def forget(self) -> None:
        """Begin from nothing: another model makes another run."""
        state = self.state
        state.max_epochs = state.max_iters = None
        state.epoch = state.iteration = state.optimizer_steps = state.epoch_start = 0
        state.settle()
        self.parts = OptimizerSet()
        self.resumed = self.kept = self.handed = None
        self.run_id = secrets.token_hex(8)
        for callback in self.model_callbacks or ():
            self.callback_list.remove(callback)
            self.handlers.remove(callback)
        self.model_callbacks = None

    def prepare_data(self) -> None:
        """``prepare_data`` of the data module and of the module, each if it was not done before."""
        if self._prepares_here():
            self._prepare_data()
        self.strategy.barrier("prepare_data")

    def _prepare_data(self) -> None:
        data = self.datamodule
        if data is not None and not data.has_prepared_data:
            data.prepare_data()
        elif data is not None:
            # Source: Lightning 1.1: a data module that is prepared stands for the module, too.
            return
        if overrides(self.model, "prepare_data", LightningModule):
            self.recorder.hook = "prepare_data"
            self.model.prepare_data()

    def _prepares_here(self) -> bool:
        trainer = self.trainer
        rank = trainer.local_rank if self.settings.prepare_data_per_node else trainer.global_rank
        return bool(rank == 0)

    def setup(self, stage: str) -> None:
        """``setup(stage)`` of the data module, the callbacks and the module."""
        data = self.datamodule
        if data is not None and not getattr(data, f"has_setup_{stage}"):
            data.setup(stage)
        self.call("setup", stage)

    def bind(self) -> None:
        """Attach the hooks that the module and the callbacks really override."""
        if self.module_handler is not None:
            self.handlers.remove(self.module_handler)
        for callback in self.callbacks():
            self.handlers.refresh(callback)
        self.module_handler = ModuleHandler(self.model, self.recorder)
        self.handlers.add(self.module_handler, origin=f"model={type(self.model).__name__}")
        words = ("validation", "test", "predict")
        switches = [f"on_{word}_model_{mode}" for word in words for mode in ("eval", "train")]
        own = any(overrides(self.model, name, LightningModule) for name in switches)
        self.surroundings = Surroundings(self.model, set_mode=not own)
        for stage in STAGES:
            self.steps[stage] = evaluation_step(
                self.model,
                stage,
                scope=self.recorder,
                started=None if stage == "predict" else self.recorder.eval_batch_started,
                precision=self.precision,
                compiling=self.compiling,
                strategy=self.strategy,
            )

    def prepare_precision(self, optimizers: Sequence[Any] = (), *, fresh: bool = False) -> None:
        """Let the model compute with as many bits as were asked for."""
        if not isinstance(self.precision, QuantizedTraining):
            plain_again(self.model)
        self.model.precision, self.model.use_amp = self.settings.precision, self.trainer.use_amp
        self.precision.prepare(self.model, optimizers, fresh=fresh)

    def transfer(self) -> Callable[[Any], Any] | None:
        """What brings a batch to the device; None where nothing has to be done."""
        return self.bringing.whole()

    # ------------------------------------------------------------------ the training loader

    def request_training(self) -> Feed:
        """Ask for the training loader and make the feed of the engine."""
        loaders, settings = self.loaders, self.settings
        loaders.request_train(LightningModule, settings)
        make, limit = feed_of(self)
        self.state.num_batches = loaders.num_training_batches
        feed = self.feed = make(loaders.train, limit=limit, **self.bringing.of_feed(loaders.train))
        if "Validation" in self.handlers:
            self.handlers["Validation"].every_n_batches = loaders.val_check_batch(
                settings.val_check_interval
            )
            self.handlers.refresh(self.handlers["Validation"])
        return feed

    def reload_training(self) -> None:
        """Ask for the training loader again, for the epoch that begins."""
        self.engine.set_data(self.request_training())

    # ------------------------------------------------------------------ checkpoints

    def restore(self) -> None:
        """Continue from the checkpoint that was asked for, if any."""
        restore(self)

    def save_checkpoint(self, path: Any, weights_only: bool) -> None:
        """Write a checkpoint of the run as it is now."""
        if self.model is None:
            raise MisconfigurationException("save_checkpoint has no model: call fit(model) first")
        if self.handed is not None:
            from leyden.launching import save_handed

            return save_handed(self, path, weights_only)
        folder = os.path.dirname(os.fspath(path))
        if folder and "://" not in folder:
            os.makedirs(folder, exist_ok=True)
        with acted(self.settings.profiler, "save_checkpoint"):
            write_checkpoint(self, path, weights_only)
        self.state.saved_path = os.fspath(path)
        saved = self.engine.channel(TrainerEvents.CHECKPOINT_SAVED)
        if saved.live:
            saved.fire()

    def resume_state(self) -> dict[str, Any]:
        """What the next process needs beside weights, optimizers and callbacks, as plain data."""
        self.save_logger()  # the rows up to here are there when the checkpoint is
        return resume_state(self)

    def epoch_done(self) -> bool:
        """Whether all of the epoch ran, its end hooks included or just running."""
        state = self.state
        if self.engine.inside_epoch or self.epoch_empty():
            return False
        return (
            state.num_batches == INFINITE
            or state.iteration - state.epoch_start >= state.num_batches
        )

    def epoch_empty(self) -> bool:
        """Whether no batch of the epoch was begun."""
        return self.state.iteration == self.state.epoch_start

    def load_resume_state(self, kept: Any, epoch: int, global_step: int) -> None:
        """Go on where a checkpoint was saved."""
        load_resume_state(self, kept, epoch, global_step)

    def evaluate_alone(
        self,
        stage: str,
        model: Any,
        loaders: Any,
        ckpt_path: Any,
        verbose: bool,
        datamodule: Any,
        later: Any,
    ) -> Any:
        """See ``evaluating.py``."""
        from leyden.evaluating import evaluate_alone

        datamodule = self.trainer._connect(model, datamodule, (loaders, later))
        return evaluate_alone(
            self, stage, model, loaders if later is None else later, ckpt_path, verbose, datamodule
        )

    # ------------------------------------------------------------------ evaluation

    @property
    def validates(self) -> bool:
        """Whether this run has a validation step and batches for it."""
        model = self.model
        return (
            model is not None
            and overrides(model, "validation_step", LightningModule)
            and self.settings.limit_val_batches > 0
            and bool(
                sum(self.loaders.num_batches.get("validate", [])) or not self._requested("validate")
            )
            and self.loaders.source("val_dataloader", LightningModule) is not None
        )

    def _requested(self, stage: str) -> bool:
        return stage in self.loaders.evaluation

    def request_validation(self) -> None:
        """Ask for the validation loaders where they will be used."""
        if overrides(self.model, "validation_step", LightningModule) and (
            self.loaders.source("val_dataloader", LightningModule) is not None
        ):
            self.loaders.request_evaluation("validate", LightningModule, self.settings)

    def sanity_check(self) -> None:
        """Run a few validation batches before training, for their errors only."""
        steps = self.settings.num_sanity_val_steps
        if not self.validates:
            return
        self.sanity_checking = True
        counts = self.loaders.num_batches["validate"]
        self.sanity_batches = [min(count, steps) for count in counts]
        self.engine.fire_event(TrainerEvents.SANITY_CHECK_STARTED)
        try:
            self.evaluate("validate", "sanity", limits=self.sanity_batches)
            self.engine.fire_event(TrainerEvents.SANITY_CHECK_COMPLETED)
        finally:
            self.sanity_checking = False

    def validate_in_training(self, on_epoch: bool) -> None:
        """One validation inside fit."""
        if self.validates:
            every = int(self.settings.reload_dataloaders_every_epoch)
            due = every > 0 and (self.state.epoch - 1) % every == 0
            if due or not self._requested("validate"):
                self.request_validation()
            self.evaluate("validate", "validate", on_epoch=on_epoch)

    def evaluate(
        self, stage: str, name: str, *, limits: list[float] | None = None, on_epoch: bool = False
    ) -> Any:
        """Run one evaluation engine over its loaders and give the results."""
        engine = self.evaluators[stage]
        state: Any = engine.state
        loaders = self.loaders.evaluation[stage]
        counts = self.loaders.num_batches[stage] if limits is None else limits
        state.num_loaders = len(loaders)
        state.on_epoch = on_epoch
        hook, self.recorder.hook = self.recorder.hook, None
        self.recorder.eval_started(name, len(loaders))
        feed = EvalFeed(state, loaders, counts, self.transfer())
        try:
            with self.surroundings.entered(), memory_explained(self, stage):
                results = evaluate(engine, feed)
        finally:
            self.recorder.eval_finished()
            self.recorder.hook = hook
        if engine.phase is Phase.INTERRUPTED:
            raise KeyboardInterrupt
        predictions = self.model._predictions
        if predictions is not None:
            predictions.write(self.trainer.global_rank, self.trainer.world_size)
        return results

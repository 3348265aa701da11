"""What can be read from a Trainer while it runs and afterwards; the parts hold it."""

import os
import warnings
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from leyden.by_hand import manual_backward
from leyden.config import CHECKS
from leyden.engine import Engine
from leyden.engine.notice import warn
from leyden.handler_set import HandlerSet
from leyden.handlers.accumulation_scheduler import GradientAccumulationScheduler
from leyden.handlers.early_stopping import EarlyStopping
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.handlers.progress import ProgressBarBase
from leyden.handlers.running_loss import RunningLoss
from leyden.hardware import HardwareProperties
from leyden.observers import change
from leyden.replacing_optimizers import use_optimizers, use_schedulers
from leyden.run import Run
from leyden.settings import Settings

__all__ = ["TrainerProperties"]


class TrainerProperties(HardwareProperties):
    """The read side of :class:`leyden.Trainer`; it has no state of its own."""

    _run: Run
    _settings: Settings

    def _change(self, name: str, value: Any) -> None:
        """Set one argument, by the rules of ``settings.py``, and remake what reads it."""
        change(name, value, self._settings, self._run)
        self._list_arguments()

    def _list_arguments(self) -> None:
        """Let ``vars(trainer)`` have every argument: programs filter their settings by it."""
        self.__dict__.update({name: getattr(self._settings, name) for name in CHECKS})

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle, or a copy, has the arguments, callbacks and loggers, and has not run yet."""
        given = dict(self._settings.given)
        clocks = [one for one in self.callbacks if getattr(one, "origin", "")[:8] == "max_time"]
        given["callbacks"] = [one for one in self.callbacks if one not in clocks]
        if not isinstance(given.get("checkpoint_callback", True), bool):
            del given["checkpoint_callback"]  # it is among the callbacks
        if self.logger is not None and not self._settings.fast_dev_run:
            given["logger"] = self.logger
        return _again, (type(self), given)

    # ------------------------------------------------------------------ position

    @property
    def current_epoch(self) -> int:
        """0-based; after fit that of the last epoch."""
        run = self._run
        # Restored, and the first epoch has not begun: the one to come.
        return run.resumed["epoch"] if run.resumed is not None else max(run.state.epoch - 1, 0)

    @current_epoch.setter
    def current_epoch(self, value: int) -> None:
        self._run.state.epoch = value + 1 if value else 0

    @property
    def global_step(self) -> int:
        """Completed optimizer steps, groups of batches; one behind until a batch is over."""
        return self._run.state.global_step

    @global_step.setter
    def global_step(self, value: int) -> None:
        self._run.state.settle()
        self._run.state.optimizer_steps = value

    @property
    def optimizer_steps(self) -> int:
        """Completed optimizer steps, this batch's included."""
        return self._run.state.optimizer_steps

    @property
    def batch_idx(self) -> int:
        """0-based number of the batch in its epoch."""
        return self._run.state.batch_idx

    @property
    def total_batch_idx(self) -> int:
        """0-based number of the batch in the whole run."""
        run = self._run
        return max(run.state.iteration - (1 if run.in_batch else 0), 0)

    @property
    def split_idx(self) -> int | None:
        """0-based number of the split in truncated back-propagation."""
        return self._run.state.split_idx

    @property
    def should_stop(self) -> bool:
        """Ask for the end of training by setting it to True."""
        stopping = self._run.stopping()
        return bool(stopping.should_stop or stopping.asked)

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        stopping = self._run.stopping()
        if value:
            stopping.stop()
        else:
            stopping.should_stop = False

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the last run."""
        return self._run.interrupted

    @property
    def exit_code(self) -> int:
        """What to end the script with after Ctrl-C, ``sys.exit(trainer.exit_code)``: 130; else 0.

        After SIGTERM and SIGUSR1 ``fit`` ends the script itself, with 143 and 138.
        """
        return self._run.interruption.exit_code

    @property
    def state(self) -> str:
        """INITIALIZING, RUNNING, FINISHED or INTERRUPTED."""
        return self._run.status

    # By this name functions of Lightning 1.1 set it.
    @property
    def _state(self) -> str:
        return self._run.status

    @_state.setter
    def _state(self, value: str) -> None:
        self._run.status = value

    @property
    def training(self) -> bool:
        """Whether fit runs, the sanity check excluded."""
        return self._run.stage == "fit" and not self._run.sanity_checking

    @property
    def testing(self) -> bool:
        """Whether test runs."""
        return self._run.stage == "test"

    @property
    def validating(self) -> bool:
        """Whether validate runs."""
        return self._run.stage == "validate"

    @property
    def predicting(self) -> bool:
        """Whether predict runs."""
        return self._run.stage == "predict"

    @property
    def running_sanity_check(self) -> bool:
        """Whether the validation before training runs."""
        return self._run.sanity_checking

    sanity_checking = running_sanity_check

    # ------------------------------------------------------------------ parts

    @property
    def engine(self) -> Engine:
        """The training engine: ignite's handlers attach to it."""
        return self._run.engine

    @property
    def evaluators(self) -> Mapping[str, Engine]:
        """The engines of validation, test and prediction, by stage."""
        return self._run.evaluators

    @property
    def handlers(self) -> HandlerSet:
        """Everything attached; can be added to, removed from and replaced."""
        return self._run.handlers

    @property
    def model(self) -> Any:
        """The module of the last run; None before."""
        return self._run.model

    @model.setter
    def model(self, value: Any) -> None:
        self._run.model = value

    lightning_module = model

    def get_model(self) -> Any:
        """The module of the last run; None before."""
        return self._run.model

    @property
    def datamodule(self) -> Any:
        """The data module of the last run, or None."""
        return self._run.datamodule

    @datamodule.setter
    def datamodule(self, value: Any) -> None:
        self._run.datamodule = value

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers of the run."""
        return self._run.parts.optimizers

    @optimizers.setter
    def optimizers(self, value: list[Any]) -> None:
        use_optimizers(self._run, value)

    @property
    def lightning_optimizers(self) -> dict[int, Any]:
        """The optimizers as user code steps them, by index."""
        step = self._run.step
        return {} if step is None else dict(enumerate(step.proxies))

    @property
    def lr_schedulers(self) -> list[dict[str, Any]]:
        """The scheduler entries of the run."""
        return self._run.parts.schedulers

    @lr_schedulers.setter
    def lr_schedulers(self, value: list[Any]) -> None:
        use_schedulers(self._run, value)

    @property
    def optimizer_frequencies(self) -> list[int]:
        """Batches in a row for each optimizer; empty where all step on each batch."""
        return self._run.parts.frequencies

    def manual_backward(self, loss: Any, *args: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """The backward pass of a module that optimizes by hand, for this optimizer."""
        manual_backward(self._run, loss, optimizer, *args, **kwargs)

    # ------------------------------------------------------------------ data

    @property
    def train_dataloader(self) -> Any:
        """The training loader, once it was asked for."""
        return self._run.loaders.train

    @property
    def val_dataloaders(self) -> Any:
        """The validation loaders, once they were asked for."""
        return self._run.loaders.evaluation.get("validate")

    @property
    def test_dataloaders(self) -> Any:
        """The test loaders, once they were asked for."""
        return self._run.loaders.evaluation.get("test")

    @property
    def num_training_batches(self) -> float:
        """Batches of a training epoch, after the limit; infinity where it is unknown."""
        return self._run.loaders.num_training_batches

    @property
    def val_check_batch(self) -> float:
        """After how many batches of an epoch it validates; infinity: where its data ends."""
        run = self._run
        return run.loaders.val_check_batch(run.settings.val_check_interval)

    @property
    def num_val_batches(self) -> list[float]:
        """Batches of each validation loader, after the limit."""
        return self._run.loaders.num_batches.get("validate", [])

    @property
    def num_test_batches(self) -> list[float]:
        """Batches of each test loader, after the limit."""
        return self._run.loaders.num_batches.get("test", [])

    @property
    def num_predict_batches(self) -> list[float]:
        """Batches of each prediction loader, after the limit."""
        return self._run.loaders.num_batches.get("predict", [])

    @property
    def num_sanity_val_batches(self) -> list[float]:
        """Batches of each loader in the check before training."""
        return self._run.sanity_batches

    @property
    def enable_validation(self) -> bool:
        """Whether fit validates: there is a step, and batches for it."""
        return self._run.validates

    @property
    def disable_validation(self) -> bool:
        """The opposite of ``enable_validation``."""
        return not self._run.validates

    # ------------------------------------------------------------------ metrics

    @property
    def callback_metrics(self) -> Mapping[str, Any]:
        """The newest value of everything logged; tensors stay tensors."""
        return self._run.recorder.callback_metrics

    @callback_metrics.setter
    def callback_metrics(self, metrics: Mapping[str, Any]) -> None:
        _replace(self._run.recorder.callback_metrics, metrics)

    @property
    def logged_metrics(self) -> Mapping[str, Any]:
        """What went to the loggers last."""
        return self._run.recorder.logged_metrics

    @logged_metrics.setter
    def logged_metrics(self, metrics: Mapping[str, Any]) -> None:
        _replace(self._run.recorder.logged_metrics, metrics)

    @property
    def progress_bar_metrics(self) -> Mapping[str, Any]:
        """What was logged with ``prog_bar=True``."""
        return self._run.recorder.progress_bar_metrics

    @progress_bar_metrics.setter
    def progress_bar_metrics(self, metrics: Mapping[str, Any]) -> None:
        _replace(self._run.recorder.progress_bar_metrics, metrics)

    @property
    def progress_bar_dict(self) -> dict[str, Any]:
        """What the bar shows: the module's items, then the logged ones."""
        model = self._run.model
        items = {} if model is None else dict(model.get_progress_bar_dict())
        logged = self._run.recorder.progress_bar_metrics
        twice = sorted((items.keys() & logged.keys()) - self._run.told_twice)
        if model is not None and not model.automatic_optimization and "loss" in twice:
            twice.remove("loss")  # Lightning 1.1's bar has no loss there, so a module logs its own
        if twice:
            self._run.told_twice.update(twice)  # the bar asks ten times a second
            warn(
                "The progress bar already tracks a metric with the name(s) "
                f"{', '.join(map(repr, twice))}, and self.log({twice[0]!r}, ..., prog_bar=True) "
                "replaces it: log under another name, or leave it out of get_progress_bar_dict()",
                UserWarning,
            )
        return {**items, **logged}

    @property
    def running_loss(self) -> Any:
        """The mean loss of the last 20 optimizer steps, a tensor; None before the first.

        It is kept from the moment somebody first asks for it (a progress bar does).
        """
        handlers = self._run.handlers
        if "RunningLoss" not in handlers:
            handler = handlers.add(RunningLoss(), origin="progress_bar_dict")
            handler.start(self._run.engine)
        return handlers["RunningLoss"].mean()

    # ------------------------------------------------------------------ loggers, callbacks, paths

    @property
    def guarded_logger(self) -> Any:
        """What handlers log through: a logger that fails is told of, and does not end the run."""
        return self._run.guard

    @property
    def logger(self) -> Any:
        """The logger, a collection of several, or None."""
        return self._run.logger

    @logger.setter
    def logger(self, value: Any) -> None:
        self._change("logger", value)

    @property
    def log_dir(self) -> str | None:
        """Where the logger writes; ``default_root_dir`` without one."""
        logger = self._run.logger
        if logger is None:
            return self.default_root_dir
        for name in ("log_dir", "save_dir"):
            found = getattr(logger, name, None)
            if found is not None:
                return str(found)
        return None

    @property
    def callbacks(self) -> list[Any]:
        """The callbacks, in the list that was given; a change of it takes part in the next run."""
        return self._run.callback_list

    @callbacks.setter
    def callbacks(self, value: Any) -> None:
        self._change("callbacks", value)

    @property
    def checkpoint_callbacks(self) -> list[Any]:
        """All ModelCheckpoints."""
        return [callback for callback in self.callbacks if isinstance(callback, ModelCheckpoint)]

    @property
    def checkpoint_callback(self) -> Any:
        """The first ModelCheckpoint, or None; under fast_dev_run it saves nothing."""
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[Any]:
        """All EarlyStoppings."""
        return [callback for callback in self.callbacks if isinstance(callback, EarlyStopping)]

    @property
    def early_stopping_callback(self) -> Any:
        """The first EarlyStopping, or None."""
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def progress_bar_callback(self) -> Any:
        """The progress bar, or None."""
        return next(
            (callback for callback in self.callbacks if isinstance(callback, ProgressBarBase)), None
        )

    @property
    def accumulate_grad_batches(self) -> int | dict[int, int]:
        """Batches to an optimizer step: during fit the number in force, otherwise the argument."""
        if self._run.stage == "fit":
            return self._run.state.accumulate_grad_batches
        found: int | dict[int, int] = self._settings.accumulate_grad_batches
        return found

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, value: int | dict[int, int]) -> None:
        self._change("accumulate_grad_batches", value)

    @property
    def accumulation_scheduler(self) -> GradientAccumulationScheduler:
        """The schedule of the numbers of batches to a step: the callback, else the argument's."""
        for callback in self.callbacks:
            if isinstance(callback, GradientAccumulationScheduler):
                return callback
        factor = self._settings.accumulate_grad_batches
        return GradientAccumulationScheduler(factor if isinstance(factor, dict) else {0: factor})

    @property
    def default_root_dir(self) -> str:
        """Where logs and checkpoints go if nothing else is said."""
        return _path(self._settings.default_root_dir or os.getcwd())

    @property
    def weights_save_path(self) -> str:
        """Where checkpoints go if nothing else is said."""
        return _path(self._settings.weights_save_path or self.default_root_dir)

    @weights_save_path.setter
    def weights_save_path(self, value: Any) -> None:
        self._change("weights_save_path", value)

    @property
    def tested_ckpt_path(self) -> Any:
        """The file whose weights a test loaded last, or None."""
        return self._run.tested_path

    # ------------------------------------------------------------------ checkpoints

    @property
    def run_id(self) -> str:
        """The run's name, by which its checkpoints are known; the same when it goes on."""
        return self._run.run_id

    def resume_state(self) -> dict[str, Any]:
        """What a checkpoint holds of the run itself, as plain data."""
        return self._run.resume_state()

    def load_resume_state(self, state: Any, epoch: int, global_step: int) -> None:
        """Go on where a checkpoint was saved."""
        self._run.load_resume_state(state, epoch, global_step)


def _again(kind: Any, given: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it was told when they were given
        return kind(**given)


def _path(value: Any) -> str:
    text = str(os.fspath(value))
    return text if "://" in text else os.path.normpath(os.path.expanduser(text))


def _replace(kept: dict[str, Any], metrics: Mapping[str, Any]) -> None:
    """Give a dict that others hold as well other entries."""
    entries = dict(metrics)
    kept.clear()
    getattr(kept, "store", kept.update)(entries)


# The arguments that are no more than that; Trainer.__setattr__ sets them.
for _name in CHECKS.keys() - set(dir(TrainerProperties)):
    setattr(TrainerProperties, _name, property(attrgetter(f"_settings.{_name}")))

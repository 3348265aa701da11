"""The parts of a run that watch and keep: loggers, checkpoints, progress bar, summary, the user's callbacks."""

import os
from collections.abc import Iterable
from typing import Any

from leyden.assembly import origin_of
from leyden.engine.errors import MisconfiguredType, MisconfiguredValue
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.loggers import DummyLogger, LoggerCollection
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.handlers.progress import ProgressBar, ProgressBarBase
from leyden.handlers.timer import Timer
from leyden.run import Run
from leyden.settings import Settings

__all__ = ["add_callbacks", "assemble_observers", "make_logger"]


def assemble_observers(settings: Settings, run: Run, trainer: Any) -> None:
    """Make loggers and callbacks of the arguments; callbacks come in the order of ``trainer.callbacks``."""
    given = settings.callbacks
    # The user's own list: what is added here shows in it, as in Lightning 1.1.
    callbacks = given if isinstance(given, list) else [] if given is None else [given]
    run.callback_list = callbacks
    for index, callback in enumerate(callbacks):
        run.handlers.add(callback, origin=f"callbacks[{index}]" if isinstance(given, list) else "callbacks")
    saver = settings.checkpoint_callback
    if isinstance(saver, CallbackBase):
        add_callbacks(run, [saver], origin="checkpoint_callback")
    elif saver and not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        made = ModelCheckpoint()
        add_callbacks(run, [made], origin=origin_of(("checkpoint_callback",), settings))
    if settings.max_time is not None:
        add_callbacks(run, [Timer(settings.max_time)], origin=origin_of(("max_time",), settings))
    _progress_bar(settings, run)
    trainer.logger = make_logger(settings, trainer)
    run.say_hooks("on_init_start")
    run.say_hooks("on_init_end")
    if settings.fast_dev_run:
        _silence(run)


def add_callbacks(run: Run, callbacks: Iterable[Any], *, origin: str) -> None:
    """Put callbacks at the end of the list."""
    for callback in callbacks:
        run.callback_list.append(callback)
        run.handlers.add(callback, origin=origin)


def _progress_bar(settings: Settings, run: Run) -> None:
    own = [callback for callback in run.callback_list if isinstance(callback, ProgressBarBase)]
    if len(own) > 1:
        raise MisconfiguredValue(f"callbacks holds {len(own)} progress bars: give one")
    rate = settings.progress_bar_refresh_rate
    if not own and rate:
        bar = ProgressBar(refresh_rate=rate, process_position=settings.process_position)
        add_callbacks(run, [bar], origin=origin_of(("progress_bar_refresh_rate", "process_position"), settings))


def _silence(run: Run) -> None:
    """A fast_dev_run saves nothing and stops by nothing but its batches."""
    for handler in run.handlers:
        if isinstance(handler, ModelCheckpoint) or type(handler).__name__ == "EarlyStopping":
            run.handlers.remove(handler)
            print(f"fast_dev_run: {type(handler).__name__} is off in this run")


def make_logger(settings: Settings, trainer: Any) -> Any:
    """The logger that the argument asks for; None for none."""
    logger = settings.logger
    if settings.needs_dummy_logger:
        return DummyLogger()
    if logger is True:
        from leyden.handlers.loggers import TensorBoardLogger

        return TensorBoardLogger(save_dir=trainer.default_root_dir, version=_slurm_job(), name="lightning_logs")
    if logger is None or logger is False:
        return None
    if isinstance(logger, (list, tuple)):
        for one in logger:
            _check(one)
        return LoggerCollection(list(logger)) if logger else None
    _check(logger)
    return logger


def _check(logger: Any) -> None:
    if not callable(getattr(logger, "log_metrics", None)):
        raise MisconfiguredType(
            f"logger={logger!r} is a {type(logger).__name__}, which has no log_metrics(): pass True, False, a logger "
            "or a list of loggers"
        )


def _slurm_job() -> str | None:
    job = os.environ.get("SLURM_JOB_ID")
    return job if job and os.environ.get("SLURM_JOB_NAME") != "bash" else None



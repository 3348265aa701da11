"""The parts of a run that watch and keep: loggers, profiler, progress bar, callbacks."""

from collections.abc import Iterable
from typing import Any

from leyden.assembly import origin_of, reassemble
from leyden.config_rules import Change
from leyden.dev_debugger import watch
from leyden.engine.errors import MisconfigurationException, MisconfiguredType, MisconfiguredValue
from leyden.foreign import adapted, is_foreign
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.early_stopping import EarlyStopping
from leyden.handlers.interruption import Interruption
from leyden.handlers.loggers import DummyLogger, LoggerCollection
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.handlers.profilers import AdvancedProfiler, PassThroughProfiler, SimpleProfiler
from leyden.handlers.progress import ProgressBar, ProgressBarBase
from leyden.handlers.pytorch_profiler import PyTorchProfiler
from leyden.handlers.timer import Timer
from leyden.handlers.trace import Trace
from leyden.run import Run
from leyden.settings import Settings

__all__ = [
    "add_callbacks",
    "assemble_observers",
    "change",
    "connect_callbacks",
    "make_logger",
    "make_profiler",
    "tell",
]

BAR = ("progress_bar_refresh_rate", "process_position")
PROFILERS = {
    None: PassThroughProfiler,
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
    "trace": Trace,
}

# What run.features keeps of this file: the callbacks of the list that are attached, and the bar
# made here, and what binds the callbacks of another Lightning, by their ids.
LISTED, MADE_BAR, ADAPTED = "callbacks", "progress bar", "adapted"


def assemble_observers(settings: Settings, run: Run, trainer: Any) -> None:
    """Make loggers and callbacks of the arguments, the callbacks in their list's order."""
    run.features[LISTED] = []
    _take_list(settings.callbacks, settings, run)
    saver = settings.checkpoint_callback
    if settings.fast_dev_run:  # which switched it off: the callback can still be read
        saver = settings.given.get("checkpoint_callback", True)
    if isinstance(saver, CallbackBase):
        # A list that served another Trainer holds it already: what is added shows in the list.
        if not _holds(run.callback_list, saver):
            add_callbacks(run, settings, [saver], origin="checkpoint_callback")
    elif saver and not any(isinstance(callback, ModelCheckpoint) for callback in run.callback_list):
        add_callbacks(
            run, settings, [ModelCheckpoint()], origin=origin_of(("checkpoint_callback",), settings)
        )
    if settings.max_time is not None:
        add_callbacks(
            run, settings, [Timer(settings.max_time)], origin=origin_of(("max_time",), settings)
        )
    _progress_bar(settings, run)
    run.use_logger(make_logger(settings, trainer))
    watch(run, trainer)
    run.say_hooks("on_init_start")
    run.say_hooks("on_init_end")


def tell(changes: Iterable[Change]) -> None:
    """Say what some arguments did to others, one line for each of them."""
    by_cause: dict[str, list[str]] = {}
    for one in changes:
        by_cause.setdefault(one.because, []).append(f"{one.argument} {one.old!r} -> {one.new!r}")
    for because, told in by_cause.items():
        print(f"{because} sets: {', '.join(told)}")


# --- callbacks


def add_callbacks(run: Run, settings: Settings, callbacks: Iterable[Any], *, origin: str) -> None:
    """Put callbacks at the end of the list."""
    for callback in callbacks:
        run.callback_list.append(callback)
        _attach(run, settings, callback, origin)


def connect_callbacks(run: Run, settings: Settings) -> None:
    """Attach what was put into ``trainer.callbacks`` since then, detach what was taken out."""
    listed = run.features[LISTED]
    for callback in [known for known in listed if not _holds(run.callback_list, known)]:
        _detach(run, callback)
    for callback in run.callback_list:
        if not _holds(listed, callback):
            _attach(run, settings, callback, "trainer.callbacks")


def _take_list(given: Any, settings: Settings, run: Run) -> None:
    # The user's own list: what is added here shows in it, as in Lightning 1.1.
    # But not an empty one, as there.
    if isinstance(given, (list, tuple)):
        run.callback_list = given if isinstance(given, list) and given else list(given)
    else:
        run.callback_list = [] if given is None else [given]
    for index, callback in enumerate(run.callback_list):
        _attach(
            run,
            settings,
            callback,
            f"callbacks[{index}]" if isinstance(given, list) else "callbacks",
        )


def _attach(run: Run, settings: Settings, callback: Any, origin: str) -> None:
    if _holds(run.features[LISTED], callback):
        raise MisconfiguredValue(f"callbacks holds {callback!r} twice: give each object once")
    handler = callback
    if is_foreign(callback):
        handler = run.features.setdefault(ADAPTED, {})[id(callback)] = adapted(callback, origin)
    elif not callable(getattr(callback, "attach", None)):
        raise MisconfiguredType(
            f"{origin}={callback!r} is a {type(callback).__name__} without attach(engine): derive "
            "callbacks from leyden.Callback, or give a handler"
        )
    run.features[LISTED].append(callback)
    if settings.fast_dev_run and isinstance(callback, (ModelCheckpoint, EarlyStopping)):
        # A fast_dev_run saves nothing and stops by nothing but its batches; both stay readable.
        if origin != origin_of(("checkpoint_callback",), settings):
            print(
                f"fast_dev_run={settings.fast_dev_run}: the {type(callback).__name__} of callbacks "
                "does nothing"
            )
        return
    if isinstance(callback, Interruption):
        if any(isinstance(one, Interruption) for one in run.features[LISTED][:-1]):
            raise MisconfiguredValue("callbacks holds two Interruptions: give one")
        run.interruption = callback
    if handler not in run.handlers:
        run.handlers.add(handler, origin=origin)


def _detach(run: Run, callback: Any) -> None:
    run.features[LISTED] = [known for known in run.features[LISTED] if known is not callback]
    handler = run.features.get(ADAPTED, {}).pop(id(callback), callback)
    if handler in run.handlers:
        run.handlers.remove(handler)
    if callback is run.interruption:
        run.interruption = Interruption(run.engine, *run.evaluators.values())


def _holds(callbacks: Iterable[Any], one: Any) -> bool:
    return any(callback is one for callback in callbacks)


def _progress_bar(settings: Settings, run: Run) -> None:
    own = [callback for callback in run.callback_list if isinstance(callback, ProgressBarBase)]
    if len(own) > 1:
        raise MisconfiguredValue(f"callbacks holds {len(own)} progress bars: give one")
    rate = settings.progress_bar_refresh_rate
    if not own and rate:
        bar = ProgressBar(refresh_rate=rate, process_position=settings.process_position)
        run.features[MADE_BAR] = bar
        add_callbacks(run, settings, [bar], origin=origin_of(BAR, settings))


# --- loggers and profilers


def make_profiler(asked: Any) -> Any:
    """The profiler that the argument asks for; one that measures nothing for None."""
    return PROFILERS[asked]() if asked is None or isinstance(asked, str) else asked


def make_logger(settings: Settings, trainer: Any) -> Any:
    """The logger that the argument asks for; None for none."""
    logger = settings.logger
    if settings.needs_dummy_logger:
        return DummyLogger()
    if logger is True:
        from leyden.handlers.loggers import TensorBoardLogger

        return TensorBoardLogger(
            save_dir=trainer.default_root_dir, version=trainer.slurm_job_id, name="lightning_logs"
        )
    if logger is None or logger is False:
        return None
    if isinstance(logger, (list, tuple)):
        return LoggerCollection(list(logger)) if logger else None
    return logger


# --- arguments that are changed later


def change(name: str, value: Any, settings: Settings, run: Run) -> None:
    """Set one argument of a Trainer that exists, and make anew what was made of it.

    Raises:
        MisconfigurationException: if it cannot be changed (now), or not to this; nothing is changed
            then.
    """
    running = run.stage is not None
    if settings.keeps(name, value):
        return
    checked = settings.check(name, value, running=running)
    if name == "callbacks":
        _change_callbacks(checked, settings, run)
    if name in BAR:
        _check_bar(name, run)
    stops = run.stopping().should_stop
    settings.put(name, make_profiler(checked) if name == "profiler" else checked)
    reassemble(name, settings, run)
    run.stopping().should_stop = stops
    if name in ("log_every_n_steps", "move_metrics_to_cpu"):
        setattr(run.recorder, name, checked)
    elif name == "max_epochs" and running:
        run.state.max_epochs = checked
    elif name == "logger":
        settings.needs_dummy_logger = False
        run.use_logger(make_logger(settings, run.trainer))
    elif name in BAR:
        _remake_bar(settings, run)


def _change_callbacks(given: Any, settings: Settings, run: Run) -> None:
    for callback in list(run.features[LISTED]):
        _detach(run, callback)
    run.features.pop(MADE_BAR, None)
    _take_list(given, settings, run)


def _check_bar(name: str, run: Run) -> None:
    own = [
        c
        for c in run.callback_list
        if isinstance(c, ProgressBarBase) and c is not run.features.get(MADE_BAR)
    ]
    if own:
        raise MisconfigurationException(
            f"trainer.{name} has no effect: the progress bar is the {type(own[0]).__name__} among "
            "the callbacks; change that"
        )


def _remake_bar(settings: Settings, run: Run) -> None:
    old = run.features.pop(MADE_BAR, None)
    if old is not None:
        _detach(run, old)
        run.callback_list[:] = [callback for callback in run.callback_list if callback is not old]
    _progress_bar(settings, run)

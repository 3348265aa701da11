"""Training runs on the side: of the same Trainer and module, and nothing of them remains.

A search is a :class:`leyden.run.Run` of its own, with its own engines, handlers, counters, metrics
and optimizers. While it goes on, the Trainer shows that run; afterwards the one it had before,
which knows nothing of it. What both share, the module, the data and the random streams, a
:class:`leyden.snapshot.Snapshot` puts back.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import GeneratorType
from typing import Any

from torch.utils.data import DataLoader

from leyden.assembly import assemble
from leyden.engine import Engine, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.fitting import fit
from leyden.handlers.base import Handler
from leyden.handlers.loggers import DummyLogger
from leyden.handlers.profilers import PassThroughProfiler
from leyden.loaders import Loaders
from leyden.module import LightningModule
from leyden.overrides import overrides
from leyden.run import Run
from leyden.settings import Settings
from leyden.snapshot import Snapshot

__all__ = ["RestingSchedulers", "SearchLoaders", "neutral", "search", "search_run"]

#: What no search does, whatever the Trainer's arguments say.
QUIET: dict[str, Any] = dict(
    logger=False,
    checkpoint_callback=False,
    callbacks=None,
    profiler=None,
    weights_summary=None,
    progress_bar_refresh_rate=0,
    resume_from_checkpoint=None,
    max_time=None,
    min_epochs=1,
    min_steps=None,
    terminate_on_nan=False,
    track_grad_norm=-1.0,
    auto_lr_find=False,
    auto_scale_batch_size=False,
)


class SearchLoaders(Loaders):
    """The loaders of a search: what they change in their sources is put back.

    Args:
        kept: where the state of the loaders is kept; None where none will be used.
        loaders: those of the run, which know what this process reads of each.
    """

    def __init__(self, kept: Snapshot | None = None, loaders: Loaders | None = None) -> None:
        if loaders is None:
            super().__init__()
        else:
            super().__init__(loaders.share, processes=loaders.processes)
        self.kept = kept
        self._lent: list[DataLoader[Any]] = []

    def close(self) -> None:
        """End the persistent workers of this search."""
        for loader in self._lent:
            iterator: Any = loader._iterator
            if iterator is not None:
                iterator._shutdown_workers()
            loader._iterator = None
        self._lent = []

    def _ask(self, name: str, base: type) -> Any:
        return self._borrowed(super()._ask(name, base), name)

    def _borrowed(self, loader: Any, name: str) -> Any:
        if isinstance(loader, (list, tuple)) and any(hasattr(one, "__iter__") for one in loader):
            if any(isinstance(one, DataLoader) for one in loader):
                return type(loader)(self._borrowed(one, name) for one in loader)
        if isinstance(loader, GeneratorType) or type(loader).__name__ in _ONE_WAY:
            raise MisconfigurationException(
                f"{name} is a {type(loader).__name__}, which can be gone through once: the search "
                "would use up its batches. Pass a DataLoader or a list, or tune with other data"
            )
        if self.kept is not None:
            for part in (loader, *(getattr(loader, one, None) for one in _SAMPLERS)):
                if part is not None:
                    self.kept.add(part)
        if not isinstance(loader, DataLoader):
            return loader
        # Persistent workers belong to one iterator: those of the user's loader stay as they are.
        borrowed = copy.copy(loader)
        borrowed._iterator = None
        if borrowed.persistent_workers:
            self._lent.append(borrowed)
        return borrowed


_SAMPLERS = ("sampler", "batch_sampler")
_ONE_WAY = frozenset({"map", "zip", "filter", "islice", "chain", "list_iterator", "tuple_iterator"})


class RestingSchedulers(Handler):
    """Lets the module's schedulers rest while a search sets the rate; they can still be read."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.FIT_STARTED, self.rest)

    def rest(self, engine: Engine) -> None:
        """The run was prepared: take out what steps the schedulers."""
        if self.run.schedulers is not None:
            self.run.handlers.remove(self.run.schedulers)
            self.run.schedulers = None


def search_run(trainer: Any, kept: Snapshot | None = None, **arguments: Any) -> Run:
    """Make a run with the Trainer's features and without its callbacks, loggers and profiler.

    Args:
        trainer: the Trainer.
        kept: keeps the state of the loaders.
        arguments: the Trainer's arguments, where this run has others.
    """
    settings: Settings = copy.copy(trainer._settings)
    settings.given, settings.origin = dict(settings.given), dict(settings.origin)
    for name, value in QUIET.items():
        setattr(settings, name, value)
        settings.given.pop(name, None)
    for name, value in arguments.items():
        settings.put(name, value)
    settings.profiler = PassThroughProfiler()
    run = Run(settings, trainer)
    run.loaders = SearchLoaders(kept, run.loaders)
    run.model_callbacks = []
    assemble(settings, run)
    # Code that writes to self.logger.experiment finds something there, in vain.
    run.use_logger(DummyLogger())
    return run


def search(trainer: Any, run: Run, model: Any, train: Any, val: Any, datamodule: Any) -> None:
    """Train with a run of :func:`search_run`; the Trainer shows it meanwhile.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the run has ended.
    """
    outside = trainer._run, trainer._settings
    run.model = model  # or the run would take it for another one and ask for its callbacks
    trainer._run, trainer._settings = run, run.settings
    try:
        fit(run, model, train, val, datamodule)
    finally:
        trainer._run, trainer._settings = outside
        if isinstance(run.loaders, SearchLoaders):
            run.loaders.close()
        # The feed holds the workers of the training loader: without it they end now.
        run.feed = run.state.dataloader = None
        for handler in run.features.values():
            release = getattr(handler, "release", None)
            if release is not None:
                release()
    if run.interrupted:
        raise KeyboardInterrupt


@contextmanager
def neutral(
    trainer: Any, model: Any, datamodule: Any
) -> Iterator[tuple[Snapshot, Callable[[], None]]]:
    """Put everything back at the end of the block that a search inside of it changes.

    Gives the snapshot of the data, which takes loaders, and what puts the module back in between.
    The hooks ``on_save_checkpoint`` and ``on_load_checkpoint`` of the module are asked for what it
    keeps elsewhere. Source: Lightning 1.1, whose tuning writes a checkpoint and loads it again.
    """
    if trainer._run.stage is not None:
        raise MisconfigurationException(
            f"tuning was asked for during {trainer._run.stage}: call it before or after the run"
        )
    data = Snapshot(datamodule, skip=(trainer,), tensors=False)
    parts = trainer._run.parts
    model.trainer = trainer
    kept = Snapshot(
        model, parts.optimizers, parts.schedulers, skip=(trainer, trainer._run.recorder, datamodule)
    )
    checkpoint: dict[str, Any] = {}

    def put_back() -> None:
        kept.restore()

    try:
        _prepare(trainer, model, datamodule)
        checkpoint = _saved_by(model, trainer)
        kept.add(checkpoint)
        yield data, put_back
    finally:
        try:
            kept.restore()
            if checkpoint and overrides(model, "on_load_checkpoint", LightningModule):
                model.on_load_checkpoint(checkpoint)
        finally:
            # Last, and again: whatever the hook did, the weights are those of before.
            data.restore()
            kept.restore()


def _prepare(trainer: Any, model: Any, datamodule: Any) -> None:
    """Source: Lightning 1.1, which prepares the data when tuning begins and again in its fit."""
    run = search_run(trainer)
    run.model, run.datamodule = model, datamodule
    run.strategy.connect()
    run.prepare_data()


def _saved_by(model: Any, trainer: Any) -> dict[str, Any]:
    """What the module wants to have kept; empty where it has no hook for that."""
    hooks = ("on_save_checkpoint", "on_load_checkpoint")
    if not any(overrides(model, name, LightningModule) for name in hooks):
        return {}
    checkpoint: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "state_dict": model.state_dict(),
    }
    model.on_save_checkpoint(checkpoint)
    # The weights are in the snapshot; the rest may be what the search will change.
    return {
        key: value if key == "state_dict" else copy.deepcopy(value)
        for key, value in checkpoint.items()
    }

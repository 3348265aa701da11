"""The Trainer: Lightning's signature and methods over a set of handlers. No feature lives here."""

import logging
import os
from argparse import ArgumentParser, Namespace
from typing import Any

from leyden.assembly import assemble, reassemble
from leyden.config import CHECKS, TrainerConfig
from leyden.engine.errors import NotBuilt
from leyden.observers import assemble_observers
from leyden.plan import Plan
from leyden.plan_of import plan_of
from leyden.properties import TrainerProperties
from leyden.run import Run, TrainerState, datamodule_of
from leyden.settings import Settings

__all__ = ["Trainer", "TrainerState"]

log = logging.getLogger(__name__)


class Trainer(TrainerProperties):
    """Trains, validates and tests a :class:`leyden.LightningModule`.

    The arguments are those of Lightning 1.1, with its meanings and defaults; each is described with
    :class:`leyden.config.TrainerConfig`. They are checked here, before anything runs, and turned into handlers
    (``leyden/assembly.py`` is the table): ``print(trainer.plan())`` shows what will run.

    Arguments that Lightning got later, ``gradient_clip_algorithm``, ``max_time``, ``limit_predict_batches`` and
    the new names of old ones (``enable_progress_bar=False`` ...), are taken as well.

    Raises:
        MisconfigurationException: for an argument that is unknown, wrong or not built yet; it says what to do.

    Example:
        >>> import leyden
        >>> trainer = leyden.Trainer(max_epochs=3, logger=False, checkpoint_callback=False)
        >>> trainer.max_epochs, trainer.current_epoch
        (3, 0)
    """

    def __init__(
        self,
        *,
        logger: Any = True,
        checkpoint_callback: Any = True,
        callbacks: Any = None,
        default_root_dir: str | os.PathLike[str] | None = None,
        gradient_clip_val: float = 0,
        process_position: int = 0,
        num_nodes: int = 1,
        num_processes: int = 1,
        gpus: int | str | list[int] | None = None,
        auto_select_gpus: bool = False,
        tpu_cores: int | str | list[int] | None = None,
        log_gpu_memory: str | None = None,
        progress_bar_refresh_rate: int = 1,
        overfit_batches: int | float = 0.0,
        track_grad_norm: int | float | str = -1,
        check_val_every_n_epoch: int = 1,
        fast_dev_run: int | bool = False,
        accumulate_grad_batches: int | dict[int, int] = 1,
        max_epochs: int = 1000,
        min_epochs: int = 1,
        max_steps: int | None = None,
        min_steps: int | None = None,
        limit_train_batches: int | float = 1.0,
        limit_val_batches: int | float = 1.0,
        limit_test_batches: int | float = 1.0,
        val_check_interval: int | float = 1.0,
        flush_logs_every_n_steps: int = 100,
        log_every_n_steps: int = 50,
        accelerator: Any = None,
        sync_batchnorm: bool = False,
        precision: int | str = 32,
        weights_summary: str | None = "top",
        weights_save_path: str | os.PathLike[str] | None = None,
        num_sanity_val_steps: int = 2,
        truncated_bptt_steps: int | None = None,
        resume_from_checkpoint: str | os.PathLike[str] | None = None,
        profiler: Any = None,
        benchmark: bool = False,
        deterministic: bool | str = False,
        reload_dataloaders_every_epoch: bool | int = False,
        auto_lr_find: bool | str = False,
        replace_sampler_ddp: bool = True,
        terminate_on_nan: bool = False,
        auto_scale_batch_size: bool | str = False,
        prepare_data_per_node: bool = True,
        plugins: Any = None,
        amp_backend: str = "native",
        amp_level: str = "O2",
        distributed_backend: str | None = None,
        automatic_optimization: bool | None = None,
        move_metrics_to_cpu: bool = False,
        **later: Any,
    ) -> None:
        arguments = {**locals(), **later}
        for name in ("self", "later", "__class__"):
            arguments.pop(name, None)
        # What stands at its default was not given: environment variables may fill it, the plan says so.
        given = {
            name: value for name, value in arguments.items() if name in later or not _is_default(name, value)
        }
        config = TrainerConfig.parse(**given)
        settings = Settings(config)
        object.__setattr__(self, "_settings", settings)
        self._run = Run(settings, self)
        for change in config.changes:
            log.info("%s", change)
            print(change)
        assemble(settings, self._run)
        assemble_observers(settings, self._run, self)

    # ------------------------------------------------------------------ runs

    def fit(
        self, model: Any, train_dataloader: Any = None, val_dataloaders: Any = None, datamodule: Any = None, **later: Any
    ) -> int:
        """Train a module.

        Calling it again with the same module goes on after the last finished epoch (raise ``max_epochs`` first);
        another module begins a new run.

        Args:
            model: a LightningModule.
            train_dataloader: a DataLoader or any iterable of batches, or a data module.
            val_dataloaders: one loader, or a list of them.
            datamodule: brings the loaders instead.
            later: ``train_dataloaders`` and ``ckpt_path``, the names of today's Lightning.

        Returns:
            1, as Lightning 1.1; also after Ctrl-C, then ``trainer.interrupted`` is True.

        Raises:
            MisconfigurationException: before anything runs, when something is missing or contradictory.
        """
        train_dataloader, checkpoint = self._later_names("fit", train_dataloader, later)
        if datamodule is None and hasattr(train_dataloader, "train_dataloader"):
            train_dataloader, datamodule = None, train_dataloader
        datamodule = self._connect(model, datamodule, (train_dataloader, val_dataloaders))
        self._run.checkpoint_to_restore = checkpoint or self._settings.resume_from_checkpoint
        self._run.fit(model, train_dataloader, val_dataloaders, datamodule)
        return 1

    def test(
        self,
        model: Any = None,
        test_dataloaders: Any = None,
        ckpt_path: Any = "best",
        verbose: bool = True,
        datamodule: Any = None,
        **later: Any,
    ) -> Any:
        """Run the test loop and give its metrics.

        Args:
            model: a LightningModule; None: the one that was trained, with the weights of ``ckpt_path``.
            test_dataloaders: one loader, or a list of them.
            ckpt_path: ``"best"``, None (the weights as they are) or a file; unused where ``model`` is given.
            verbose: print the metrics.
            datamodule: brings the loaders instead.

        Returns:
            A list with a dict of metrics for each loader; 1 if nothing was logged.
        """
        return self._run.evaluate_alone(
            "test", model, test_dataloaders, ckpt_path, verbose, datamodule, later.pop("dataloaders", None)
        )

    def validate(
        self,
        model: Any = None,
        val_dataloaders: Any = None,
        ckpt_path: Any = "best",
        verbose: bool = True,
        datamodule: Any = None,
        **later: Any,
    ) -> Any:
        """Run the validation loop on its own; takes and gives what :meth:`test` does."""
        return self._run.evaluate_alone(
            "validate", model, val_dataloaders, ckpt_path, verbose, datamodule, later.pop("dataloaders", None)
        )

    def predict(
        self, model: Any = None, dataloaders: Any = None, datamodule: Any = None, ckpt_path: Any = "best"
    ) -> list[Any]:
        """Give what ``predict_step`` returns for every batch: a list, or one for each loader."""
        return self._run.evaluate_alone("predict", model, dataloaders, ckpt_path, False, datamodule, None)  # type: ignore[no-any-return]

    def tune(
        self, model: Any, train_dataloader: Any = None, val_dataloaders: Any = None, datamodule: Any = None
    ) -> None:
        """Refused: the learning-rate finder and the batch-size scaler are not built yet."""
        raise NotBuilt(
            "trainer.tune() is not built yet: set the learning rate and the batch size yourself, then call fit"
        )

    def save_checkpoint(self, filepath: str | os.PathLike[str], weights_only: bool = False) -> None:
        """Write a checkpoint: atomically, synced to the disk.

        Args:
            filepath: the file; missing folders are made.
            weights_only: leave out what only a resumed run needs.
        """
        self._run.save_checkpoint(filepath, weights_only)

    # ------------------------------------------------------------------ what will run

    def plan(self) -> Plan:
        """Every event with its handlers, in the order in which they run, and who put them there."""
        return plan_of(self._run, self._settings)

    # ------------------------------------------------------------------ arguments

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CHECKS and name not in READ_BY_PROPERTY:
            self._settings.change(name, value)
            reassemble(name, self._settings, self._run)
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in CHECKS:
            return getattr(self._settings, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def add_argparse_args(cls, parent_parser: ArgumentParser) -> ArgumentParser:
        """Add every argument to a parser, with its type and default."""
        from leyden.arguments import add_argparse_args

        return add_argparse_args(cls, parent_parser)

    @classmethod
    def from_argparse_args(cls, args: Namespace | ArgumentParser, **kwargs: Any) -> "Trainer":
        """Make a Trainer of parsed arguments; ``kwargs`` win."""
        from leyden.arguments import from_argparse_args

        made: Trainer = from_argparse_args(cls, args, **kwargs)
        return made

    # ------------------------------------------------------------------ helpers

    def _connect(self, model: Any, datamodule: Any, loaders: tuple[Any, ...]) -> Any:
        found = datamodule_of(model, datamodule) if datamodule is not None else None
        if found is None and all(loader is None for loader in loaders):
            found = datamodule_of(model, None)
        if found is not None:
            found.trainer = self
        return found

    @staticmethod
    def _later_names(method: str, train: Any, later: dict[str, Any]) -> tuple[Any, Any]:
        checkpoint = later.pop("ckpt_path", None)
        renamed = later.pop("train_dataloaders", None)
        if later:
            raise TypeError(f"{method}() got an unexpected keyword argument {sorted(later)[0]!r}")
        if train is not None and renamed is not None:
            raise TypeError(f"{method}() got train_dataloader and train_dataloaders, which are the same: pass one")
        return (renamed if train is None else train), checkpoint


#: Arguments whose attribute is a property with more behind it than the argument.
READ_BY_PROPERTY = frozenset(
    {"logger", "callbacks", "checkpoint_callback", "default_root_dir", "weights_save_path", "profiler"}
)


def _is_default(name: str, value: Any) -> bool:
    default = TrainerConfig.__dataclass_fields__[name].default
    return value is default or (type(value) is type(default) and bool(value == default))

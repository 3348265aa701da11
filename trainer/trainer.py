"""The Trainer: Lightning's signature and methods over a set of handlers. No feature lives here."""

import difflib
import inspect
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from leyden import arguments
from leyden.assembly import assemble
from leyden.config import CHECKS, TrainerConfig, signature_parameters
from leyden.deprecations import take_removed, tell_deprecated
from leyden.engine.errors import MisconfiguredType
from leyden.engine.notice import warn
from leyden.fitting import fit
from leyden.handlers.cost_report import Cost
from leyden.launched import launched
from leyden.loaders import datamodule_of
from leyden.observers import assemble_observers, connect_callbacks, make_profiler, tell
from leyden.plan import Plan
from leyden.plan_of import plan_of
from leyden.properties import TrainerProperties
from leyden.quantized_export import export_quantized
from leyden.run import Run
from leyden.settings import Settings
from leyden.states import TrainerState
from leyden.tuner import Tuner

__all__ = ["Trainer", "TrainerState"]


class Trainer(TrainerProperties):
    """Trains, validates and tests a :class:`leyden.LightningModule`.

    The arguments are those of Lightning 1.1, with its meanings and defaults; each is described with
    :class:`leyden.config.TrainerConfig`. They are checked here, before anything runs, and turned
    into handlers (``leyden/assembly.py`` is the table): ``print(trainer.plan())`` shows what will
    run.

    Arguments that Lightning got later or never, ``gradient_clip_algorithm``, ``max_time``,
    ``limit_predict_batches``, ``compile``, ``cuda_graph``, and today's names of old ones
    (``enable_progress_bar=False`` ...) are taken as well. Variables ``LEYDEN_TRAINER_<ARGUMENT>``
    of the environment fill arguments that are not given; ``PL_TRAINER_<ARGUMENT>`` wins over those
    that are, as in Lightning 1.1.

    Every argument can be read back under its own name, and set between runs, by the same rules
    (``trainer.max_epochs = 5``); ``leyden.settings`` lists what may change during a run and what
    never may.

    Raises:
        MisconfigurationException: for an argument that is unknown, wrong or not there; it says
            what to do.

    Example:
        >>> import leyden
        >>> trainer = leyden.Trainer(max_epochs=3, logger=False, checkpoint_callback=False)
        >>> trainer.max_epochs, trainer.current_epoch
        (3, 0)
        >>> trainer.max_epochs = 5
        >>> trainer.max_epochs
        5
    """

    _restored_into: tuple[Any, Any] | None
    _tuner: Tuner | None = None

    # Editors and type checkers read this; at run time only what was really given counts: an
    # argument that was written out with its default's value is given all the same. The tests hold
    # both signatures together.
    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            logger: bool | Any = True,
            checkpoint_callback: bool | Any = True,
            callbacks: Any = None,
            default_root_dir: str | os.PathLike[str] | None = None,
            gradient_clip_val: float | int = 0,
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
            accelerator: str | Any | None = None,
            sync_batchnorm: bool = False,
            precision: int | str = 32,
            weights_summary: str | None = "top",
            weights_save_path: str | os.PathLike[str] | None = None,
            num_sanity_val_steps: int | float = 2,
            truncated_bptt_steps: int | None = None,
            resume_from_checkpoint: str | os.PathLike[str] | None = None,
            profiler: str | bool | Any | None = None,
            benchmark: bool = False,
            deterministic: bool | str = False,
            reload_dataloaders_every_epoch: bool | int = False,
            auto_lr_find: bool | str = False,
            replace_sampler_ddp: bool = True,
            terminate_on_nan: bool = False,
            auto_scale_batch_size: bool | str = False,
            prepare_data_per_node: bool = True,
            plugins: str | list[Any] | Any | None = None,
            amp_backend: str = "native",
            amp_level: str = "O2",
            distributed_backend: str | None = None,
            automatic_optimization: bool | None = None,
            move_metrics_to_cpu: bool = False,
            gradient_clip_algorithm: str = "norm",
            max_time: str | dict[str, float] | timedelta | None = None,
            limit_predict_batches: int | float = 1.0,
            compile: bool | dict[str, Any] = False,
            cuda_graph: bool = False,
            enable_checkpointing: bool | None = None,
            enable_progress_bar: bool | None = None,
            enable_model_summary: bool | None = None,
            reload_dataloaders_every_n_epochs: int | None = None,
            use_distributed_sampler: bool | None = None,
            devices: int | list[int] | str | None = None,
            strategy: str | None = None,
        ) -> None: ...

    else:

        def __init__(self, *positional: Any, **given: Any) -> None:
            if positional:
                raise _by_position(positional)
            take_removed(given)
            config = TrainerConfig.parse(**given)
            tell_deprecated(config.given, config.origin)
            settings = Settings(config)
            object.__setattr__(self, "_settings", settings)
            self._run = Run(settings, self)
            self._restored_into = None
            settings.profiler = make_profiler(settings.profiler)
            self._list_arguments()
            tell(config.changes)
            assemble(settings, self._run)
            assemble_observers(settings, self._run, self)

        __init__.__signature__ = inspect.Signature(
            [
                inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                *signature_parameters(),
            ]
        )

    # ------------------------------------------------------------------ runs

    @launched("fit")
    def fit(
        self,
        model: Any,
        train_dataloader: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        **later: Any,
    ) -> int:
        """Train a module.

        Calling it again with the same module goes on after the last finished epoch (raise
        ``max_epochs`` first); another module begins a new run.

        Args:
            model: a LightningModule.
            train_dataloader: a DataLoader or any iterable of batches, or a data module.
            val_dataloaders: one loader, or a list of them.
            datamodule: brings the loaders instead.
            later: today's names, ``train_dataloaders`` and ``ckpt_path`` (a checkpoint to continue
                from); ``trust_checkpoint=True`` reads one that is refused because it could run
                code, and runs it.

        Returns:
            1, as Lightning 1.1; also after Ctrl-C, then ``trainer.interrupted`` is True.

        Raises:
            MisconfigurationException: before anything runs, when something is missing or
                contradictory.
        """
        model = self._run.compiling.take_out(model)
        train_dataloader, checkpoint = _later(
            "fit", "train_dataloader", train_dataloader, later, ("ckpt_path", "trust_checkpoint")
        )
        if datamodule is None and hasattr(train_dataloader, "train_dataloader"):
            train_dataloader, datamodule = None, train_dataloader
        datamodule = self._connect(model, datamodule, (train_dataloader, val_dataloaders))
        with self._running():
            self._run.trust_checkpoint = _trust("fit", checkpoint)
            self._run.checkpoint_to_restore = checkpoint.get("ckpt_path") or self._to_resume(model)
            fit(self._run, model, train_dataloader, val_dataloaders, datamodule)
        return 1

    @launched("test")
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
            model: a LightningModule; None: the one that was trained, with the weights of
                ``ckpt_path``.
            test_dataloaders: one loader, or a list of them.
            ckpt_path: ``"best"``, None (the weights as they are) or a file; unused where ``model``
                is given.
            verbose: print the metrics.
            datamodule: brings the loaders instead.
            later: today's name of the loaders, ``dataloaders``; ``trust_checkpoint``, see
                :meth:`fit`.

        Returns:
            A list with a dict of metrics for each loader; 1 if nothing was logged.
        """
        loaders, rest = _later(
            "test", "test_dataloaders", test_dataloaders, later, ("trust_checkpoint",)
        )
        with self._running():
            self._run.trust_checkpoint = _trust("test", rest)
            return self._run.evaluate_alone(
                "test", model, loaders, ckpt_path, verbose, datamodule, None
            )

    @launched("validate")
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
        loaders, rest = _later(
            "validate", "val_dataloaders", val_dataloaders, later, ("trust_checkpoint",)
        )
        with self._running():
            self._run.trust_checkpoint = _trust("validate", rest)
            return self._run.evaluate_alone(
                "validate", model, loaders, ckpt_path, verbose, datamodule, None
            )

    @launched("predict")
    def predict(
        self,
        model: Any = None,
        dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: Any = "best",
        **later: Any,
    ) -> list[Any]:
        """Give what ``predict_step`` returns for every batch: a list, or one for each loader."""
        _, rest = _later("predict", "dataloaders", None, later, ("trust_checkpoint",))
        with self._running():
            self._run.trust_checkpoint = _trust("predict", rest)
            found: list[Any] = self._run.evaluate_alone(
                "predict", model, dataloaders, ckpt_path, False, datamodule, None
            )
        return found

    @launched("tune")
    def tune(
        self,
        model: Any,
        train_dataloader: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
    ) -> dict[str, Any]:
        """Search for what ``auto_scale_batch_size`` and ``auto_lr_find`` ask for, in this order.

        What is found is written to the module; everything else is as before. ``fit`` never tunes.

        Args:
            model: a LightningModule.
            train_dataloader: as for :meth:`fit`; not with ``auto_scale_batch_size``.
            val_dataloaders: as for :meth:`fit`.
            datamodule: brings the loaders instead.

        Returns:
            ``{"scale_batch_size": size, "lr_find": curve}``, with what was searched.
        """
        model = self._run.compiling.take_out(model)
        return self.tuner.tune(model, train_dataloader, val_dataloaders, datamodule)

    @property
    def tuner(self) -> Tuner:
        """The searches of :meth:`tune`, to call with arguments of their own."""
        if self._tuner is None:
            self._tuner = Tuner(self)
        return self._tuner

    def save_checkpoint(self, filepath: str | os.PathLike[str], weights_only: bool = False) -> None:
        """Write a checkpoint: atomically, synced to the disk.

        Args:
            filepath: the file; missing folders are made.
            weights_only: leave out what only a resumed run needs.
        """
        self._run.save_checkpoint(filepath, weights_only)

    def export_quantized(self, filepath: str | os.PathLike[str], format: str = "packed") -> int:
        """Write the model of a run with ``precision`` 8, 4 or 2, weights packed to so many bits.

        ``leyden.backends.precision.load_quantized(model, path)`` reads it into a plain model, which
        gives exactly the outputs of this one.

        Args:
            filepath: the file; missing folders are made.
            format: "packed", or "torchao" for a ``state_dict`` of torchao's tensors, which holds
                each number in a byte.

        Returns:
            Its size in bytes.

        Raises:
            MisconfigurationException: there is no model, or none with weights of few bits.
        """
        return export_quantized(self._run, filepath, format)

    # ------------------------------------------------------------------ what will run

    def plan(self, *, reasons: bool = False) -> Plan:
        """Every event with its handlers, in the order in which they run, and who put them there.

        Args:
            reasons: print why a handler has its place among those of its event, where it says so.
        """
        return plan_of(self._run, self._settings, reasons=reasons)

    def cost(self) -> Cost:
        """What the last run, or the one that goes on, spent its time on, by handler and origin."""
        return self._run.cost.report()

    # ------------------------------------------------------------------ arguments

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CHECKS and getattr(getattr(type(self), name, None), "fset", None) is None:
            self._change(name, value)
            return
        if name[0] != "_" and not hasattr(type(self), name) and name not in self.__dict__:
            _warn_of_slip(name)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name[:2] != "__" and "_run" in self.__dict__:
            from leyden.legacy_trainer import attribute_of_1_1

            return attribute_of_1_1(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def add_argparse_args(cls, parent_parser: ArgumentParser) -> ArgumentParser:
        """Give a new parser that knows every argument: type, default and what it means."""
        told = {
            **arguments.argument_descriptions(TrainerConfig),
            **arguments.argument_descriptions(cls),
        }
        return arguments.add_argparse_args(cls, parent_parser, told)

    @classmethod
    def from_argparse_args(cls, args: Namespace | ArgumentParser, **kwargs: Any) -> "Trainer":
        """Make a Trainer of parsed arguments; ``kwargs`` win, other names are left out."""
        return arguments.from_argparse_args(cls, args, **kwargs)

    @classmethod
    def parse_argparser(cls, arg_parser: ArgumentParser | Namespace) -> Namespace:
        """Parse the command line, or take what was parsed; a flag without a value is True."""
        return arguments.parse_argparser(cls, arg_parser)

    @classmethod
    def match_env_arguments(cls) -> Namespace:
        """Give the arguments that the environment sets, such as ``PL_TRAINER_MAX_EPOCHS=3``."""
        return arguments.match_env_arguments(cls)

    @classmethod
    def default_attributes(cls) -> dict[str, Any]:
        """Give every argument with its default."""
        return arguments.default_attributes(cls)

    @classmethod
    def get_init_arguments_and_types(cls) -> list[tuple[str, tuple[type, ...], Any]]:
        """Give (name, types, default) of every argument."""
        return arguments.get_init_arguments_and_types(cls)

    @classmethod
    def get_deprecated_arg_names(cls) -> list[str]:
        """Give the names that command lines leave out: in class attributes ``DEPRECATED...``."""
        return arguments.get_deprecated_arg_names(cls)

    # ------------------------------------------------------------------ helpers

    @contextmanager
    def _running(self) -> Iterator[None]:
        """One run, of the callbacks listed now; what it borrowed is given back however it ends."""
        connect_callbacks(self._run, self._settings)
        try:
            yield
        finally:
            for handler in self._run.features.values():
                release = getattr(handler, "release", None)
                if release is not None:
                    release()

    def _to_resume(self, model: Any) -> Any:
        """``resume_from_checkpoint`` where this module has not gone on from it already."""
        path = self._settings.resume_from_checkpoint
        done, self._restored_into = self._restored_into, (model, path)
        return None if done is not None and done[0] is model and done[1] == path else path

    def _connect(self, model: Any, datamodule: Any, loaders: tuple[Any, ...]) -> Any:
        found = datamodule_of(model, datamodule) if datamodule is not None else None
        if found is None and all(loader is None for loader in loaders):
            found = datamodule_of(model, None)
        if found is not None:
            found.trainer = self
        return found


def _by_position(positional: tuple[Any, ...]) -> MisconfiguredType:
    names = list(CHECKS)[: len(positional)]
    if isinstance(positional[0], dict):
        cure = "give a dict of arguments as Trainer(**arguments)"
    else:
        cure = f"name them, as in Trainer({', '.join(f'{name}=...' for name in names)})"
    return MisconfiguredType(
        f"Trainer got {len(positional)} positional argument{'s' * (len(positional) > 1)}, and "
        f"takes none: {cure}"
    )


def _warn_of_slip(name: str) -> None:
    """Attributes of the user's own are welcome; ``trainer.max_epoch = 5`` is hardly one."""
    near = difflib.get_close_matches(name, CHECKS, n=1, cutoff=0.85)
    if near:
        warn(
            f"trainer.{name} is no argument of the Trainer, so setting it changes nothing: did you "
            f"mean trainer.{near[0]}?",
            UserWarning,
        )


def _trust(method: str, later: dict[str, Any]) -> bool:
    """Whether a checkpoint may run code; only True itself says so."""
    found = later.get("trust_checkpoint", False)
    if not isinstance(found, bool):
        raise MisconfiguredType(
            f"{method}(trust_checkpoint={found!r}) is no bool: pass True to read a checkpoint that "
            "can run code, of an author you know, or leave it out"
        )
    return found


def _later(
    method: str, name: str, loaders: Any, later: dict[str, Any], others: tuple[str, ...] = ()
) -> tuple[Any, dict[str, Any]]:
    """Take the loaders by today's name too, and the other arguments that came later."""
    renamed = "train_dataloaders" if name == "train_dataloader" else "dataloaders"
    unknown = sorted(set(later) - {renamed, *others})
    if unknown:
        known = ", ".join((renamed, *others))
        # Python's own words, which code that catches a TypeError may look for.
        raise MisconfiguredType(
            f"{method}() got an unexpected keyword argument {unknown[0]!r}: beside the documented "
            f"ones it takes {known}"
        )
    given = later.pop(renamed, None)
    if loaders is not None and given is not None:
        raise MisconfiguredType(
            f"{method}() got {name} and {renamed}, which are the same: pass one"
        )
    return (given if loaders is None else loaders), later

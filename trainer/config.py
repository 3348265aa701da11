"""Every argument of the Trainer: its default, what it means, and what it may be."""

import difflib
import inspect
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from os import PathLike
from typing import Any, Union

from leyden import config_objects as objects
from leyden import config_rules as rules
from leyden import config_values as check
from leyden.arguments import environment, get_init_arguments_and_types
from leyden.config_names import ALIASES, resolve_aliases
from leyden.config_processes import check_processes
from leyden.config_rules import Change
from leyden.engine.errors import MisconfiguredType, MisconfiguredValue

__all__ = ["ALIASES", "CHECKS", "Change", "TrainerConfig", "signature_parameters"]


@dataclass(frozen=True)
class TrainerConfig:
    """The arguments of a Trainer, checked, in their documented form.

    Made by :meth:`parse`; the constructor itself checks nothing. The fields hold what is in force:
    ``changes`` says what another argument changed, ``given`` what the caller wrote. Steps are
    optimizer steps counted over the whole run; epochs count from 0.
    """

    logger: bool | Any = True
    """True for TensorBoard, False for none, or a logger, or a list of loggers."""

    checkpoint_callback: bool | Any = True
    """True for a ModelCheckpoint with its defaults, False for none; an object is deprecated."""

    callbacks: Any = None
    """A callback or handler, or a list of them."""

    default_root_dir: str | PathLike[str] | None = None
    """Folder or URL for logs and checkpoints; None is the current folder."""

    gradient_clip_val: float | int = 0
    """Largest norm (or value, see gradient_clip_algorithm) of the gradient; 0 does not clip."""

    process_position: int = 0
    """Row of the progress bar, counted from the top of the terminal."""

    num_nodes: int = 1
    """Number of machines."""

    num_processes: int = 1
    """Number of processes on each machine, where they run on CPUs."""

    gpus: int | str | list[int] | None = None
    """Number of GPUs on each machine (-1: all), or their ids as a list or as text ("0,1")."""

    auto_select_gpus: bool = False
    """Whether gpus=k picks k GPUs that are free, rather than the first k."""

    tpu_cores: int | str | list[int] | None = None
    """TPU cores, through torch_xla: 1, 8 for all of this machine, or [i] for core i (1 to 8)."""

    log_gpu_memory: str | None = None
    """'all' or 'min_max': log the memory used on the GPUs of this run."""

    progress_bar_refresh_rate: int = 1
    """Batches between two updates of the progress bar; 0 shows none."""

    overfit_batches: int | float = 0.0
    """Share (float) or number (int) of training batches to use in every loop, without shuffling."""

    track_grad_norm: int | float | str = -1
    """Order of the gradient norm to log, 'inf' for the largest entry; -1 logs none."""

    check_val_every_n_epoch: int = 1
    """Epochs between two epochs in which validation runs."""

    fast_dev_run: int | bool = False
    """Run this many batches (True: 1) of every loop for one epoch, to try the code out."""

    accumulate_grad_batches: int | dict[int, int] = 1
    """Batches whose gradients make one optimizer step, or {epoch: batches} from each epoch on."""

    max_epochs: int = 1000
    """Epochs after which training ends."""

    min_epochs: int = 1
    """Epochs that run even if something asks to stop."""

    max_steps: int | None = None
    """Optimizer steps after which training ends; None (or -1) for no limit."""

    min_steps: int | None = None
    """Optimizer steps that run even if something asks to stop."""

    limit_train_batches: int | float = 1.0
    """Share (float) or number (int) of training batches in an epoch; 0 trains on none."""

    limit_val_batches: int | float = 1.0
    """Share (float) or number (int) of the batches of each validation loader; 0 for none."""

    limit_test_batches: int | float = 1.0
    """Share (float) or number (int) of the batches of each test loader."""

    val_check_interval: int | float = 1.0
    """Validate after this share (float) of a training epoch, or after so many batches (int)."""

    flush_logs_every_n_steps: int = 100
    """Steps after which loggers write what they hold to disk."""

    log_every_n_steps: int = 50
    """Steps between two rows of step metrics in the logger."""

    accelerator: str | Any | None = None
    """A way to distribute (ddp, dp, ...), or a kind of device ('cpu', 'gpu', 'tpu', 'auto')."""

    sync_batchnorm: bool = False
    """Whether batch norm layers see the batches of all processes; no change with one."""

    precision: int | str = 32
    """Bits of the numbers: 32, 64, 16, 'bf16', 'bf16-true' ..., or 8, 4, 2 for those of weights."""

    weights_summary: str | None = "top"
    """What to print of the model when fit starts: 'top' or 'full' layers, or None."""

    weights_save_path: str | PathLike[str] | None = None
    """Folder or URL for checkpoints, where it is not default_root_dir."""

    num_sanity_val_steps: int | float = 2
    """Batches of each validation loader to run before training; -1 for all, 0 for none."""

    truncated_bptt_steps: int | None = None
    """Time steps of one part of a sequence in truncated back-propagation."""

    resume_from_checkpoint: str | PathLike[str] | None = None
    """Checkpoint from which fit continues."""

    profiler: str | bool | Any | None = None
    """'simple', 'advanced', 'pytorch' or 'trace', or a profiler object; True is deprecated."""

    benchmark: bool = False
    """Whether cuDNN measures which algorithms are fastest."""

    deterministic: bool | str = False
    """Whether torch uses deterministic algorithms only; 'warn' warns where there is none."""

    reload_dataloaders_every_epoch: bool | int = False
    """Whether loaders are asked for anew in each epoch; n > 1: in every n-th."""

    auto_lr_find: bool | str = False
    """Whether tune() looks for a learning rate; text names the attribute to write it to."""

    replace_sampler_ddp: bool = True
    """Whether loaders get a sampler that gives each process its own share."""

    terminate_on_nan: bool = False
    """Whether a loss or parameter that is NaN or infinite ends the run with an error."""

    auto_scale_batch_size: bool | str = False
    """Whether tune() looks for a batch size; 'power' (True) or 'binsearch'."""

    prepare_data_per_node: bool = True
    """Whether prepare_data runs once a machine, rather than once in all."""

    plugins: str | list[Any] | Any | None = None
    """Plugins that change precision or distribution."""

    amp_backend: str = "native"
    """'native' or 'apex'; read with precision=16 only."""

    amp_level: str = "O2"
    """Opt-level of apex, O0 to O3; read with precision=16 only."""

    distributed_backend: str | None = None
    """Former name of accelerator (deprecated); reads as the way of distribution in force."""

    automatic_optimization: bool | None = None
    """False leaves optimizing to training_step (deprecated); None lets the module decide."""

    move_metrics_to_cpu: bool = False
    """Whether metrics kept for the epoch's end are moved to the CPU."""

    gradient_clip_algorithm: str = "norm"
    """'norm' scales the whole gradient, 'value' cuts each entry off."""

    max_time: str | dict[str, float] | timedelta | None = None
    """Time after which training ends: "DD:HH:MM:SS", {"hours": 2} or a timedelta."""

    limit_predict_batches: int | float = 1.0
    """Share (float) or number (int) of the batches of each prediction loader."""

    compile: bool | dict[str, Any] = False
    """Whether torch.compile compiles the steps, or a dict of its arguments."""

    cuda_graph: bool = False
    """Whether forward and backward pass are captured once as a CUDA graph and played back."""

    given: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the caller wrote, by argument; environment variables included. Not an argument."""

    origin: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """How each of ``given`` was given: its name, an alias or a variable. Not an argument."""

    changes: tuple[Change, ...] = field(default=(), compare=False, repr=False)
    """What fast_dev_run and overfit_batches changed. Not an argument."""

    @classmethod
    def parse(cls, **kwargs: Any) -> "TrainerConfig":
        """Check arguments and bring them into their documented form.

        Environment variables take part: ``LEYDEN_TRAINER_<ARGUMENT>`` fills an argument that is not
        given, ``PL_TRAINER_<ARGUMENT>`` wins over one that is, as in Lightning 1.1.

        Args:
            **kwargs: arguments of Lightning 1.1 or their names in today's Lightning (``ALIASES``).

        Returns:
            The configuration, with ``given``, ``origin`` and ``changes`` filled in.

        Raises:
            MisconfigurationException: for an unknown argument, a wrong type, value or combination,
                and for what this machine cannot serve. The message names the argument.

        Example:
            >>> config = TrainerConfig.parse(max_epochs=5, fast_dev_run=True)
            >>> config.max_epochs, config.given["max_epochs"]
            (1, 5)
            >>> print(config.changes[4])
            max_epochs: 5 -> 1 (fast_dev_run=True)
        """
        _refuse_unknown(kwargs)
        given, origin = _given(kwargs, os.environ)
        values = defaults()
        for name, value in given.items():
            label = origin[name]
            values[name] = CHECKS[name](label, value)
        values["track_grad_norm"] = float(values["track_grad_norm"])
        rules.check_backend_names(values, origin)
        rules.check_hardware(values, origin)
        check_processes(values, origin)
        rules.check_combinations(values)
        changes = rules.effects(values)
        return cls(**values, given=given, origin=origin, changes=tuple(changes))

    def arguments(self) -> dict[str, Any]:
        """Return every argument as it is in force; parsing them again gives an equal config."""
        return {name: getattr(self, name) for name in CHECKS}

    @property
    def accumulation_schedule(self) -> dict[int, int]:
        """``{epoch: batches an optimizer step}``, from epoch 0 on, sorted."""
        value = self.accumulate_grad_batches
        return dict(value) if isinstance(value, dict) else {0: value}

    @property
    def fast_dev_batches(self) -> int:
        """Batches that fast_dev_run runs of each loop; 0 if it is off."""
        return int(self.fast_dev_run)

    @property
    def reload_every_n_epochs(self) -> int:
        """Epochs between two reloads of the data loaders; 0 for never."""
        return int(self.reload_dataloaders_every_epoch)

    @property
    def needs_dummy_logger(self) -> bool:
        """Whether fast_dev_run silenced a logger: ``self.logger.experiment`` must still answer."""
        return any(change.argument == "logger" for change in self.changes)

    @property
    def val_check_meaning(self) -> str:
        """How val_check_interval was understood, in words: ``1`` and ``1.0`` differ."""
        value = self.val_check_interval
        if isinstance(value, int):
            return "after every batch" if value == 1 else f"after every {value} batches"
        if math.isclose(value, 1.0):
            return "at the end of each training epoch"
        return f"after every {value:g} of a training epoch" if value else "after every batch"


CHECKS: dict[str, check.Check] = {
    "logger": objects.logger,
    "checkpoint_callback": objects.checkpoint,
    "callbacks": objects.callbacks,
    "default_root_dir": objects.path,
    "gradient_clip_val": check.magnitude,
    "process_position": check.count(0),
    "num_nodes": check.count(1),
    "num_processes": check.count(1),
    "gpus": objects.devices,
    "auto_select_gpus": check.flag(),
    "tpu_cores": objects.cores,
    "log_gpu_memory": check.choice(None, "all", "min_max"),
    "progress_bar_refresh_rate": check.count(0, none=1, false=0, advice="0 shows no progress bar"),
    "overfit_batches": check.limit(none=None),
    "track_grad_norm": check.norm_order,
    "check_val_every_n_epoch": check.count(1, advice="limit_val_batches=0 switches validation off"),
    "fast_dev_run": check.fast_dev_run,
    "accumulate_grad_batches": check.accumulation,
    "max_epochs": check.count(0, none=1000, advice="a run without end is a large number"),
    "min_epochs": check.count(0, none=1),
    "max_steps": check.count(1, optional=True, unlimited=-1, advice="max_epochs=0 trains nothing"),
    "min_steps": check.count(0, optional=True, unlimited=-1),
    "limit_train_batches": check.limit(),
    "limit_val_batches": check.limit(),
    "limit_test_batches": check.limit(),
    "val_check_interval": check.interval,
    "flush_logs_every_n_steps": check.count(1),
    "log_every_n_steps": check.count(1, none=50, advice="logger=False logs nothing"),
    "accelerator": check.anything,
    "sync_batchnorm": check.flag(),
    "precision": check.precision,
    "weights_summary": check.choice(None, "top", "full"),
    "weights_save_path": objects.path,
    "num_sanity_val_steps": check.sanity_steps,
    "truncated_bptt_steps": check.count(1, optional=True),
    "resume_from_checkpoint": objects.path,
    "profiler": objects.profiler,
    "benchmark": check.flag(none=False),
    "deterministic": check.determinism,
    "reload_dataloaders_every_epoch": check.flag_or_count,
    "auto_lr_find": objects.flag_or_attribute,
    "replace_sampler_ddp": check.flag(),
    "terminate_on_nan": check.flag(),
    "auto_scale_batch_size": objects.flag_or_text,
    "prepare_data_per_node": check.flag(),
    "plugins": check.anything,
    "amp_backend": objects.text,
    "amp_level": objects.text,
    "distributed_backend": check.anything,
    "automatic_optimization": check.either(None, check.flag()),
    "move_metrics_to_cpu": check.flag(),
    "gradient_clip_algorithm": check.algorithm,
    "max_time": objects.time_limit,
    "limit_predict_batches": check.limit(),
    "compile": objects.compilation,
    "cuda_graph": check.flag(),
}

# What fills gaps, and what wins over the code that it configures, as in Lightning 1.1.
_VARIABLES = ("LEYDEN_TRAINER_", "PL_TRAINER_")

NOT_ARGUMENTS = ("given", "origin", "changes")


def defaults() -> dict[str, Any]:
    """Return every argument with its default, in the order of the signature."""
    return {f.name: f.default for f in fields(TrainerConfig) if f.name not in NOT_ARGUMENTS}


def signature_parameters() -> list[inspect.Parameter]:
    """Return the keyword-only parameters of a Trainer: 1.1's, later ones, then today's names.

    Today's names have None as their default, which means "not given".
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter(f.name, kind, default=f.default, annotation=f.type)
        for f in fields(TrainerConfig)
        if f.name not in NOT_ARGUMENTS
    ]
    today = [
        inspect.Parameter(name, kind, default=None, annotation=Union[(*alias.types, None)])  # noqa: UP007
        for name, alias in ALIASES.items()
    ]
    return own + today


def _refuse_unknown(names: Iterable[str], prefix: str = "") -> None:
    known = [*CHECKS, *ALIASES]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            hint = (
                f"did you mean {' or '.join(near)}?" if near else "help(leyden.Trainer) lists them"
            )
            # Python's own words, which code that catches a TypeError may look for.
            raise MisconfiguredType(
                f"{prefix}Trainer.__init__() got an unexpected keyword argument {name!r}: {hint}"
            )


def _given(
    kwargs: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge what was passed with what the environment says, by the names of 1.1."""
    given, origin = resolve_aliases(kwargs, {name: name for name in kwargs}, {})
    if not any(variable.startswith(_VARIABLES) for variable in environ):
        return given, origin
    types = {name: kinds for name, kinds, _ in get_init_arguments_and_types(TrainerConfig)}
    types = {n: types[n] for n in CHECKS} | {n: alias.types for n, alias in ALIASES.items()}
    ours, theirs = _VARIABLES
    known = {(ours + name).upper() for name in types}
    for variable in environ:
        # The other prefix is not ours alone: what we do not know may be meant for somebody else.
        if variable.startswith(ours) and variable not in known:
            _refuse_unknown([variable.removeprefix(ours).lower()], f"environment: {variable}: ")
    merged: list[tuple[dict[str, Any], dict[str, str]]] = []
    for prefix in (ours, theirs):
        found = environment(prefix, types, environ)
        values = {name: value for name, (_, value) in found.items()}
        sources = {name: variable for name, (variable, _) in found.items()}
        merged.append(resolve_aliases(values, sources, given))
    (fills, fill_origin), (wins, win_origin) = merged
    for name in fills.keys() & wins.keys():
        if fills[name] != wins[name]:
            raise MisconfiguredValue(
                f"{fill_origin[name]}={check.shown(fills[name])} and {win_origin[name]}="
                f"{check.shown(wins[name])} are both in the environment: unset one of them"
            )
    return {**fills, **given, **wins}, {**fill_origin, **origin, **win_origin}

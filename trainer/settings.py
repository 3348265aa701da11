"""The arguments of a Trainer, as they are in force now, and which of them may still be changed."""

from typing import Any

from leyden import config_rules as rules
from leyden.config import CHECKS, TrainerConfig
from leyden.engine.errors import MisconfigurationException

__all__ = ["ANY_TIME", "FIXED", "Settings"]

#: Arguments that may be changed while a run is going on; all others that are not FIXED, between
#: runs.
ANY_TIME = frozenset(
    {
        "accumulate_grad_batches",
        "flush_logs_every_n_steps",
        "gradient_clip_algorithm",
        "gradient_clip_val",
        "log_every_n_steps",
        "logger",
        "max_epochs",
        "max_steps",
        "min_epochs",
        "min_steps",
        "move_metrics_to_cpu",
        "resume_from_checkpoint",
        "terminate_on_nan",
        "track_grad_norm",
    }
)

_DEVICES = "devices and processes are chosen when the Trainer is made"
_OTHERS = "it sets other arguments when the Trainer is made"

#: Arguments that stay as they were given, and why.
FIXED = {
    "fast_dev_run": _OTHERS,
    "overfit_batches": _OTHERS,
    "default_root_dir": "the logger writes to it already",
    "max_time": "its clock is a Timer: change that of trainer.handlers['Timer']",
    "checkpoint_callback": "put a ModelCheckpoint into trainer.callbacks, or take it out there",
    "precision": "it is chosen when the Trainer is made",
    "amp_backend": "it is chosen when the Trainer is made",
    "amp_level": "it is chosen when the Trainer is made",
    "plugins": _DEVICES,
    "gpus": _DEVICES,
    "auto_select_gpus": _DEVICES,
    "tpu_cores": _DEVICES,
    "num_nodes": _DEVICES,
    "num_processes": _DEVICES,
    "accelerator": _DEVICES,
    "distributed_backend": _DEVICES,
    "log_gpu_memory": _DEVICES,
    "compile": "it is chosen when the Trainer is made",
    "cuda_graph": "it is chosen when the Trainer is made",
}


class Settings:
    """Every argument of the Trainer under its own name; parts read them, the Trainer alone writes.

    Attributes:
        given: what the caller wrote, by argument.
        origin: how it was given: by its name, by one of today's names or by an environment
            variable.
        changes: what fast_dev_run and overfit_batches changed.
    """

    profiler: Any

    def __init__(self, config: TrainerConfig) -> None:
        self.__dict__.update(config.arguments())
        self.given: dict[str, Any] = dict(config.given)
        self.origin: dict[str, str] = dict(config.origin)
        self.changes = config.changes
        self.fast_dev_batches = config.fast_dev_batches
        self.needs_dummy_logger = config.needs_dummy_logger

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no argument {name!r} of the Trainer")

    @property
    def val_check_meaning(self) -> str:
        """How ``val_check_interval`` is understood, in words."""
        return TrainerConfig(val_check_interval=self.val_check_interval).val_check_meaning

    def keeps(self, name: str, value: Any) -> bool:
        """Whether an argument that cannot be changed is set to what it is."""
        here = self.__dict__.get(name)
        simple = value is None or isinstance(value, (bool, int, float, str))
        return name in FIXED and simple and type(here) is type(value) and bool(here == value)

    def check(self, name: str, value: Any, *, running: bool) -> Any:
        """Return the new value of an argument in its documented form; nothing is changed yet.

        Args:
            name: the argument.
            value: what it is to be.
            running: whether a run is going on.

        Raises:
            MisconfigurationException: if it cannot be changed (now), or not to this; with the
                reason.
        """
        if name in FIXED:
            raise MisconfigurationException(
                f"trainer.{name} cannot be set to {_shown(value)}: {FIXED[name]}; or make a new "
                f"Trainer({name}=...)"
            )
        if running and name not in ANY_TIME:
            raise MisconfigurationException(
                f"trainer.{name} cannot be set to {_shown(value)} during a run: set it before or "
                f"after; during a run these may change: {', '.join(sorted(ANY_TIME))}"
            )
        checked = CHECKS[name](name, value)
        values = {**{argument: self.__dict__[argument] for argument in CHECKS}, name: checked}
        rules.check_combinations(values)
        return checked

    def put(self, name: str, checked: Any) -> None:
        """Set an argument to a value that :meth:`check` gave."""
        if name == "track_grad_norm":
            checked = float(checked)
        self.__dict__[name] = checked
        self.given[name] = checked
        self.origin[name] = name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__

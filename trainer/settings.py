"""The arguments of a Trainer, as they are in force now."""

from typing import Any

from leyden.config import CHECKS, TrainerConfig

__all__ = ["Settings"]


class Settings:
    """Every argument of the Trainer under its own name; parts read them, the Trainer alone writes.

    Attributes:
        given: what the caller wrote, by argument.
        changes: what fast_dev_run and overfit_batches changed.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.__dict__.update(config.arguments())
        self.given: dict[str, Any] = dict(config.given)
        self.changes = config.changes
        self.fast_dev_batches = config.fast_dev_batches
        self.needs_dummy_logger = config.needs_dummy_logger
        self.val_check_meaning = config.val_check_meaning

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no argument {name!r} of the Trainer")

    def change(self, name: str, value: Any) -> None:
        """Check and set one argument after the Trainer was made."""
        checked = CHECKS[name](name, value)
        self.__dict__[name] = checked
        self.given[name] = checked

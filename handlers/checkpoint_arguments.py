"""Checks of what ``ModelCheckpoint`` is given, and when it is due."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from leyden.engine.errors import MisconfiguredType, MisconfiguredValue
from leyden.handlers.checkpoint_names import is_remote
from leyden.handlers.deprecation import deprecated

__all__ = ["Triggers", "check_arguments", "split_filepath", "tell_deprecated"]


@dataclass(frozen=True)
class Triggers:
    """When checkpoints are due.

    Attributes:
        period: epochs from one save to the next; 0 or less: epochs do not count.
        steps: optimizer steps from one save to the next; None: steps do not count.
        seconds: time from one save to the next; None: time does not count.
        named: the arguments that were given.
    """

    period: int
    steps: int | None
    seconds: float | None
    named: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(
        cls,
        period: int | None = None,
        every_n_epochs: int | None = None,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
    ) -> "Triggers":
        """Make it from the arguments of these names."""
        for name, value in (
            ("period", period),
            ("every_n_epochs", every_n_epochs),
            ("every_n_train_steps", every_n_train_steps),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise MisconfiguredType(
                    f"ModelCheckpoint({name}={value!r}) is no int: pass a whole number or None"
                )
        if period is not None and every_n_epochs is not None:
            raise MisconfiguredValue(
                f"ModelCheckpoint(period={period}, every_n_epochs={every_n_epochs}) says the same "
                "twice: "
                "pass one of them"
            )
        if every_n_train_steps is not None and every_n_train_steps < 0:
            raise MisconfiguredValue(
                f"ModelCheckpoint(every_n_train_steps={every_n_train_steps}) is negative: pass a "
                "number of "
                "optimizer steps, or 0 for never"
            )
        if train_time_interval is not None:
            if not isinstance(train_time_interval, timedelta):
                raise MisconfiguredType(
                    f"ModelCheckpoint(train_time_interval={train_time_interval!r}) is no "
                    "datetime.timedelta: "
                    "pass, for example, timedelta(minutes=30)"
                )
            if train_time_interval <= timedelta(0):
                raise MisconfiguredValue(
                    f"ModelCheckpoint(train_time_interval={train_time_interval}) is not above 0: "
                    "pass a longer one"
                )
        epochs = period if every_n_epochs is None else every_n_epochs
        within = bool(every_n_train_steps) or train_time_interval is not None
        if epochs is None:
            epochs = 0 if within else 1
        given = {
            "every_n_epochs": every_n_epochs if every_n_epochs is not None else period,
            "every_n_train_steps": every_n_train_steps,
            "train_time_interval": None
            if train_time_interval is None
            else str(train_time_interval),
        }
        return cls(
            period=epochs,
            steps=every_n_train_steps or None,
            seconds=None if train_time_interval is None else train_time_interval.total_seconds(),
            named=tuple((name, value) for name, value in given.items() if value is not None),
        )

    @property
    def epochs(self) -> int:
        """Epochs from one save to the next; 0: they do not count."""
        return max(self.period, 0)

    @property
    def within_epochs(self) -> bool:
        """Whether a save may be due at the end of any batch."""
        return self.steps is not None or self.seconds is not None

    @property
    def any(self) -> bool:
        """Whether anything is saved at all."""
        return self.within_epochs or self.epochs > 0

    def given(self) -> dict[str, Any]:
        """The arguments that tell two callbacks apart."""
        return dict(self.named)


def check_arguments(
    filepath: Any,
    monitor: Any,
    save_last: Any,
    save_top_k: Any,
    dirpath: Any,
    filename: Any,
    on_error: Any,
) -> None:
    """Refuse what makes no sense.

    Raises:
        MisconfigurationException: with what was given and what is allowed.
    """
    if monitor is not None and not isinstance(monitor, str):
        raise MisconfiguredType(
            f"ModelCheckpoint(monitor={monitor!r}) is no name: pass the name of a logged value"
        )
    for name, value in (("filepath", filepath), ("dirpath", dirpath)):
        if value is not None and not isinstance(value, (str, os.PathLike)):
            raise MisconfiguredType(
                f"ModelCheckpoint({name}={value!r}) is no path: pass a str or Path"
            )
    if filepath and (dirpath or filename):
        other, value = ("dirpath", dirpath) if dirpath else ("filename", filename)
        raise MisconfiguredValue(
            f"ModelCheckpoint(filepath={str(filepath)!r}, {other}={str(value)!r}) says twice where "
            "files go: pass dirpath and filename"
        )
    if save_top_k is not None:
        if isinstance(save_top_k, bool) or not isinstance(save_top_k, int):
            raise MisconfiguredType(
                f"ModelCheckpoint(save_top_k={save_top_k!r}) is no int: pass -1 (all), 0 (none), "
                "or how many to keep"
            )
        if save_top_k < -1:
            raise MisconfiguredValue(
                f"ModelCheckpoint(save_top_k={save_top_k}) is below -1. Must be None or >= -1: "
                "pass -1 (all), 0 (none), or how many to keep"
            )
        if monitor is None and save_top_k > 0:
            raise MisconfiguredValue(
                f"ModelCheckpoint(save_top_k={save_top_k}, monitor=None) is not a valid choice: "
                "there is no monitor to choose by. Pass monitor='<name of a logged value>', or "
                "save_top_k=None (the last), -1 (all), 0 (none)"
            )
    if on_error not in ("raise", "warn"):
        raise MisconfiguredValue(
            f"ModelCheckpoint(on_error={on_error!r}) is unknown: pass 'raise' or 'warn'"
        )


def tell_deprecated(filepath: Any, prefix: str, mode: str | None) -> None:
    """Warn of the arguments that Lightning 1.1 deprecated."""
    for name, value, since, instead in (
        ("filepath", filepath, "1.0", "pass dirpath= and filename="),
        ("prefix", prefix, "1.1", "put it at the beginning of filename="),
        ("mode", mode if mode == "auto" else None, "1.1", "pass mode='min' or mode='max'"),
    ):
        if value:
            shown = os.fspath(value)
            then = f"will be removed in v1.{2 if name == 'filepath' else 3}"
            deprecated(
                f"ModelCheckpoint({name}={shown!r})", since=since, instead=instead, then=then
            )


def split_filepath(
    filepath: str | os.PathLike[str] | None,
    dirpath: str | os.PathLike[str] | None,
    filename: str | None,
) -> tuple[str | None, str | None]:
    """Return directory and template; ``filepath`` is both in one unless it is a directory."""
    if filepath:
        path = os.fspath(filepath)
        if not is_remote(path) and os.path.isdir(path):
            dirpath = path
        else:
            dirpath, _, filename = _absolute(path).rpartition("/" if is_remote(path) else os.sep)
    return _absolute(os.fspath(dirpath)) if dirpath else None, filename or None


def _absolute(path: str) -> str:
    # Resolved once: a later change of the working directory must not move the files.
    return path if is_remote(path) else os.path.realpath(path)

"""Which process may write: the one of rank 0."""

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["DummyExperiment", "is_rank_zero", "rank_zero_experiment", "rank_zero_only"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# What torchrun, SLURM and a script re-launch set; the global rank wins over the local one.
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def rank() -> int:
    """The rank of this process.

    The process group decides once there is one; before that the environment, so that a worker
    started by a launcher does not create directories while the group is still being made.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    for name in _RANK_VARIABLES:
        value = os.environ.get(name)
        if value is not None:
            return 0 if value.strip() in ("", "0") else int(value) if value.isdecimal() else 1
    return 0


def is_rank_zero() -> bool:
    """Tell whether this process is the one that writes."""
    return rank_zero_only.rank == 0


class _RankZeroOnly:
    """Makes a function do nothing, and return None, in every process but the one of rank 0.

    ``rank_zero_only.rank`` is the rank that it goes by, and can be set.
    """

    _set: int | None = None

    def __call__(self, function: _Function) -> _Function:
        """Decorate a function."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) if is_rank_zero() else None

        return wrapped  # type: ignore[return-value]

    @property
    def rank(self) -> int:
        """The rank of this process, unless it was set."""
        return rank() if self._set is None else self._set

    @rank.setter
    def rank(self, value: int | None) -> None:
        self._set = value

    @rank.deleter
    def rank(self) -> None:
        self._set = None


rank_zero_only = _RankZeroOnly()


def rank_zero_experiment(function: _Function) -> _Function:
    """Give a `DummyExperiment` in place of the real one in every process but that of rank 0.

    Goes below ``@property`` on a logger's ``experiment``.
    """

    @functools.wraps(function)
    def wrapped(self: Any) -> Any:
        return function(self) if is_rank_zero() else DummyExperiment()

    return wrapped  # type: ignore[return-value]


class DummyExperiment:
    """An experiment on which every method exists, takes anything and does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        # Without this, copying and pickling would look for their hooks and find a function.
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing

    def __getitem__(self, index: int) -> "DummyExperiment":
        return self


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None

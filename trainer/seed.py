"""Seed every generator of random numbers at once."""

import os
import random
import sys

import torch

from leyden.backends.xla import runtime as xla
from leyden.engine.notice import warn
from leyden.exceptions import MisconfigurationException

__all__ = ["seed_everything", "seed_worker"]

SEED_VARIABLE = "PL_GLOBAL_SEED"
WORKERS_VARIABLE = "PL_SEED_WORKERS"
_LARGEST = 2**32 - 1  # NumPy takes no larger one.


def seed_everything(seed: int | str | None = None, workers: bool = False) -> int:
    """Seed Python, NumPy, torch and its devices, and tell child processes through the environment.

    Args:
        seed: From 0 to 4294967295. None takes the one in ``PL_GLOBAL_SEED``, or, where that is not
            set, a random one, with a warning that names it.
        workers: Ask the Trainer to seed the loaders' workers by :func:`seed_worker`, so that the
            ranks of a distributed run do not augment alike.

    Returns:
        The seed that was set.

    Raises:
        MisconfigurationException: The seed is no integer in that range.

    Source: Lightning 1.1.8, which however replaces a seed it cannot use by a random one.

    Example:
        >>> seed_everything(7)
        7
    """
    source = "seed"
    given: int | str | None = seed
    if given is None:
        source, given = SEED_VARIABLE, os.environ.get(SEED_VARIABLE)
    if given is None:
        # Not from the module's generator: whoever seeded that wants its numbers for something else.
        chosen = random.SystemRandom().randint(0, _LARGEST)
        warn(f"no seed was given: using the random seed {chosen}")
    else:
        chosen = _checked(given, source)
    os.environ[SEED_VARIABLE] = str(chosen)
    os.environ[WORKERS_VARIABLE] = str(int(bool(workers)))
    random.seed(chosen)
    _seed_numpy(chosen)
    torch.manual_seed(chosen)  # All devices that torch has itself.
    xla.seed(chosen)
    return chosen


def seed_worker(worker_id: int) -> None:
    """Seed a loader's worker from its own seed and the rank of its process.

    To be used as ``worker_init_fn``. torch gives each worker a seed of its own, but the same ones
    on every rank of a run whose ranks were seeded alike.

    Args:
        worker_id: The number of the worker; torch's seed differs by it already.
    """
    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    mixed = _mix(torch.initial_seed() + _mix(rank + 1))
    torch.manual_seed(mixed)
    random.seed(mixed)
    _seed_numpy(mixed & _LARGEST)


def _checked(given: int | str, source: str) -> int:
    try:
        value = int(given)
        # int() would cut 1.5 down; text has no value of its own to compare with.
        fits = isinstance(given, str) or value == given
    except (TypeError, ValueError, OverflowError):
        value, fits = 0, False
    if not fits or not 0 <= value <= _LARGEST:
        raise MisconfigurationException(
            f"{source}={given!r} is no seed: pass an integer from 0 to {_LARGEST}"
        )
    return value


def _seed_numpy(seed: int) -> None:
    """Seed NumPy if there is one; torch has imported it then already."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def _mix(value: int) -> int:
    """Spread neighbouring numbers over 64 bits (the finalizer of splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)

"""Join the processes of a run into one group, and say what is wrong where that fails."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist

from leyden.backends.environments import Environment
from leyden.backends.launchers.lifeline import hold_lifeline
from leyden.backends.launchers.script import tell_ready
from leyden.engine.errors import MisconfigurationException

__all__ = ["join"]


def join(place: Environment, backend: str, timeout: timedelta) -> None:
    """Make the process group; returns when all processes are there.

    Args:
        place: which process this is, and where they meet.
        backend: "gloo", "nccl" ...
        timeout: how long to wait for the others, here and in each collective call.

    Raises:
        MisconfigurationException: the port that they are to meet at is used by something else.
        RuntimeError: the others did not come in time.
    """
    hold_lifeline()
    tell_ready()
    try:
        dist.init_process_group(
            backend,
            init_method=place.init_method or "env://",
            rank=place.global_rank,
            world_size=place.world_size,
            timeout=timeout,
        )
    except RuntimeError as error:
        text = str(error)
        if "EADDRINUSE" in text or "ddress already in use" in text:
            raise MisconfigurationException(
                f"the processes were to meet at {_where(place)}, and that port is in use: set "
                "MASTER_PORT to a free one, on all machines alike; torchrun takes --master-port, "
                "or finds a port itself with --standalone"
            ) from error
        seconds = int(timeout.total_seconds())
        raise RuntimeError(
            f"rank {place.global_rank} found not all of the {place.world_size} processes at "
            f"{_where(place)} ({seconds} s are allowed): {text.splitlines()[0]}. See whether all "
            "of them were started and run the same fit or test; across machines, whether they "
            "reach that address (GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME name the interface)"
        ) from error


def _where(place: Environment) -> str:
    if place.init_method in (None, "env://"):
        env = os.environ
        return f"{env.get('MASTER_ADDR', 'MASTER_ADDR')}:{env.get('MASTER_PORT', 'MASTER_PORT')}"
    return str(place.init_method)

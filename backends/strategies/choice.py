"""From the Trainer's arguments to a strategy."""

from __future__ import annotations

from typing import Any

from leyden.backends.devices import devices_for
from leyden.backends.environments import find_environment
from leyden.backends.plugins import plugin_of
from leyden.backends.strategies.base import Strategy
from leyden.backends.strategies.ddp import DDPStrategy
from leyden.backends.strategies.xla import tpu_strategy

__all__ = ["strategy_for"]


def strategy_for(settings: Any) -> Strategy:
    """Return the strategy that the arguments ask for.

    Args:
        settings: with ``distributed_backend``, ``num_processes``, ``num_nodes``, ``plugins`` and
            the arguments of devices.
    """
    given = plugin_of(settings.plugins, Strategy)
    if given is not None:
        return given
    if settings.tpu_cores is not None:
        return tpu_strategy(settings.tpu_cores, settings.distributed_backend)
    environment = find_environment()
    device = devices_for(settings.gpus, settings.accelerator).of(environment.local_rank)
    if settings.distributed_backend in ("ddp", "ddp_cpu", "ddp_spawn") and environment.started:
        return DDPStrategy(device, environment)
    return Strategy(device, environment)

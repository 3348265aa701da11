"""From the Trainer's arguments to a strategy.

================================  ============================================================
arguments                         strategy
================================  ============================================================
none of these                     one process; all that there are, under torchrun and its like
``num_processes=n``               ddp_spawn
``tpu_cores``                     one core, or all of them from one process
``tpu_spawn``                     a process for each TPU core, which get the objects
several ``gpus``                  ddp_spawn
``ddp``                           a process for each device; leyden starts the script again
``ddp_spawn``, ``ddp_cpu``        the same; leyden starts processes that get the objects
``dp``, ``ddp2``                  one process drives several devices
``fsdp``                          a process a device, each holding a part of the model
``single_device``                 one process, whatever there is around it
================================  ============================================================
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, ClassVar

import torch

from leyden.backends.devices import Devices, devices_for
from leyden.backends.environments import Environment, find_environment
from leyden.backends.launchers import ProcessLauncher, launcher_for
from leyden.backends.plugins import plugin_of
from leyden.backends.strategies.base import Strategy
from leyden.backends.strategies.data_parallel import DataParallelStrategy, DDP2Strategy
from leyden.backends.strategies.ddp import DDPStrategy
from leyden.backends.strategies.fsdp import FSDPStrategy
from leyden.backends.strategies.processes import ProcessStrategy
from leyden.backends.strategies.xla import XLAStrategy, tpu_strategy
from leyden.backends.strategies.xla_processes import XLAProcessStrategy
from leyden.backends.xla import runtime
from leyden.engine.errors import MisconfigurationException

__all__ = ["NAMES", "strategy_for"]

log = logging.getLogger(__name__)

_UNUSED = "find_unused_parameters"
#: Each name with what it means here, and the options that go with it.
NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {})
        for name in ("dp", "ddp", "ddp2", "ddp_spawn", "ddp_cpu", "fsdp", "single_device")
    },
    # Names of today's Lightning. It forks where these say so, and a forked process can hang in the
    # first matrix product; processes that are started get the same objects.
    "ddp_notebook": ("ddp_spawn", {}),
    "ddp_fork": ("ddp_spawn", {}),
    **{
        f"{name}_{_UNUSED}_{str(flag).lower()}": (name, {_UNUSED: flag})
        for name in ("ddp", "ddp_spawn")
        for flag in (True, False)
    },
}
_SPAWNING = ("ddp_spawn", "ddp_cpu")


class _Alone(Strategy):
    """``ddp`` with one process: nobody to talk to."""

    name: ClassVar[str] = "ddp"


class _Refused(Strategy):
    """A choice that makes a Trainer, as in Lightning 1.1, but no run."""

    def __init__(self, device: torch.device | str, why: str) -> None:
        super().__init__(device)
        self.why = why

    def connect(self) -> None:
        raise MisconfigurationException(self.why)


def strategy_for(settings: Any) -> Strategy:
    """Return the strategy that the arguments ask for.

    Args:
        settings: with ``distributed_backend``, ``num_processes``, ``num_nodes``, ``plugins``, the
            arguments of devices, and ``given``: those that the caller wrote.

    Raises:
        MisconfigurationException: where processes are there already, and not those that the
            arguments ask for.
    """
    ready = plugin_of(settings.plugins, Strategy)
    if ready is not None and ready.environment.started:
        return ready
    if settings.distributed_backend == "tpu_spawn" or isinstance(ready, XLAProcessStrategy):
        return _core_processes(ready, settings)
    if settings.tpu_cores is not None:
        return ready or tpu_strategy(settings.tpu_cores, settings.distributed_backend)
    ready_devices = plugin_of(settings.plugins, Devices)
    devices = ready_devices or devices_for(settings.gpus, settings.accelerator)
    backend = settings.distributed_backend
    name, options = NAMES[backend] if isinstance(backend, str) else (None, {})
    per_node = len(devices) if devices.kind == "cuda" else settings.num_processes
    if name in ("dp", "ddp2", "single_device"):
        per_node = 1
    around = plugin_of(settings.plugins, Environment) or find_environment(
        per_node=per_node, num_nodes=settings.num_nodes
    )
    if name == "single_device":
        return Strategy(devices.of(0), Environment())
    if around.started:
        _check_fit(settings, around, per_node)
    world = around.world_size if around.started else per_node * settings.num_nodes
    if ready is not None:
        if world == 1 and not around.started and isinstance(ready, ProcessStrategy):
            return _Refused(
                devices.of(0),
                f"plugins={ready!r} has one process to distribute to: pass num_processes=2 (on "
                "CPUs) or gpus=2, or start the script with torchrun",
            )
        return _placed(ready, name or ready.name, devices, around, world, settings)
    if name is None:
        if world == 1:
            return Strategy(devices.of(0), around)
        name = _by_numbers(settings, around)
    device = devices.of(around.local_rank)
    if name == "dp":
        if not settings.gpus:
            return _Refused(device, "accelerator='dp' needs two GPUs: pass accelerator='ddp_cpu'")
        if len(devices) == 1:
            return Strategy(device, around)  # nothing to cut
        return DataParallelStrategy(devices.all, around)
    if name == "ddp2" and not settings.gpus:
        return _Refused(device, "accelerator='ddp2' needs GPUs: pass accelerator='ddp'")
    if world == 1 and not around.started:
        return _one_process(settings, name, device)
    return _placed(_make(name, devices, device, options), name, devices, around, world, settings)


def _core_processes(ready: Strategy | None, settings: Any) -> Strategy:
    """A process for each TPU core of this machine, or those that are there."""
    runtime.require("accelerator='tpu_spawn'")
    per_node = runtime.process_count()
    around = plugin_of(settings.plugins, Environment) or find_environment(per_node=per_node)
    strategy = XLAProcessStrategy() if ready is None else ready
    if around.started:
        strategy.environment, strategy.launcher = around, None
        return strategy
    if per_node == 1:
        return XLAStrategy()
    held = runtime.why_no_processes()
    if held:
        raise MisconfigurationException(
            f"accelerator='tpu_spawn' is to start a process for each of {per_node} cores, and "
            f"{held}: make this Trainer first, or in a process of its own"
        )
    strategy.environment = replace(around, world_size=per_node)
    # Not forked from a server that has imported torch_xla: torch_xla.launch does not either.
    strategy.launcher = ProcessLauncher(per_node, method="spawn")
    return strategy


def _make(name: str, devices: Devices, device: torch.device, options: dict[str, Any]) -> Strategy:
    if name == "fsdp":
        return FSDPStrategy(device, **options)
    if name == "ddp2":
        return DDP2Strategy(devices.all, **options)
    return DDPStrategy(device, **options)


def _by_numbers(settings: Any, around: Environment) -> str:
    """The way of distribution where no argument names one, and there are several processes."""
    if around.started:
        log.info(
            "%s processes are there (%s), and no accelerator is given: they train together, as "
            "with accelerator='ddp'; strategy='single_device' lets each train on its own",
            around.world_size,
            around.name,
        )
        return "ddp"
    # Started by hand on each machine, as the number of machines says.
    return "ddp" if settings.num_nodes > 1 else "ddp_spawn"


def _one_process(settings: Any, name: str, device: torch.device) -> Strategy:
    today = settings.origin.get("distributed_backend") == "strategy"
    if today or name == "ddp_cpu" or device.type != "cpu":
        return _Alone(device)
    return _Refused(
        device,
        f"accelerator={name!r} has one process to distribute to: pass num_processes=2 (on CPUs) or "
        "gpus=2, start the script with torchrun, or leave accelerator out",
    )


def _placed(
    strategy: Strategy,
    name: str,
    devices: Devices,
    around: Environment,
    world: int,
    settings: Any,
) -> Strategy:
    """Tell a strategy which process this is, or who will start the processes."""
    if around.started or world == 1:
        strategy.environment, strategy.launcher = around, None
        if devices != Devices() or strategy.root_device.type == "cpu":
            strategy.root_device = devices.of(around.local_rank)  # else it brought its own
        return strategy
    strategy.environment = replace(around, world_size=world, num_nodes=settings.num_nodes)
    strategy.launcher = launcher_for(strategy.environment, spawning=name in _SPAWNING)
    return strategy


def _check_fit(settings: Any, around: Environment, per_node: int) -> None:
    """Hold the processes that are there against those that were asked for."""
    given = settings.given
    nodes, what = settings.num_nodes, "num_processes"
    if "gpus" in given and settings.gpus and settings.distributed_backend not in ("dp", "ddp2"):
        what = "gpus"
    asks = what in given and given[what] is not None
    whole = f"{around.world_size} processes are there ({_who(around)})"
    if around.name == "group":
        # Nobody says how they are spread over machines.
        if (asks or "num_nodes" in given) and per_node * nodes != around.world_size:
            raise MisconfigurationException(
                f"{whole}, and {what}={getattr(settings, what)!r} on num_nodes={nodes} asks for "
                f"{per_node * nodes}: leave both out to use those that are there"
            )
        return
    if "num_nodes" in given and nodes != around.num_nodes:
        raise MisconfigurationException(
            f"{whole} on {around.num_nodes} machines, and num_nodes={nodes}: leave it out, or "
            f"start as many ({_how(around)})"
        )
    if asks and per_node != around.per_node:
        raise MisconfigurationException(
            f"{whole}, {around.per_node} on each machine, and {what}="
            f"{getattr(settings, what)!r} asks for {per_node}: leave it out, or start as many "
            f"({_how(around)})"
        )


def _who(around: Environment) -> str:
    words = {
        "group": "a process group is initialised",
        "leyden": "started by an earlier Trainer of this script",
    }
    return words.get(around.name, f"started by {around.name}")


def _how(around: Environment) -> str:
    if around.name == "slurm":
        return "#SBATCH --nodes, --ntasks-per-node"
    return "torchrun --nnodes, --nproc-per-node"

"""Which process this is: read from a process group that is there, or from what a launcher set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch.distributed as dist

from leyden.backends import slurm
from leyden.engine.errors import MisconfigurationException

__all__ = ["INIT_VARIABLE", "Environment", "find_environment", "variables_of"]

#: How the processes that leyden started find one another; it tells them from torchrun's.
INIT_VARIABLE = "LEYDEN_INIT_METHOD"

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Environment:
    """The place of this process among those that work together.

    One can be passed as ``Trainer(plugins=...)``, where nothing here finds it.

    Attributes:
        name: who started the processes: "none" (this one is alone, or will start the others),
            "group" (a process group is there already), "torchrun", "slurm", "leyden".
        global_rank: the number of this process among all, from 0.
        local_rank: its number on its machine, from 0.
        node_rank: the number of its machine, from 0.
        world_size: how many processes there are.
        num_nodes: how many machines.
        init_method: how they find one another, as torch.distributed takes it; None: by the
            variables ``MASTER_ADDR`` and ``MASTER_PORT``.
    """

    name: str = "none"
    global_rank: int = 0
    local_rank: int = 0
    node_rank: int = 0
    world_size: int = 1
    num_nodes: int = 1
    init_method: str | None = None

    @property
    def started(self) -> bool:
        """Whether the processes are there already, so that nothing has to be launched."""
        return self.name != "none"

    @property
    def per_node(self) -> int:
        """How many processes a machine has."""
        return max(self.world_size // self.num_nodes, 1)


def find_environment(
    variables: Mapping[str, str] | None = None, *, per_node: int = 1, num_nodes: int = 1
) -> Environment:
    """Look for the processes that work together.

    A process group that is there wins (Ray Train's, the user's own); then come leyden's and
    torchrun's variables, then SLURM's, where it manages as many tasks as the run asks for.

    Args:
        variables: those of a launcher; None: this process's environment.
        per_node: processes that the run asks for on each machine.
        num_nodes: machines that it asks for.

    Raises:
        MisconfigurationException: where a variable is no number, or the numbers do not fit.
    """
    env = os.environ if variables is None else variables
    if dist.is_available() and dist.is_initialized():
        return _place("group", env, dist.get_rank(), dist.get_world_size(), None)
    if INIT_VARIABLE in env:
        rank, world = _number(env, "RANK"), _number(env, "WORLD_SIZE")
        return _place("leyden", env, rank, world, env[INIT_VARIABLE])
    if all(name in env for name in _TORCHRUN):
        rank, world = _number(env, "RANK"), _number(env, "WORLD_SIZE")
        _number(env, "MASTER_PORT")
        return _place("torchrun", env, rank, world, None)
    if slurm.manages(env, per_node, num_nodes):
        tasks, nodes = slurm.number(env, "SLURM_NTASKS"), slurm.number(env, "SLURM_NNODES", 1)
        return Environment(
            "slurm",
            slurm.number(env, "SLURM_PROCID"),
            slurm.number(env, "SLURM_LOCALID"),
            slurm.number(env, "SLURM_NODEID", 0),
            tasks,
            nodes,
            f"tcp://{slurm.root_node(env)}:{slurm.port(env)}",
        )
    return Environment()


def variables_of(place: Environment) -> dict[str, str]:
    """The variables by which a process that leyden starts finds this place.

    The names are torchrun's and Lightning 1.1's, which code of users may read.
    """
    return {
        "RANK": str(place.global_rank),
        "LOCAL_RANK": str(place.local_rank),
        "GROUP_RANK": str(place.node_rank),
        "NODE_RANK": str(place.node_rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_WORLD_SIZE": str(place.per_node),
        INIT_VARIABLE: place.init_method or "env://",
    }


def _place(
    name: str, env: Mapping[str, str], rank: int, world: int, init_method: str | None
) -> Environment:
    if not 0 <= rank < world:
        raise MisconfigurationException(
            f"RANK={rank} with WORLD_SIZE={world}: a rank is from 0 to {world - 1}"
        )
    local_world = max(_number(env, "LOCAL_WORLD_SIZE", world), 1)
    return Environment(
        name,
        rank,
        _number(env, "LOCAL_RANK", rank % local_world),
        _number(env, "GROUP_RANK", rank // local_world),
        world,
        # The last machine may have fewer.
        max(-(-world // local_world), 1),
        init_method,
    )


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    cure = "unset it, or start the processes with torchrun, which sets it"
    return slurm.number(env, name, default, cure)

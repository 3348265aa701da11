"""Which process this is: read from a process group that is there, or from what a launcher set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch.distributed as dist

__all__ = ["Environment", "find_environment"]


@dataclass(frozen=True)
class Environment:
    """The place of this process among those that work together.

    Attributes:
        name: who started the processes: "none" (this one is alone, or will start the others),
            "group" (a process group is there already), "torchrun", "slurm", "leyden".
        global_rank: the number of this process among all, from 0.
        local_rank: its number on its machine, from 0.
        node_rank: the number of its machine, from 0.
        world_size: how many processes there are.
        num_nodes: how many machines.
    """

    name: str = "none"
    global_rank: int = 0
    local_rank: int = 0
    node_rank: int = 0
    world_size: int = 1
    num_nodes: int = 1

    @property
    def started(self) -> bool:
        """Whether the processes are there already, so that nothing has to be launched."""
        return self.name != "none"


def find_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Look for the processes that work together: a group that is there wins over variables.

    Args:
        variables: those of a launcher; None: this process's environment.
    """
    env = os.environ if variables is None else variables
    if dist.is_available() and dist.is_initialized():
        world = dist.get_world_size()
        local_world = int(env.get("LOCAL_WORLD_SIZE", world))
        rank = dist.get_rank()
        return Environment(
            "group",
            rank,
            int(env.get("LOCAL_RANK", rank % local_world)),
            int(env.get("GROUP_RANK", rank // local_world)),
            world,
            max(world // local_world, 1),
        )
    if all(name in env for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        rank, world = int(env["RANK"]), int(env["WORLD_SIZE"])
        local_world = int(env.get("LOCAL_WORLD_SIZE", world))
        return Environment(
            "torchrun",
            rank,
            int(env.get("LOCAL_RANK", rank % local_world)),
            int(env.get("GROUP_RANK", rank // local_world)),
            world,
            max(world // local_world, 1),
        )
    return Environment()

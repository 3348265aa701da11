"""What starts the processes of a run, where nobody else has: the script again, or new ones.

Both are there for one machine; on several machines each machine's processes are started by
torchrun, by SLURM, or by the script that is started there.
"""

from __future__ import annotations

import logging

from leyden.backends.environments import Environment
from leyden.backends.launchers.script import ScriptLauncher, why_no_script
from leyden.backends.launchers.spawn import ProcessLauncher

__all__ = ["Launcher", "ProcessLauncher", "ScriptLauncher", "launcher_for"]

log = logging.getLogger(__name__)

Launcher = ProcessLauncher | ScriptLauncher


def launcher_for(place: Environment, *, spawning: bool) -> Launcher:
    """Return what will start the processes.

    Args:
        place: how many there will be, on how many machines.
        spawning: start processes that get the objects of this one, not the script again.
    """
    if spawning:
        return ProcessLauncher(place.world_size)
    why = why_no_script()
    if why and place.num_nodes == 1:
        log.info("the script cannot be started again (%s): processes get its objects instead", why)
        return ProcessLauncher(place.world_size)
    return ScriptLauncher(place.per_node, place.num_nodes)

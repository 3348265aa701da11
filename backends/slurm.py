"""What SLURM tells a task: its rank, the first node, the job; and how a job is put back in line.

Source: the rules are those of Lightning 1.1, which derives them from a job's variables too.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from leyden.engine.errors import MisconfigurationException

__all__ = ["first_node", "job_id", "manages", "number", "port", "requeue", "root_node"]

log = logging.getLogger(__name__)

_INTERACTIVE = ("bash", "interactive")
_DEFAULT_PORT = 12910


def job_id(env: Mapping[str, str] | None = None) -> int | None:
    """The number of this process's job; None outside of one, and in a shell."""
    env = os.environ if env is None else env
    job = env.get("SLURM_JOB_ID", "")
    inside = env.get("SLURM_JOB_NAME") not in _INTERACTIVE
    return int(job) if job.isdigit() and inside else None


def manages(env: Mapping[str, str], per_node: int, num_nodes: int) -> bool:
    """Whether the tasks of a job are the processes that a run asks for.

    It has to be as many of both, they have to be started by ``srun``, and not in a shell.
    """
    tasks = env.get("SLURM_NTASKS", "")
    if not tasks.isdigit() or env.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return False
    wanted = per_node * num_nodes
    if wanted < 2 or int(tasks) != wanted:
        return False
    if not any(name in env for name in ("SLURM_STEP_ID", "SLURM_STEPID")):
        # The batch script itself: one process, whatever number of tasks the job may have.
        log.warning(
            "SLURM has %s tasks for this job, but this process is none of them: start the script "
            "with srun",
            tasks,
        )
        return False
    return True


def root_node(env: Mapping[str, str]) -> str:
    """The host that the tasks meet at: ``MASTER_ADDR``, else the first node of the job."""
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST")
    nodes = nodes or env.get("SLURM_JOB_NODELIST", "")
    return env.get("MASTER_ADDR") or first_node(nodes)


def first_node(nodes: str) -> str:
    """The first host of a node list as SLURM writes it.

    Example:
        >>> first_node("n[007-009,12],m3"), first_node("login"), first_node("a1-[2,4]b")
        ('n007', 'login', 'a1-2b')
    """
    # Commas inside of brackets are part of the first name.
    match = re.match(r"[^,\[]*(?:\[[^\]]*\][^,\[]*)*", nodes.strip())
    first = match.group() if match else ""
    return re.sub(r"\[([^\],\-]*)[^\]]*\]", r"\1", first) or "127.0.0.1"


def port(env: Mapping[str, str]) -> int:
    """``MASTER_PORT``, else one that follows from the job's number."""
    if env.get("MASTER_PORT"):
        return number(env, "MASTER_PORT")
    digits = env.get("SLURM_JOB_ID", "")[-4:]
    return int(digits) + 15000 if digits.isdigit() else _DEFAULT_PORT


_CURE = "start the tasks with srun, which sets it, or unset SLURM_NTASKS"


def number(env: Mapping[str, str], name: str, default: int | None = None, cure: str = _CURE) -> int:
    """Read a variable that has to be a number.

    Raises:
        MisconfigurationException: it is none, or not there.
    """
    text = env.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(str(text))
    except ValueError:
        raise MisconfigurationException(
            f"the environment has {name}={text!r}, which is no number: {cure}"
        ) from None


def requeue(job: int) -> bool:
    """Put a job back in line; whether that worked. What is wrong otherwise is logged."""
    command = shutil.which("scontrol")
    if command is None:
        log.error("job %s is not put back in line: there is no scontrol on the path", job)
        return False
    # Of a job array each task has a number of its own, which SLURM_JOB_ID holds.
    done = subprocess.run(
        [command, "requeue", str(job)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        log.error("scontrol requeue %s failed: %s", job, (done.stderr or done.stdout).strip())
        return False
    log.warning("job %s is put back in line: it goes on from its last checkpoint", job)
    return True

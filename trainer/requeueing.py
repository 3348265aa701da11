"""SLURM's SIGUSR1: keep the run, put the job back in line, go on when it is its turn again.

``#SBATCH --signal=SIGUSR1@90`` asks SLURM for the signal 90 seconds before the time is up. It sets
a flag; the processes agree on a batch after which they stop, the first one writes
``hpc_ckpt_<n>.ckpt`` and calls ``scontrol requeue``. A ``fit`` inside of a SLURM job goes on from
the one with the highest number, whatever ``resume_from_checkpoint`` says.

Source: Lightning 1.1, which saves inside of the signal's handler, in the middle of a step, and goes
on at the next epoch.
"""

import logging
import os
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

from leyden.backends import slurm
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.checkpoint_names import is_remote, join
from leyden.handlers.checkpoint_plain import plain

__all__ = ["SlurmRequeue", "add_hpc", "is_requeued", "left_by_job", "next_name", "slurm_requeue"]

log = logging.getLogger(__name__)

_NAME = re.compile(r"hpc_ckpt_(\d+)\.ckpt")


class SlurmRequeue(CallbackBase):
    """Saves the run and puts its job back in line after SIGUSR1.

    Runs on: the end that a signal brings.

    Args:
        job: the number of the SLURM job.
        asked: whether the signal was SIGUSR1.
        save: saves the run, on all processes; gives the path.
        first: whether this process is the one that talks to SLURM.
        requeue: puts a job back in line.
    """

    def __init__(
        self,
        job: int,
        *,
        asked: Callable[[], bool],
        save: Callable[[], str],
        first: Callable[[], bool],
        requeue: Callable[[int], bool] = slurm.requeue,
    ) -> None:
        super().__init__()
        self.job = job
        self.asked = asked
        self.save = save
        self.first = first
        self.requeue = requeue

    def on_keyboard_interrupt(self, trainer: Any, pl_module: Any) -> None:
        """A signal has ended the training; the step is done."""
        if not self.asked():
            return
        if threading.current_thread() is threading.main_thread():
            # SLURM ends a job that it puts back in line with it; this process ends by itself.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        path = self.save()
        if self.first():
            log.warning("job %s: the run is kept in %s", self.job, path)
            self.requeue(self.job)


def slurm_requeue(settings: Any, run: Any) -> SlurmRequeue | None:
    """The handler, where this is a SLURM job and something is trained for good."""
    job = slurm.job_id()
    number = getattr(signal, "SIGUSR1", None)
    if job is None or number is None or settings.fast_dev_run:
        return None

    def save() -> str:
        folder = str(run.trainer.weights_save_path)
        path = str(run.strategy.broadcast(join(folder, next_name(folder))))
        run.requeueing = True
        try:
            run.trainer.save_checkpoint(path)
        finally:
            run.requeueing = False
        return path

    return SlurmRequeue(
        job,
        asked=lambda: run.interruption.number == number,
        save=save,
        first=lambda: run.trainer.is_global_zero,
    )


def add_hpc(module: Any, checkpoint: dict[str, Any]) -> None:
    """Let the module add what only a job's next turn needs, by its hook ``on_hpc_save``."""
    known = set(checkpoint)
    module.on_hpc_save(checkpoint)
    for key in set(checkpoint) - known:
        checkpoint[key] = plain(checkpoint[key], name=key)


def left_by_job(folder: str) -> str | None:
    """The checkpoint with the highest number that a job left in a folder; None if there is none.

    It is looked for outside of SLURM jobs too, as in Lightning 1.1: ``hpc_save`` can be called by
    hand.
    """
    found = _numbers(folder)
    return join(folder, f"hpc_ckpt_{max(found)}.ckpt") if found else None


def next_name(folder: str) -> str:
    """The name of the next such checkpoint."""
    return f"hpc_ckpt_{max(_numbers(folder), default=0) + 1}.ckpt"


def is_requeued(path: object) -> bool:
    """Whether a checkpoint is one that a job left."""
    return _NAME.fullmatch(os.path.basename(str(path))) is not None


def _numbers(folder: str) -> list[int]:
    if is_remote(folder):
        from leyden.handlers.checkpoint_archive import filesystem_of

        filesystem, key = filesystem_of(folder)
        names = filesystem.ls(key, detail=False) if filesystem.exists(key) else []
    else:
        names = os.listdir(folder) if os.path.isdir(folder) else []
    return [int(match[1]) for name in names if (match := _NAME.fullmatch(os.path.basename(name)))]

"""Write the checkpoint of a run, and read one: as one file, or as a directory of many processes."""

import os
from functools import partial
from typing import Any

from leyden.handlers import checkpoint_folder, checkpoint_io, checkpoint_state
from leyden.requeueing import add_hpc

__all__ = ["own_part", "read_checkpoint", "whole_state", "write_checkpoint"]


def write_checkpoint(run: Any, path: str | os.PathLike[str], weights_only: bool) -> None:
    """Write a checkpoint of the run as it is now; every process of it calls this."""
    strategy, trainer = run.strategy, run.trainer
    with run.precision.whole():
        checkpoint = checkpoint_state.dump(trainer, weights_only, whole=not strategy.writes_folders)
        if run.requeueing:
            add_hpc(run.model, checkpoint)
        if strategy.writes_folders:
            folder = checkpoint_folder.prepare(checkpoint, partial(_collected, trainer))
            checkpoint_folder.write(folder, path)
        elif (together := _collected(trainer, checkpoint)) is not None:
            checkpoint_io.save(together, path)  # the first process writes, the others go on


def whole_state(run: Any) -> dict[str, Any] | None:
    """What a checkpoint of now would hold, of all processes, on the first one; None on others."""
    with run.precision.whole():
        return _collected(run.trainer, checkpoint_state.dump(run.trainer))


def own_part(run: Any, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """This process's part of what :func:`whole_state` gave."""
    return _own_part(run.strategy, checkpoint)


def read_checkpoint(run: Any, path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Read a checkpoint for a run that goes on; of a directory, each process reads its part."""
    strategy = run.strategy
    own = partial(_own_part, strategy)
    if not (strategy.writes_folders and checkpoint_folder.is_folder(path)):
        return checkpoint_io.load(path, adapt=own, map_location="cpu", **options)
    if strategy.global_rank == 0:
        checkpoint_folder.verify(path)  # once is enough: it reads every byte
    model = run.model.state_dict()
    into = checkpoint_folder.tensors_of(path, model, run.parts.optimizers)
    return checkpoint_io.load(
        path, into=into, check=False, adapt=own, map_location="cpu", **options
    )


# What belongs to several processes is imported where there are several.


def _collected(trainer: Any, checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    if trainer.strategy.world_size == 1:
        return checkpoint
    from leyden.handlers.rank_parts import collected

    return collected(trainer, checkpoint)


def _own_part(strategy: Any, checkpoint: dict[str, Any]) -> dict[str, Any]:
    if strategy.world_size == 1 and "ranks" not in checkpoint.get("leyden", {}):
        return checkpoint
    from leyden.handlers.rank_parts import own_part

    return own_part(strategy, checkpoint)

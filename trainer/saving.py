"""Write the checkpoint of a run, and read one: as one file, or as a directory of many processes."""

import os
from typing import Any

from leyden.handlers import checkpoint_folder, checkpoint_io, checkpoint_state

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(run: Any, path: str | os.PathLike[str], weights_only: bool) -> None:
    """Write a checkpoint of the run as it is now; every process of it calls this."""
    strategy = run.strategy
    folders = strategy.writes_folders
    with run.precision.whole():
        checkpoint = checkpoint_state.dump(run.trainer, weights_only, whole=not folders)
        if folders:
            checkpoint_folder.save(checkpoint, path, strategy)
            return
        if strategy.world_size > 1:
            from leyden.handlers.rank_parts import collected

            together = collected(run.trainer, checkpoint)
            if together is None:
                return  # the first process writes, this one goes on
            checkpoint = together
        checkpoint_io.save(checkpoint, path)


def read_checkpoint(run: Any, path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Read a checkpoint for a run that goes on; of a directory, each process reads its part."""
    strategy = run.strategy
    if not (strategy.writes_folders and checkpoint_folder.is_folder(path)):
        checkpoint = checkpoint_io.load(path, map_location="cpu", **options)
        if strategy.world_size > 1 or "ranks" in checkpoint.get("leyden", {}):
            from leyden.handlers.rank_parts import own_part

            checkpoint = own_part(strategy, checkpoint)
        return checkpoint
    if strategy.global_rank == 0:
        checkpoint_folder.verify(path)  # once is enough: it reads every byte
    model = run.model.state_dict()
    into = checkpoint_folder.tensors_of(path, model, run.parts.optimizers)
    return checkpoint_folder.load(path, into=into, check=False, map_location="cpu", **options)

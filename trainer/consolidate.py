"""Make one file of a checkpoint that is a directory."""

import os

from leyden.engine.errors import MisconfigurationException
from leyden.handlers import checkpoint_folder, checkpoint_io

__all__ = ["consolidate"]


def consolidate(folder: str | os.PathLike[str], file: str | os.PathLike[str]) -> None:
    """Write the checkpoint in ``folder`` as one file, which any number of processes reads.

    No process group is needed; the whole model and the optimizers' states have to fit into memory.

    Args:
        folder: the directory that a run with ``accelerator="fsdp"`` saved.
        file: where to; written whole or not at all.

    Raises:
        MisconfigurationException: ``folder`` is no such directory.
        DamagedCheckpoint: a file in it is missing, truncated or changed.
    """
    if not checkpoint_folder.is_folder(folder):
        raise MisconfigurationException(
            f"{os.fspath(folder)!r} is no checkpoint in a directory: pass one that a run with "
            "accelerator='fsdp' saved; a checkpoint that is a file needs no consolidating"
        )
    checkpoint_io.save(checkpoint_folder.load(folder, map_location="cpu"), file)

"""What an asynchronous save writes: one file of the first process, or each process its part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from leyden.handlers import checkpoint_archive
from leyden.handlers.checkpoint_state import dump, strategy_of

__all__ = ["to_write_later"]


def to_write_later(trainer: Any, weights_only: bool) -> tuple[Any, Callable[[Any, Any], None]]:
    """Return what this process has to write of a checkpoint, and what writes a copy of it.

    Every process calls this; None stands for nothing to write. Parts of a directory are written
    over a process group of their own: the training goes on talking over the others.
    """
    strategy = strategy_of(trainer)
    checkpoint = dump(trainer, weights_only, whole=not strategy.writes_folders)
    gather: Any = None
    if strategy.world_size > 1:
        from leyden.handlers.rank_parts import collected

        gather = partial(collected, trainer)
    if strategy.writes_folders:
        from leyden.handlers.checkpoint_folder import prepare, write

        group = strategy.writing_group()
        return prepare(checkpoint, gather), partial(write, group=group)
    if gather is not None:
        return gather(checkpoint), checkpoint_archive.save
    return checkpoint, checkpoint_archive.save

"""Several processes and one ModelCheckpoint: the first decides and writes, the others take part."""

from __future__ import annotations

from typing import Any

__all__ = ["announce", "follow", "talks"]


def talks(trainer: Any) -> Any:
    """Return the strategy of a run of several processes that can still talk; None otherwise."""
    strategy = getattr(trainer, "strategy", None)
    if strategy is None or strategy.world_size == 1 or strategy.broken:
        return None
    return strategy


def announce(trainer: Any, message: dict[str, Any] | None) -> None:
    """Tell the others what is going to be written; None: nothing (more)."""
    strategy = talks(trainer)
    if strategy is not None:
        strategy.broadcast(message)


def follow(saver: Any, trainer: Any) -> bool:
    """Do what the first process says, on the others.

    Only the first looks at files and scores, so no two of them can come to different conclusions,
    whatever a slow file system shows them. The others bring their part and go on at once: nobody
    waits for a file to be written.

    Returns:
        Whether this process is one of the others; False: it has to decide itself.
    """
    strategy = getattr(trainer, "strategy", None)
    if strategy is None or strategy.world_size == 1 or strategy.global_rank == 0:
        return False
    while not strategy.broken:
        told = strategy.broadcast(None)
        if told is None:
            break
        saver.__dict__.update(told["record"])
        if saver.asynchronous:
            saver._write_later(trainer, told["path"])
        else:
            trainer.save_checkpoint(told["path"], saver.save_weights_only)
        if told["last"]:
            break
    return True

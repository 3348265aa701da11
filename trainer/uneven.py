"""Different numbers of batches on the processes of a run; see ``DDPStrategy``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.engine.errors import MisconfigurationException
from leyden.engine.feed import Feed
from leyden.engine.uneven_feed import UnevenFeed
from leyden.handlers.uneven_batches import UnevenBatches
from leyden.loaders import INFINITE, batches_of

__all__ = ["evened", "feed_of"]


def feed_of(run: Any) -> tuple[Callable[..., Feed], int | None]:
    """What makes the feed of a run, and its limit; all processes get the longest of the lengths."""
    strategy, loaders = run.strategy, run.loaders
    own = loaders.num_training_batches
    limit = None if own in (INFINITE, batches_of(loaders.train)) else int(own)
    if not strategy.join_uneven_inputs or strategy.world_size == 1:
        return Feed, limit
    known = batches_of(loaders.train) != INFINITE
    counts = strategy.compare([own, float(known)])
    loaders.num_training_batches = max(count for count, _ in counts)
    sure = all(sure for _, sure in counts)

    def tell(has: bool) -> list[bool]:
        return [bool(there) for (there,) in strategy.compare([float(has)])]

    def make(loader: Any, **given: Any) -> Feed:
        numbers = [count if sure else INFINITE for count, _ in counts]
        return UnevenFeed(loader, rank=strategy.global_rank, counts=numbers, tell=tell, **given)

    return make, limit


def evened(run: Any) -> UnevenBatches:
    """The handler that keeps processes without a batch in step.

    Raises:
        MisconfigurationException: for arguments with which nobody knows what the others send.
    """
    settings = run.settings
    for holds, what in (
        (
            settings.sync_batchnorm,
            "sync_batchnorm=True: layers wait for the batches of all processes",
        ),
        (
            settings.truncated_bptt_steps is not None,
            f"truncated_bptt_steps={settings.truncated_bptt_steps}: into how many parts the others "
            "cut a batch is not known",
        ),
    ):
        if holds:
            raise MisconfigurationException(
                f"join_uneven_inputs=True does not go with {what}; leave one of them out"
            )
    return UnevenBatches(run.strategy, feed=lambda: run.feed, recorder=lambda: run.recorder)

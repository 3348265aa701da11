"""Tell samplers which epoch begins."""

from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, Events
from leyden.handlers.base import Handler

__all__ = ["SamplerEpoch"]


class SamplerEpoch(Handler):
    """Calls ``set_epoch`` of the training loader's sampler, 0-based, where it has one.

    Without it a ``DistributedSampler`` deals the same order in every epoch.

    Args:
        loader: gives the loader of the epoch.

    Runs on: EPOCH_STARTED, before the hooks and after the loader was made anew.

    Source: PyTorch Lightning 1.1.
    """

    order = 3.0
    order_reason = "after the loader was asked for anew (2), before the hooks (10)"

    def __init__(self, loader: Callable[[], Any]) -> None:
        super().__init__()
        self.loader = loader

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.EPOCH_STARTED, self.set_epoch)

    def set_epoch(self, engine: Engine) -> None:
        """Say the number of the epoch that begins."""
        loader = self.loader()
        parts = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
        for part in parts:
            tell = getattr(part, "set_epoch", None)
            if callable(tell):
                tell(engine.state.epoch - 1)
                return

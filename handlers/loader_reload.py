"""Ask for the training data anew, every so many epochs."""

from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, Events
from leyden.handlers.base import Handler

__all__ = ["LoaderReload"]


class LoaderReload(Handler):
    """Calls ``reload`` before an epoch's hooks run, in every n-th epoch but the first of a run.

    Args:
        reload: asks for the loader and gives it to the engine.
        every_n_epochs: 1 for each epoch.

    Runs on: EPOCH_STARTED, before the hooks.

    Source: ``reload_dataloaders_every_epoch`` of PyTorch Lightning 1.1; every n epochs, of 1.4.
    """

    order = 2.0
    order_reason = "before the hooks: they see the epoch's own loader"

    def __init__(self, reload: Callable[[], Any], *, every_n_epochs: int = 1) -> None:
        super().__init__()
        self.reload = reload
        self.every_n_epochs = every_n_epochs
        self._begun = False

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.STARTED, self.begin)
        self.listen(engine, Events.EPOCH_STARTED, self.reload_if_due)

    def begin(self, engine: Engine) -> None:
        """The loader of a run's first epoch is fresh already."""
        self._begun = False

    def reload_if_due(self, engine: Engine) -> None:
        """Reload before an epoch that is due."""
        state: Any = engine.state
        if self._begun and (state.epoch - 1) % self.every_n_epochs == 0:
            self.reload()
        self._begun = True

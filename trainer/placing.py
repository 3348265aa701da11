"""Bring the module of a run to its device, in the shape in which it is trained."""

from typing import Any

from leyden.module import LightningModule
from leyden.overrides import overrides

__all__ = ["place"]

#: Where a module makes or shards its layers itself; the first is Lightning 1.1's name.
HOOKS = ("configure_sharded_model", "configure_model")


def place(run: Any) -> None:
    """Let the module shape itself, then bring it to the device; optimizers are made afterwards."""
    for hook in HOOKS:
        if overrides(run.model, hook, LightningModule):
            run.recorder.hook = hook
            getattr(run.model, hook)()
    run.recorder.hook = None
    run.strategy.place(run.model)

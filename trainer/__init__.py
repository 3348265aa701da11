"""leyden: the Lightning 1.1 Trainer, rebuilt on an event engine.

What is here is imported when it is first asked for: what needs no torch does not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden import callbacks, loggers, profiler
    from leyden.callback import Callback
    from leyden.consolidate import consolidate
    from leyden.datamodule import LightningDataModule
    from leyden.module import LightningModule
    from leyden.plotting import plot
    from leyden.replaying import replay
    from leyden.seed import seed_everything
    from leyden.trainer import Trainer

__version__ = "0.1.0.dev0"

__all__ = [
    "Callback",
    "LightningDataModule",
    "LightningModule",
    "Trainer",
    "__version__",
    "callbacks",
    "consolidate",
    "loggers",
    "plot",
    "profiler",
    "replay",
    "seed_everything",
]

_FOUND_IN = {
    "Callback": "callback",
    "LightningDataModule": "datamodule",
    "LightningModule": "module",
    "Trainer": "trainer",
    "consolidate": "consolidate",
    "plot": "plotting",
    "replay": "replaying",
    "seed_everything": "seed",
}
_MODULES = ("backends", "callbacks", "engine", "handlers", "loggers", "profiler")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"leyden.{name}")
    if name not in _FOUND_IN:
        raise AttributeError(f"module 'leyden' has no attribute {name!r}")
    value = getattr(import_module(f"leyden.{_FOUND_IN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""leyden: the Lightning 1.1 Trainer, rebuilt on an event engine."""

from leyden import callbacks, loggers, profiler
from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.module import LightningModule
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
    "loggers",
    "profiler",
    "seed_everything",
]

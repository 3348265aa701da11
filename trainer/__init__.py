"""leyden: the Lightning 1.1 Trainer, rebuilt on an event engine."""

__version__ = "0.1.0.dev0"

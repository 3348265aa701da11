"""Checkpoint files: everything that is done with them, in one import."""

from leyden.handlers.checkpoint_archive import (
    CheckpointError,
    DamagedCheckpoint,
    UnsafeCheckpoint,
    save,
)
from leyden.handlers.checkpoint_async import AsyncWriter
from leyden.handlers.checkpoint_folder import load, verify
from leyden.handlers.checkpoint_inspect import inspect
from leyden.handlers.checkpoint_ownership import Origin, is_own, origin_of
from leyden.handlers.checkpoint_plain import plain

__all__ = [
    "AsyncWriter",
    "CheckpointError",
    "DamagedCheckpoint",
    "Origin",
    "UnsafeCheckpoint",
    "inspect",
    "is_own",
    "load",
    "origin_of",
    "plain",
    "save",
    "verify",
]

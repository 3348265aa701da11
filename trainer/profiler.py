"""Profilers, under the name Lightning users know: ``leyden.profiler``."""

from leyden.handlers.profilers import (
    AdvancedProfiler,
    BaseProfiler,
    PassThroughProfiler,
    SimpleProfiler,
)
from leyden.handlers.pytorch_profiler import PyTorchProfiler

__all__ = [
    "AdvancedProfiler",
    "BaseProfiler",
    "PassThroughProfiler",
    "PyTorchProfiler",
    "SimpleProfiler",
]

"""Profilers, under the name Lightning users know: ``leyden.profiler``."""

from leyden.handlers.profilers import (
    AdvancedProfiler,
    BaseProfiler,
    PassThroughProfiler,
    SimpleProfiler,
)
from leyden.handlers.pytorch_profiler import PyTorchProfiler
from leyden.handlers.trace import Trace

__all__ = [
    "AdvancedProfiler",
    "BaseProfiler",
    "PassThroughProfiler",
    "PyTorchProfiler",
    "SimpleProfiler",
    "Trace",
]

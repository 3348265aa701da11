"""Which devices and processes a run works on: one small interface, and what implements it."""

from leyden.backends.strategies.base import Strategy
from leyden.backends.strategies.choice import strategy_for
from leyden.backends.strategies.data_parallel import DataParallelStrategy, DDP2Strategy
from leyden.backends.strategies.ddp import DDPStrategy
from leyden.backends.strategies.fsdp import FSDPStrategy
from leyden.backends.strategies.processes import ProcessStrategy
from leyden.backends.strategies.xla import (
    XLAFullyShardedStrategy,
    XLASpmdStrategy,
    XLAStrategy,
)
from leyden.backends.strategies.xla_processes import XLAProcessStrategy

__all__ = [
    "DDP2Strategy",
    "DDPStrategy",
    "DataParallelStrategy",
    "FSDPStrategy",
    "ProcessStrategy",
    "Strategy",
    "XLAFullyShardedStrategy",
    "XLAProcessStrategy",
    "XLASpmdStrategy",
    "XLAStrategy",
    "strategy_for",
]

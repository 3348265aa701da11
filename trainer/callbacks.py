"""The callbacks that ship with leyden, under the names Lightning users know."""

from leyden.callback import Callback
from leyden.handlers.accumulation_scheduler import GradientAccumulationScheduler
from leyden.handlers.device_stats import DeviceStatsMonitor, GPUStatsMonitor
from leyden.handlers.early_stopping import EarlyStopping
from leyden.handlers.interruption import Interruption
from leyden.handlers.lr_monitor import LearningRateMonitor
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.handlers.progress import ProgressBar, ProgressBarBase
from leyden.handlers.rich_progress import RichProgressBar
from leyden.handlers.throughput import ThroughputMonitor
from leyden.handlers.timer import Timer
from leyden.handlers.weight_averaging import (
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
)
from leyden.lambda_callback import LambdaCallback

__all__ = [
    "Callback",
    "DeviceStatsMonitor",
    "EMAWeightAveraging",
    "EarlyStopping",
    "GPUStatsMonitor",
    "GradientAccumulationScheduler",
    "Interruption",
    "LambdaCallback",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ProgressBar",
    "ProgressBarBase",
    "RichProgressBar",
    "StochasticWeightAveraging",
    "ThroughputMonitor",
    "Timer",
    "WeightAveraging",
]

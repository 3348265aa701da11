"""Every feature of a run, one a file; each name is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.handlers.accumulation import GradientAccumulation
    from leyden.handlers.accumulation_scheduler import GradientAccumulationScheduler
    from leyden.handlers.agreement import Agreement
    from leyden.handlers.base import Handler, Order
    from leyden.handlers.batch_size_scaler import BatchSizeScaler
    from leyden.handlers.callback_base import CallbackBase
    from leyden.handlers.device_stats import DeviceStatsMonitor, GPUStatsMonitor
    from leyden.handlers.early_stopping import EarlyStopping
    from leyden.handlers.evaluation import Outputs
    from leyden.handlers.filler_batches import FillerBatches
    from leyden.handlers.gradient_averaging import GradientAveraging
    from leyden.handlers.gradient_clipping import GradientClipping
    from leyden.handlers.gradient_norm import GradientNorm
    from leyden.handlers.interruption import Interruption
    from leyden.handlers.journal import Journal
    from leyden.handlers.loader_reload import LoaderReload
    from leyden.handlers.logger_flush import LoggerFlush
    from leyden.handlers.logger_lifecycle import LoggerLifecycle
    from leyden.handlers.lr_curve import LRCurve
    from leyden.handlers.lr_finder import LRFinder
    from leyden.handlers.lr_monitor import LearningRateMonitor
    from leyden.handlers.metrics import MetricRecorder
    from leyden.handlers.model_checkpoint import ModelCheckpoint
    from leyden.handlers.nan_termination import NanTermination
    from leyden.handlers.optimizer_step import OptimizerStep
    from leyden.handlers.position import Position
    from leyden.handlers.precision import PrecisionHandler
    from leyden.handlers.profiling import Profiling
    from leyden.handlers.progress import ProgressBar
    from leyden.handlers.progress_base import ProgressBarBase
    from leyden.handlers.rich_progress import RichProgressBar
    from leyden.handlers.running_loss import RunningLoss
    from leyden.handlers.sampler_epoch import SamplerEpoch
    from leyden.handlers.schedulers import LRSchedulers
    from leyden.handlers.step_mark import StepMark
    from leyden.handlers.stopping import Stopping
    from leyden.handlers.summary_printer import SummaryPrinter
    from leyden.handlers.throughput import ThroughputMonitor
    from leyden.handlers.timer import Timer
    from leyden.handlers.torch_flags import TorchFlags
    from leyden.handlers.uneven_batches import UnevenBatches
    from leyden.handlers.validation import Validation
    from leyden.handlers.weight_averaging import (
        EMAWeightAveraging,
        StochasticWeightAveraging,
        WeightAveraging,
    )

__all__ = [
    "Agreement",
    "BatchSizeScaler",
    "CallbackBase",
    "DeviceStatsMonitor",
    "EMAWeightAveraging",
    "EarlyStopping",
    "FillerBatches",
    "GPUStatsMonitor",
    "GradientAccumulation",
    "GradientAccumulationScheduler",
    "GradientAveraging",
    "GradientClipping",
    "GradientNorm",
    "Handler",
    "Interruption",
    "Journal",
    "LRCurve",
    "LRFinder",
    "LRSchedulers",
    "LearningRateMonitor",
    "LoaderReload",
    "LoggerFlush",
    "LoggerLifecycle",
    "MetricRecorder",
    "ModelCheckpoint",
    "NanTermination",
    "OptimizerStep",
    "Order",
    "Outputs",
    "Position",
    "PrecisionHandler",
    "Profiling",
    "ProgressBar",
    "ProgressBarBase",
    "RichProgressBar",
    "RunningLoss",
    "SamplerEpoch",
    "StochasticWeightAveraging",
    "StepMark",
    "Stopping",
    "SummaryPrinter",
    "ThroughputMonitor",
    "Timer",
    "TorchFlags",
    "UnevenBatches",
    "Validation",
    "WeightAveraging",
]

#: The file of each name; nothing is imported before it is used, optional packages above all.
_FILES = {
    "GradientAccumulation": "accumulation",
    "GradientAccumulationScheduler": "accumulation_scheduler",
    "Handler": "base",
    "Order": "base",
    "Agreement": "agreement",
    "BatchSizeScaler": "batch_size_scaler",
    "CallbackBase": "callback_base",
    "DeviceStatsMonitor": "device_stats",
    "GPUStatsMonitor": "device_stats",
    "EarlyStopping": "early_stopping",
    "FillerBatches": "filler_batches",
    "Outputs": "evaluation",
    "GradientAveraging": "gradient_averaging",
    "GradientClipping": "gradient_clipping",
    "GradientNorm": "gradient_norm",
    "Interruption": "interruption",
    "Journal": "journal",
    "LoaderReload": "loader_reload",
    "LoggerFlush": "logger_flush",
    "LoggerLifecycle": "logger_lifecycle",
    "LRCurve": "lr_curve",
    "LRFinder": "lr_finder",
    "LearningRateMonitor": "lr_monitor",
    "MetricRecorder": "metrics",
    "ModelCheckpoint": "model_checkpoint",
    "NanTermination": "nan_termination",
    "OptimizerStep": "optimizer_step",
    "Position": "position",
    "PrecisionHandler": "precision",
    "Profiling": "profiling",
    "ProgressBar": "progress",
    "ProgressBarBase": "progress_base",
    "RichProgressBar": "rich_progress",
    "RunningLoss": "running_loss",
    "SamplerEpoch": "sampler_epoch",
    "LRSchedulers": "schedulers",
    "StepMark": "step_mark",
    "Stopping": "stopping",
    "SummaryPrinter": "summary_printer",
    "ThroughputMonitor": "throughput",
    "Timer": "timer",
    "TorchFlags": "torch_flags",
    "UnevenBatches": "uneven_batches",
    "Validation": "validation",
    "EMAWeightAveraging": "weight_averaging",
    "StochasticWeightAveraging": "weight_averaging",
    "WeightAveraging": "weight_averaging",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

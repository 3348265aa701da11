"""Where Lightning put names between 1.2 and 1.9, for code of those years."""

__all__ = ["LATER"]


def _from(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


_CALLBACKS = "leyden.callbacks"
_RANKS = _from(
    "leyden.legacy", "rank_zero_deprecation", "rank_zero_info", "rank_zero_only", "rank_zero_warn"
)
_TQDM = {"TQDMProgressBar": f"{_CALLBACKS}:ProgressBar"}
_RICH = _from(_CALLBACKS, "RichProgressBar")
_PROFILERS = _from(
    "leyden.profiler",
    "AdvancedProfiler",
    "PassThroughProfiler",
    "PyTorchProfiler",
    "SimpleProfiler",
)
_BASE_PROFILER = {"Profiler": "leyden.profiler:BaseProfiler"}
_CLI = {"LightningCLI": "leyden.cli:LeydenCLI"}

#: module below ``pytorch_lightning`` -> {name: "module:attribute"}, beside what 1.1 had there.
LATER: dict[str, dict[str, str]] = {
    "callbacks": {**_TQDM, **_RICH},
    "callbacks.callback": _from(_CALLBACKS, "Callback"),
    "callbacks.device_stats_monitor": _from(_CALLBACKS, "DeviceStatsMonitor"),
    "callbacks.progress": {**_TQDM, **_RICH},
    "callbacks.progress.base": _from(_CALLBACKS, "ProgressBarBase"),
    "callbacks.progress.rich_progress": _RICH,
    "callbacks.progress.tqdm_progress": _TQDM,
    "callbacks.stochastic_weight_avg": _from(_CALLBACKS, "StochasticWeightAveraging"),
    "callbacks.timer": _from(_CALLBACKS, "Timer"),
    "cli": _CLI,
    "core.mixins": {"HyperparametersMixin": "leyden.hparams:HyperParameters"},
    "core.module": {"LightningModule": "leyden.module:LightningModule"},
    "loggers": {"Logger": "leyden.loggers:LightningLoggerBase"},
    "loggers.logger": {
        "Logger": "leyden.loggers:LightningLoggerBase",
        **_from("leyden.loggers", "DummyLogger", "rank_zero_experiment"),
    },
    "profiler": _BASE_PROFILER,
    "profiler.advanced": _from("leyden.profiler", "AdvancedProfiler"),
    "profiler.base": {**_BASE_PROFILER, **_from("leyden.profiler", "BaseProfiler")},
    "profiler.pytorch": _from("leyden.profiler", "PyTorchProfiler"),
    "profiler.simple": _from("leyden.profiler", "SimpleProfiler"),
    "profilers": {**_PROFILERS, **_BASE_PROFILER},
    "utilities.cli": _CLI,
    "utilities.model_helpers": _from("leyden.legacy", "is_overridden"),
    "utilities.model_summary": _from("leyden.handlers.summary", "LayerSummary", "ModelSummary"),
    "utilities.rank_zero": {
        **_RANKS,
        **_from("leyden.legacy_distributed", "rank_zero_debug"),
    },
    "utilities.types": _from(
        "leyden.legacy_types",
        "EPOCH_OUTPUT",
        "EVAL_DATALOADERS",
        "LRSchedulerType",
        "LRSchedulerTypeTuple",
        "LRSchedulerTypeUnion",
        "OptimizerLRScheduler",
        "STEP_OUTPUT",
        "TRAIN_DATALOADERS",
        "_METRIC",
        "_PATH",
    ),
}

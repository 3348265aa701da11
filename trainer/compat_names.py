"""Where each public name of pytorch_lightning 1.1 is found here; ``compat_gone`` has the others."""

from leyden.compat_later import LATER

__all__ = ["MODULES", "REPLACEABLE"]

_CALLBACKS = "leyden.callbacks"
_LOGGERS = "leyden.loggers"
_LEGACY = "leyden.legacy"
_DISTRIBUTED = "leyden.legacy_distributed"
_FILES = "leyden.legacy_files"
_FLAGS = "leyden.legacy_flags"
_PARTS = "leyden.legacy_parts"
_PROFILERS = "leyden.profiler"
_ERRORS = "leyden.engine.errors"
_METRICS = "leyden.legacy_metrics"
_SCORES = "leyden.legacy_scores"


#: names under which a logger looks up its package: what code puts there (a mock, as a rule) is
#: what the logger uses.
REPLACEABLE = {
    "MlflowClient": "leyden.handlers.loggers.mlflow:MlflowClient",
    "SummaryWriter": "leyden.handlers.loggers.tensorboard:SummaryWriter",
    "mlflow": "leyden.handlers.loggers.mlflow:mlflow",
    "wandb": "leyden.handlers.loggers.wandb:wandb",
}


def _replaceable(*names: str) -> dict[str, str]:
    return {name: REPLACEABLE[name] for name in names}


def _from(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


_RANKS = _from(
    _LEGACY, "rank_zero_only", "rank_zero_warn", "rank_zero_info", "rank_zero_deprecation"
)
_ENUMS = _from(_LEGACY, "AMPType", "DeviceType", "DistributedType", "LightningEnum")
_PARSING = {
    **_from(
        _LEGACY,
        "clean_namespace",
        "collect_init_args",
        "flatten_dict",
        "get_init_args",
        "is_picklable",
        "lightning_getattr",
        "lightning_hasattr",
        "lightning_setattr",
        "str_to_bool",
        "str_to_bool_or_str",
    ),
    **_from(
        _PARTS,
        "lightning_get_all_attr_holders",
        "lightning_get_first_attr_holder",
        "parse_class_init_keys",
    ),
    "AttributeDict": "leyden.hparams:AttributeDict",
}
_APPLY = _from(_LEGACY, "apply_to_collection", "move_data_to_device")
_AVAILABLE = _from(
    _FLAGS,
    "APEX_AVAILABLE",
    "BOLTS_AVAILABLE",
    "FAIRSCALE_AVAILABLE",
    "FAIRSCALE_PIPE_AVAILABLE",
    "FLOAT16_EPSILON",
    "FLOAT32_EPSILON",
    "FLOAT64_EPSILON",
    "GROUP_AVAILABLE",
    "HOROVOD_AVAILABLE",
    "HYDRA_AVAILABLE",
    "HYDRA_EXPERIMENTAL_AVAILABLE",
    "NATIVE_AMP_AVAILABLE",
    "OMEGACONF_AVAILABLE",
    "RPC_AVAILABLE",
    "TPU_AVAILABLE",
    "XLADeviceUtils",
    "XLA_AVAILABLE",
)
_LOGGER_BASE = {
    **_from(_LOGGERS, "LightningLoggerBase", "LoggerCollection", "DummyLogger"),
    **_from(
        "leyden.handlers.loggers",
        "DummyExperiment",
        "merge_dicts",
        "rank_zero_experiment",
        "rank_zero_only",
    ),
}
_SAVING = {
    **_from(
        _FILES,
        "ALLOWED_CONFIG_TYPES",
        "CHECKPOINT_PAST_HPARAMS_KEYS",
        "PRIMITIVE_TYPES",
        "convert",
        "load_hparams_from_tags_csv",
        "load_hparams_from_yaml",
        "save_hparams_to_tags_csv",
        "update_hparams",
    ),
    "save_hparams_to_yaml": "leyden.handlers.loggers.hparams:save_hparams_to_yaml",
}
_ALL_PROFILERS = _from(
    _PROFILERS, "BaseProfiler", "PassThroughProfiler", "SimpleProfiler", "AdvancedProfiler"
)
_TRAINER = {"Trainer": "leyden.trainer:Trainer", "seed_everything": "leyden.seed:seed_everything"}
_MODULE = {"LightningModule": "leyden.module:LightningModule"}
_DATAMODULE = {"LightningDataModule": "leyden.datamodule:LightningDataModule"}
_MISCONFIGURED = {"MisconfigurationException": f"{_ERRORS}:MisconfigurationException"}
_AVAILABLE_MODULE = {"_module_available": f"{_LEGACY}:module_available"}
_CLASSIFIERS = {
    "accuracy": ("Accuracy",),
    "average_precision": ("AveragePrecision",),
    "confusion_matrix": ("ConfusionMatrix",),
    "f_beta": ("FBeta", "Fbeta", "F1"),
    "precision_recall": ("Precision", "Recall"),
    "precision_recall_curve": ("PrecisionRecallCurve",),
    "roc": ("ROC",),
}
_REGRESSIONS = {
    "explained_variance": ("ExplainedVariance",),
    "mean_absolute_error": ("MeanAbsoluteError",),
    "mean_squared_error": ("MeanSquaredError",),
    "mean_squared_log_error": ("MeanSquaredLogError",),
    "psnr": ("PSNR",),
    "ssim": ("SSIM",),
}
_ALL_CLASSIFIERS = _from(_METRICS, *(name for names in _CLASSIFIERS.values() for name in names))
_ALL_REGRESSIONS = _from(_METRICS, *(name for names in _REGRESSIONS.values() for name in names))
#: those that torchmetrics has with the same arguments.
_SAME = (
    "explained_variance",
    "mean_absolute_error",
    "mean_squared_error",
    "mean_squared_log_error",
)
_BINARY = ("auroc", "average_precision", "precision_recall_curve", "roc")
_FUNCTIONS = {
    **_from(
        _SCORES,
        "accuracy",
        "auc",
        "confusion_matrix",
        "f1",
        "fbeta",
        "get_num_classes",
        "precision",
        "precision_recall",
        "recall",
        "to_categorical",
        "to_onehot",
    ),
    **_from(_METRICS, *_BINARY, "psnr", "ssim"),
    **_from("torchmetrics.functional", *_SAME),
}

#: module below ``pytorch_lightning`` ("" is the package itself) -> {name: "module:attribute"}.
MODULES: dict[str, dict[str, str]] = {
    "": {**_TRAINER, **_MODULE, **_DATAMODULE, "Callback": "leyden.callback:Callback"},
    "accelerators": {},
    "callbacks": _from(
        _CALLBACKS,
        "Callback",
        "DeviceStatsMonitor",
        "EarlyStopping",
        "GPUStatsMonitor",
        "GradientAccumulationScheduler",
        "LambdaCallback",
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ProgressBar",
        "ProgressBarBase",
        "StochasticWeightAveraging",
        "Timer",
    ),
    "callbacks.base": _from(_CALLBACKS, "Callback"),
    "callbacks.early_stopping": _from(_CALLBACKS, "EarlyStopping"),
    "callbacks.gpu_stats_monitor": _from(_CALLBACKS, "GPUStatsMonitor"),
    "callbacks.gradient_accumulation_scheduler": _from(_CALLBACKS, "GradientAccumulationScheduler"),
    "callbacks.lambda_function": _from(_CALLBACKS, "LambdaCallback"),
    "callbacks.lr_monitor": _from(_CALLBACKS, "LearningRateMonitor"),
    "callbacks.model_checkpoint": _from(_CALLBACKS, "ModelCheckpoint"),
    "callbacks.progress": {
        **_from(_CALLBACKS, "ProgressBar", "ProgressBarBase"),
        **_from(_PARTS, "convert_inf", "reset"),
        "tqdm": "tqdm.auto:tqdm",
    },
    "cluster_environments": {},
    "core": {**_MODULE, **_DATAMODULE},
    "core.datamodule": _DATAMODULE,
    "core.decorators": _from(_LEGACY, "auto_move_data"),
    "core.grads": {},
    "core.hooks": {
        "ModelHooks": "leyden.module_hooks:ModuleHooks",
        "DataHooks": "leyden.module_hooks:DataHooks",
        "CheckpointHooks": "leyden.module_hooks:DataHooks",
    },
    "core.lightning": _MODULE,
    "core.memory": {
        "ModelSummary": "leyden.handlers.summary:ModelSummary",
        "LayerSummary": "leyden.handlers.summary:LayerSummary",
        "UNKNOWN_SIZE": "leyden.handlers.summary:UNKNOWN_SIZE",
        "PARAMETER_NUM_UNITS": f"{_PARTS}:PARAMETER_NUM_UNITS",
        "get_human_readable_count": f"{_PARTS}:get_human_readable_count",
        **_from(_FILES, "get_gpu_memory_map", "get_memory_profile", "parse_batch_shape"),
    },
    "core.optimizer": {
        "LightningOptimizer": "leyden.engine.optimizer_proxy:OptimizerProxy",
        **_from(_PARTS, "do_nothing_closure", "is_lightning_optimizer"),
    },
    "core.saving": _SAVING,
    "core.step_result": {},
    "distributed": {},
    "loggers": {
        **_from(
            _LOGGERS,
            "CSVLogger",
            "LightningLoggerBase",
            "LoggerCollection",
            "MLFlowLogger",
            "TensorBoardLogger",
            "WandbLogger",
        ),
        **_from(
            _FLAGS,
            "_COMET_AVAILABLE",
            "_MLFLOW_AVAILABLE",
            "_NEPTUNE_AVAILABLE",
            "_TESTTUBE_AVAILABLE",
            "_WANDB_AVAILABLE",
        ),
    },
    "loggers.base": _LOGGER_BASE,
    "loggers.comet": _from(_FLAGS, "_COMET_AVAILABLE"),
    "loggers.csv_logs": {
        **_from(_LOGGERS, "CSVLogger"),
        "ExperimentWriter": "leyden.handlers.loggers.csv:ExperimentWriter",
    },
    "loggers.mlflow": {
        **_from(_LOGGERS, "MLFlowLogger"),
        **_from(_FLAGS, "LOCAL_FILE_URI_PREFIX", "_MLFLOW_AVAILABLE"),
        **_replaceable("MlflowClient", "mlflow"),
    },
    "loggers.neptune": _from(_FLAGS, "_NEPTUNE_AVAILABLE"),
    "loggers.tensorboard": {
        **_from(_LOGGERS, "TensorBoardLogger"),
        **_replaceable("SummaryWriter"),
    },
    "loggers.test_tube": _from(_FLAGS, "_TESTTUBE_AVAILABLE"),
    "loggers.wandb": {
        **_from(_LOGGERS, "WandbLogger"),
        **_from(_FLAGS, "_WANDB_AVAILABLE"),
        **_replaceable("wandb"),
    },
    "metrics": {
        **_ALL_CLASSIFIERS,
        **_ALL_REGRESSIONS,
        **_from(_METRICS, "Metric"),
    },
    "metrics.classification": _ALL_CLASSIFIERS,
    **{
        f"metrics.classification.{module}": _from(_METRICS, *names)
        for module, names in _CLASSIFIERS.items()
    },
    "metrics.functional": _FUNCTIONS,
    "metrics.functional.classification": _FUNCTIONS,
    "metrics.functional.confusion_matrix": _from(_SCORES, "confusion_matrix"),
    "metrics.functional.f_beta": _from(_SCORES, "f1", "fbeta"),
    **{f"metrics.functional.{name}": {name: _FUNCTIONS[name]} for name in (*_SAME, *_BINARY[1:])},
    "metrics.functional.psnr": _from(_METRICS, "psnr"),
    "metrics.functional.ssim": _from(_METRICS, "ssim"),
    "metrics.metric": _from(_METRICS, "Metric"),
    "metrics.regression": _ALL_REGRESSIONS,
    **{
        f"metrics.regression.{module}": _from(_METRICS, *names)
        for module, names in _REGRESSIONS.items()
    },
    "metrics.utils": {
        **_from(_SCORES, "METRIC_EPS", "get_num_classes", "to_categorical", "to_onehot"),
        **_from("torchmetrics.utilities", "class_reduce", "reduce"),
        **_from("torchmetrics.utilities", "dim_zero_cat", "dim_zero_mean", "dim_zero_sum"),
        **_from("torchmetrics.utilities.data", "select_topk"),
    },
    "overrides": {},
    "overrides.data_parallel": {},
    "plugins": {},
    "profiler": {**_ALL_PROFILERS, **_from(_PROFILERS, "PyTorchProfiler")},
    "profiler.profilers": _ALL_PROFILERS,
    "trainer": _TRAINER,
    "trainer.logging": _from(_PARTS, "TrainerLoggingMixin"),
    "trainer.states": _from("leyden.states", "TrainerState", "trainer_state"),
    "trainer.supporters": {
        "Accumulator": f"{_PARTS}:Accumulator",
        "TensorRunningAccum": "leyden.accumulators:TensorRunningAccum",
    },
    "trainer.trainer": {"Trainer": "leyden.trainer:Trainer"},
    "trainer.training_tricks": _from(_FLAGS, "EPSILON", "EPSILON_FP16"),
    "tuner": {},
    "tuner.auto_gpu_select": {},
    "tuner.batch_size_scaling": _from(_PARTS, "scale_batch_size"),
    "tuner.lr_finder": {
        **_from(_PARTS, "lr_find"),
        "_LRFinder": "leyden.handlers.lr_curve:LRCurve",
    },
    "tuner.tuning": {"Tuner": "leyden.tuner:Tuner"},
    "utilities": {
        **_RANKS,
        **_ENUMS,
        **_APPLY,
        **_AVAILABLE,
        **_from(_DISTRIBUTED, "AllGatherGrad"),
        **_from(_LEGACY, "flatten_dict", "is_picklable"),
        **_MISCONFIGURED,
        **_AVAILABLE_MODULE,
        "AttributeDict": "leyden.hparams:AttributeDict",
    },
    "utilities.apply_func": {
        **_APPLY,
        **_from(_PARTS, "TransferableDataType"),
        **_from(_FLAGS, "TORCHTEXT_AVAILABLE"),
    },
    "utilities.debugging": _from("leyden.dev_debugger", "InternalDebugger"),
    "utilities.argparse_utils": {
        **_from(
            "leyden.arguments",
            "add_argparse_args",
            "from_argparse_args",
            "get_init_arguments_and_types",
            "parse_argparser",
            "parse_env_variables",
        ),
        "parse_args_from_docstring": f"{_PARTS}:parse_args_from_docstring",
    },
    "utilities.cloud_io": {
        "load": "leyden.handlers.checkpoint_io:load",
        "atomic_save": "leyden.handlers.checkpoint_io:save",
        "get_filesystem": f"{_LEGACY}:get_filesystem",
    },
    "utilities.data": _from(_LEGACY, "has_iterable_dataset", "has_len"),
    "utilities.device_dtype_mixin": _from(_FILES, "DeviceDtypeModuleMixin"),
    "utilities.device_parser": _from(
        _FILES, "determine_root_gpu_device", "parse_gpu_ids", "parse_tpu_cores"
    ),
    "utilities.distributed": {
        **_RANKS,
        **_from(
            _DISTRIBUTED,
            "AllGatherGrad",
            "ReduceOp",
            "all_gather_ddp_if_available",
            "find_free_network_port",
            "gather_all_tensors",
            "group",
            "rank_zero_debug",
            "sync_ddp",
            "sync_ddp_if_available",
        ),
    },
    "utilities.enums": _ENUMS,
    "utilities.exceptions": _MISCONFIGURED,
    "utilities.imports": _AVAILABLE_MODULE,
    "utilities.memory": _from(
        _LEGACY,
        "garbage_collection_cuda",
        "is_cuda_out_of_memory",
        "is_cudnn_snafu",
        "is_oom_error",
        "is_out_of_cpu_memory",
        "recursive_detach",
    ),
    "utilities.model_utils": _from(_LEGACY, "is_overridden"),
    "utilities.package_utils": _AVAILABLE_MODULE,
    "utilities.parsing": _PARSING,
    "utilities.seed": _from("leyden.seed", "seed_everything"),
    "utilities.warning_utils": _from(_LEGACY, "WarningCache"),
    "utilities.xla_device_utils": _from(_FLAGS, "XLADeviceUtils", "XLA_AVAILABLE"),
}

for _module, _names in LATER.items():
    MODULES[_module] = {**_names, **MODULES.get(_module, {})}

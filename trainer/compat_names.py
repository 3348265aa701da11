"""Where each public name of pytorch_lightning 1.1 is found here, and what replaced the others."""

__all__ = ["GONE", "MODULES"]

_CALLBACKS = "leyden.callbacks"
_LOGGERS = "leyden.loggers"
_LEGACY = "leyden.legacy"
_PROFILERS = "leyden.profiler"
_ERRORS = "leyden.engine.errors"


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
    "AttributeDict": "leyden.hparams:AttributeDict",
}
_APPLY = _from(_LEGACY, "apply_to_collection", "move_data_to_device")
_PROGRESS = _from(_CALLBACKS, "ProgressBar", "ProgressBarBase")
_LOGGER_BASE = {
    **_from(_LOGGERS, "LightningLoggerBase", "LoggerCollection", "DummyLogger"),
    "rank_zero_experiment": "leyden.handlers.loggers:rank_zero_experiment",
    "DummyExperiment": "leyden.handlers.loggers:DummyExperiment",
    "merge_dicts": "leyden.handlers.loggers:merge_dicts",
}
_YAML = {
    "save_hparams_to_yaml": "leyden.handlers.loggers.hparams:save_hparams_to_yaml",
    "load_hparams_from_yaml": "leyden.hparams_files:read_hparams",
}
_ALL_PROFILERS = _from(
    _PROFILERS, "BaseProfiler", "PassThroughProfiler", "SimpleProfiler", "AdvancedProfiler"
)
_TRAINER = {"Trainer": "leyden.trainer:Trainer", "seed_everything": "leyden.seed:seed_everything"}

#: module below ``pytorch_lightning`` ("" is the package itself) -> {name: "module:attribute"}.
MODULES: dict[str, dict[str, str]] = {
    "": {
        **_TRAINER,
        "LightningModule": "leyden.module:LightningModule",
        "LightningDataModule": "leyden.datamodule:LightningDataModule",
        "Callback": "leyden.callback:Callback",
    },
    "callbacks": _from(
        _CALLBACKS,
        "Callback",
        "EarlyStopping",
        "GPUStatsMonitor",
        "GradientAccumulationScheduler",
        "LambdaCallback",
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ProgressBar",
        "ProgressBarBase",
    ),
    "callbacks.base": _from(_CALLBACKS, "Callback"),
    "callbacks.early_stopping": _from(_CALLBACKS, "EarlyStopping"),
    "callbacks.gpu_stats_monitor": _from(_CALLBACKS, "GPUStatsMonitor"),
    "callbacks.gradient_accumulation_scheduler": _from(_CALLBACKS, "GradientAccumulationScheduler"),
    "callbacks.lambda_function": _from(_CALLBACKS, "LambdaCallback"),
    "callbacks.lr_monitor": _from(_CALLBACKS, "LearningRateMonitor"),
    "callbacks.model_checkpoint": _from(_CALLBACKS, "ModelCheckpoint"),
    "callbacks.progress": _PROGRESS,
    "core": {
        "LightningModule": "leyden.module:LightningModule",
        "LightningDataModule": "leyden.datamodule:LightningDataModule",
    },
    "core.datamodule": {"LightningDataModule": "leyden.datamodule:LightningDataModule"},
    "core.decorators": _from(_LEGACY, "auto_move_data"),
    "core.hooks": {
        "ModelHooks": "leyden.module_hooks:ModuleHooks",
        "DataHooks": "leyden.module_hooks:ModuleHooks",
        "CheckpointHooks": "leyden.module_hooks:ModuleHooks",
    },
    "core.lightning": {"LightningModule": "leyden.module:LightningModule"},
    "core.memory": {
        "ModelSummary": "leyden.handlers.summary:ModelSummary",
        "LayerSummary": "leyden.handlers.summary:LayerSummary",
        "get_human_readable_count": "leyden.handlers.summary:human_readable",
    },
    "core.optimizer": {"LightningOptimizer": "leyden.engine.optimizer_proxy:OptimizerProxy"},
    "core.saving": _YAML,
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
    },
    "loggers.base": _LOGGER_BASE,
    "loggers.csv_logs": _from(_LOGGERS, "CSVLogger"),
    "loggers.mlflow": _from(_LOGGERS, "MLFlowLogger"),
    "loggers.tensorboard": _from(_LOGGERS, "TensorBoardLogger"),
    "loggers.wandb": _from(_LOGGERS, "WandbLogger"),
    "metrics": {},
    "metrics.functional": {},
    "overrides": {},
    "overrides.data_parallel": {},
    "plugins": {},
    "profiler": _ALL_PROFILERS,
    "profiler.profilers": _ALL_PROFILERS,
    "trainer": _TRAINER,
    "trainer.states": {"TrainerState": "leyden.states:TrainerState"},
    "trainer.supporters": {"TensorRunningAccum": "leyden.accumulators:TensorRunningAccum"},
    "trainer.trainer": {"Trainer": "leyden.trainer:Trainer"},
    "tuner": {},
    "utilities": {
        **_RANKS,
        **_ENUMS,
        **_APPLY,
        **_PARSING,
        "MisconfigurationException": f"{_ERRORS}:MisconfigurationException",
        "_module_available": f"{_LEGACY}:module_available",
    },
    "utilities.apply_func": _APPLY,
    "utilities.argparse_utils": _from(
        "leyden.arguments",
        "add_argparse_args",
        "from_argparse_args",
        "get_init_arguments_and_types",
        "parse_argparser",
    ),
    "utilities.cloud_io": {
        "load": "leyden.handlers.checkpoint_io:load",
        "atomic_save": "leyden.handlers.checkpoint_io:save",
        "get_filesystem": f"{_LEGACY}:get_filesystem",
    },
    "utilities.data": _from(_LEGACY, "has_iterable_dataset", "has_len"),
    "utilities.device_parser": {},
    "utilities.distributed": _RANKS,
    "utilities.enums": _ENUMS,
    "utilities.exceptions": {"MisconfigurationException": f"{_ERRORS}:MisconfigurationException"},
    "utilities.imports": {"_module_available": f"{_LEGACY}:module_available"},
    "utilities.memory": _from(
        _LEGACY,
        "garbage_collection_cuda",
        "is_cuda_out_of_memory",
        "is_oom_error",
        "is_out_of_cpu_memory",
        "recursive_detach",
    ),
    "utilities.model_utils": _from(_LEGACY, "is_overridden"),
    "utilities.parsing": _PARSING,
    "utilities.seed": _from("leyden.seed", "seed_everything"),
    "utilities.warning_utils": _from(_LEGACY, "WarningCache"),
}

#: names that are not there any more -> what to write instead.
GONE: dict[str, str] = {
    "EvalResult": "return None from the step and call self.log(name, value) in it",
    "TrainResult": "return the loss from the step and call self.log(name, value) in it",
    "Result": "call self.log(name, value)",
    "TestTubeLogger": "test-tube is not maintained: use CSVLogger or TensorBoardLogger",
    "NeptuneLogger": "attach ignite's NeptuneLogger to trainer.engine",
    "CometLogger": "use comet's own experiment object in a Callback",
    "DDPShardedPlugin": "fairscale is not maintained",
    "DDPSequentialPlugin": "fairscale is not maintained",
    "LightningDataParallel": "torch.nn.DataParallel",
    "LightningDistributedDataParallel": "torch.nn.parallel.DistributedDataParallel",
    "data_loader": "remove the decorator, it has done nothing since 0.9",
    "transfer_batch_to_device": "override LightningModule.transfer_batch_to_device",
}

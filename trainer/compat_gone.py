"""What of pytorch_lightning 1.1 is not in leyden, and what to write instead.

Names that user code worked with are refused where they are imported (``REFUSED``). Classes inside
Lightning, and loggers whose package may be missing, can be imported as in 1.1 (``STAND_INS``):
code names them for ``isinstance`` and annotations. They are refused where they are used.
"""

__all__ = ["REFUSED", "STAND_INS"]

_DEVICES = (
    "devices and the way to distribute are arguments of the Trainer (gpus, tpu_cores, accelerator, "
    "num_processes), and what does it is in leyden.backends"
)
_PLUGINS = "precision, amp_backend and accelerator of the Trainer say what these plugins were for"
_CLUSTERS = (
    "what torchrun and SLURM set in the environment is read by itself; num_nodes says how many "
    "machines there are"
)
_HANDLERS = (
    "features are handlers, not connectors: print(trainer.plan()) shows those of a Trainer, and "
    "trainer.handlers can be changed"
)
_FAIRSCALE = "fairscale is not maintained: accelerator='fsdp' shards a model over processes"
_RESULT = "call self.log(name, value) in the step, and return the loss"
_LOGGERS = {
    "CometLogger": "use comet_ml's own Experiment in a Callback, or TensorBoardLogger",
    "NeptuneLogger": "attach ignite's NeptuneLogger to trainer.engine, or use TensorBoardLogger",
    "TestTubeLogger": "test-tube is not maintained: use TensorBoardLogger or CSVLogger",
}

#: name -> what to write instead; refused when it is imported, from whichever module.
REFUSED: dict[str, str] = {
    "EvalResult": "return None from the step and call self.log(name, value) in it",
    "TrainResult": "return the loss from the step and call self.log(name, value) in it",
    "data_loader": "remove the decorator, it has done nothing since 0.9",
    "transfer_batch_to_device": "override LightningModule.transfer_batch_to_device",
    "upgrade_checkpoint": "checkpoints of older versions are read as they are",
    "BaseFinetuning": "not in 1.1: freeze and unfreeze in a Callback, as examples/transfer.py does",
    "BackboneFinetuning": "not in 1.1: freeze and unfreeze in a Callback, see examples/transfer.py",
    "ModelPruning": "not in 1.1: torch.nn.utils.prune in a Callback does it",
    "CombinedLoader": "not in 1.1: one DataLoader over a torch.utils.data.StackDataset",
    "DDPPlugin": "not in 1.1: Trainer(accelerator='ddp'), with other choices by other arguments",
    "LightningLite": "not in 1.1: leyden.engine.Engine runs a step of your own",
    "RunningStage": "not in 1.1: trainer.training, testing and validating tell it",
    "TrainerFn": "not in 1.1: stage of setup() is 'fit', 'validate', 'test' or 'predict'",
    "QuantizationAwareTraining": "not in 1.1: Trainer(precision=8) trains weights of 8 bits",
}


def _each(reason: str, **modules: str) -> dict[str, dict[str, str]]:
    return {
        module.replace("__", "."): dict.fromkeys(names.split(), reason)
        for module, names in modules.items()
    }


_STRATEGIES = "the way to distribute is an argument, such as Trainer(strategy='ddp')"

#: module -> {name -> what to use instead}; these can be imported and are refused when used.
STAND_INS: dict[str, dict[str, str]] = {
    **_each(
        _DEVICES,
        accelerators=(
            "Accelerator CPUAccelerator DDP2Accelerator DDPAccelerator DDPCPUHPCAccelerator "
            "DDPCPUSpawnAccelerator DDPHPCAccelerator DDPSpawnAccelerator DataParallelAccelerator "
            "GPUAccelerator HorovodAccelerator TPUAccelerator"
        ),
        accelerators__accelerator="Accelerator ReduceOp",
        accelerators__accelerator_connector="AcceleratorConnector",
        accelerators__cpu_accelerator="CPUAccelerator",
        accelerators__ddp2_accelerator="DDP2Accelerator",
        accelerators__ddp_accelerator="DDPAccelerator",
        accelerators__ddp_cpu_hpc_accelerator="DDPCPUHPCAccelerator",
        accelerators__ddp_cpu_spawn_accelerator="DDPCPUSpawnAccelerator",
        accelerators__ddp_hpc_accelerator="DDPHPCAccelerator",
        accelerators__ddp_spawn_accelerator="DDPSpawnAccelerator",
        accelerators__dp_accelerator="DataParallelAccelerator",
        accelerators__gpu_accelerator="GPUAccelerator",
        accelerators__horovod_accelerator="HorovodAccelerator",
        accelerators__tpu_accelerator="TPUAccelerator",
        distributed="LightningDistributed",
        distributed__dist="LightningDistributed",
        tuner__auto_gpu_select="pick_multiple_gpus pick_single_gpu",
    ),
    **_each(
        "torch.nn.parallel has DataParallel and DistributedDataParallel; the Trainer wraps the "
        "module by itself",
        overrides__data_parallel=(
            "LightningDataParallel LightningDistributedDataParallel auto_squeeze_dim_zeros "
            "get_a_var parallel_apply warn_missing_output"
        ),
    ),
    **_each(
        _PLUGINS,
        plugins__apex="ApexPlugin",
        plugins__ddp_plugin="DDPPlugin",
        plugins__native_amp="NativeAMPPlugin",
        plugins__plugin="LightningPlugin",
        plugins__plugin_connector="LightningCustomPlugins PluginConnector",
        plugins__precision_plugin="PrecisionPlugin",
        plugins__rpc_plugin="DEFAULT_RPC_TIMEOUT_SEC RPCPlugin",
    ),
    **_each(
        _FAIRSCALE,
        overrides__fairscale="LightningShardedDataParallel",
        plugins__ddp_sequential_plugin=(
            "DDPSequentialPlugin LightningPipeModule load_sequential_from_saved_layers "
            "register_optimizers run_optimizer save_layers_on_all_rank_zero_workers"
        ),
        plugins__sharded_native_amp_plugin="ShardedNativeAMPPlugin",
        plugins__sharded_plugin="DDPShardedPlugin",
    ),
    **_each(
        _STRATEGIES,
        strategies="DDPStrategy DeepSpeedStrategy FSDPStrategy SingleDeviceStrategy Strategy",
        strategies__ddp="DDPStrategy",
    ),
    **_each(
        _CLUSTERS,
        cluster_environments="ClusterEnvironment SLURMEnvironment TorchElasticEnvironment",
        cluster_environments__cluster_environment="ClusterEnvironment",
        cluster_environments__slurm_environment="SLURMEnvironment",
        cluster_environments__torchelastic_environment="TorchElasticEnvironment",
    ),
    **_each(
        _HANDLERS,
        core__datamodule="track_data_hook_calls",
        trainer__callback_hook="TrainerCallbackHookMixin",
        trainer__configuration_validator="ConfigValidator",
        trainer__connectors="",
        trainer__connectors__callback_connector="CallbackConnector",
        trainer__connectors__checkpoint_connector="CheckpointConnector",
        trainer__connectors__data_connector="DataConnector",
        trainer__connectors__debugging_connector="DebuggingConnector",
        trainer__connectors__env_vars_connector="overwrite_by_env_vars",
        trainer__connectors__logger_connector="LoggerConnector",
        trainer__connectors__logger_connector__callback_hook_validator="CallbackHookNameValidator",
        trainer__connectors__logger_connector__epoch_result_store=(
            "EpochResultStore HookResultStore LoggerStages ResultStoreType"
        ),
        trainer__connectors__logger_connector__logger_connector="LoggerConnector",
        trainer__connectors__model_connector="ModelConnector",
        trainer__connectors__optimizer_connector="OptimizerConnector",
        trainer__connectors__precision_connector="PrecisionConnector",
        trainer__connectors__profiler_connector="PROFILERS ProfilerConnector",
        trainer__connectors__slurm_connector="SLURMConnector",
        trainer__connectors__training_trick_connector="TrainingTricksConnector",
        trainer__data_loading="TrainerDataLoadingMixin",
        trainer__deprecated_api="DeprecatedDistDeviceAttributes",
        trainer__evaluation_loop="EvaluationLoop",
        trainer__model_hooks="TrainerModelHooksMixin",
        trainer__optimizers="TrainerOptimizersMixin",
        trainer__properties="TrainerProperties",
        trainer__training_loop="TrainLoop",
        trainer__training_tricks="TrainerTrainingTricksMixin",
        utilities__debugging="enabled_only",
    ),
    **_each(
        "self.write_prediction(name, value, filename) keeps and writes predictions",
        trainer__supporters="PredictionCollection",
    ),
    **_each("call self.grad_norm(norm_type) of the module", core__grads="GradInformation"),
    **_each(
        "LightningModule has load_from_checkpoint and save_hyperparameters", core__saving="ModelIO"
    ),
    **_each(
        _RESULT,
        core__step_result=(
            "EvalResult Result TrainResult choose_last collate_tensors recursive_gather "
            "recursive_stack weighted_mean"
        ),
    ),
    **_each(
        "torchmetrics.functional has its successors",
        metrics__classification__helpers="",
        metrics__functional__nlp="bleu_score",
        metrics__functional__reduction="class_reduce reduce",
        metrics__functional__self_supervised="embedding_similarity",
    ),
    **_each(
        "checkpoints of older versions are read as they are",
        utilities__upgrade_checkpoint="KEYS_MAPPING",
    ),
    **_each(
        "torch_xla runs on TPUs, and is asked where it is installed",
        utilities__xla_device_utils="TPU_CHECK_TIMEOUT pl_multi_process",
    ),
    "loggers": _LOGGERS,
    "loggers.comet": {"CometLogger": _LOGGERS["CometLogger"]},
    "loggers.neptune": {"NeptuneLogger": _LOGGERS["NeptuneLogger"]},
    "loggers.test_tube": {"TestTubeLogger": _LOGGERS["TestTubeLogger"]},
}

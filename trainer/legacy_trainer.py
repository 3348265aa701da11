"""What code for Lightning 1.x reads from inside a Trainer, under the names it had there.

``trainer.train_loop.running_loss``, ``trainer.logger_connector.callback_metrics`` and their like
answer from where leyden keeps these things. What has no meaning here raises an AttributeError that
says what to use. Nothing of it exists before it is asked for.
"""

import inspect
from collections.abc import Callable
from typing import Any

from leyden import legacy_views as views
from leyden.backends.samplers import with_sampler
from leyden.dev_debugger import debugger_of
from leyden.engine import Events
from leyden.handlers.accumulation import factor_at
from leyden.handlers.base import Order
from leyden.module import LightningModule
from leyden.optimizers import configured
from leyden.overrides import overrides

__all__ = ["ATTRIBUTES", "INSTEAD", "attribute_of_1_1"]


def _provided(trainer: Any, model: Any) -> Any:
    loaders = trainer._run.loaders
    if model is not None and loaders.model is not model:
        loaders.provide(model, trainer._connect(model, None, ()))
    return loaders


def _reset_train(trainer: Any) -> Callable[..., None]:
    def reset_train_dataloader(model: Any = None) -> None:
        _provided(trainer, model).request_train(LightningModule, trainer._settings)

    return reset_train_dataloader


def _reset(stage: str) -> Callable[[Any], Callable[..., None]]:
    def bound(trainer: Any) -> Callable[..., None]:
        def reset(model: Any = None) -> None:
            _provided(trainer, model).request_evaluation(stage, LightningModule, trainer._settings)

        return reset

    return bound


def _reset_eval_dataloader(trainer: Any) -> Callable[..., Any]:
    def reset(model: Any, mode: str) -> tuple[list[float], list[Any]]:
        stage = {"val": "validate"}.get(mode, mode)
        loaders = _provided(trainer, model)
        loaders.request_evaluation(stage, LightningModule, trainer._settings)
        return loaders.num_batches[stage], loaders.evaluation[stage]

    return reset


def _run_evaluation(trainer: Any) -> Callable[..., tuple[list[Any], list[Any]]]:
    def run_evaluation(
        test_mode: bool = False, max_batches: Any = None
    ) -> tuple[list[Any], list[Any]]:
        """Give the metrics of each loader, and what the steps or the hook of the end returned."""
        if test_mode or max_batches is not None:
            raise AttributeError(
                "run_evaluation takes no test_mode and max_batches: call trainer.test(model), or "
                "set limit_val_batches"
            )
        run = trainer._run
        engine = run.evaluators["validate"]
        state: Any = engine.state
        kept: list[list[Any]] = []
        ended: dict[str, Any] = {"metrics": [], "returned": []}

        def begin(engine: Any) -> None:
            kept[:] = [[] for _ in range(state.num_loaders)]

        def keep(engine: Any) -> None:
            if state.output is not None:
                kept[state.dataloader_idx].append(state.output)

        def end(engine: Any) -> None:
            returned = kept[0] if len(kept) == 1 else kept
            if overrides(run.model, "validation_epoch_end", LightningModule):
                returned = state.epoch_end_result
            ended["metrics"] = state.results
            ended["returned"] = returned if isinstance(returned, list) else [returned]

        handles = [
            engine.listen(Events.EPOCH_STARTED, begin, order=1),
            engine.listen(Events.ITERATION_COMPLETED, keep, order=20),
            engine.listen(Events.EPOCH_COMPLETED, end, order=Order.COUNTERS),
        ]
        try:
            if run.stage == "fit":
                run.validate_in_training(False)
            else:
                trainer.validate(run.model, verbose=False)
        finally:
            for handle in handles:
                handle.remove()
        return ended["metrics"], ended["returned"]

    return run_evaluation


def _has_arg(function: Any, name: str) -> bool:
    return name in inspect.signature(function).parameters


#: name -> what it is, given the Trainer.
ATTRIBUTES: dict[str, Callable[[Any], Any]] = {
    "accelerator_backend": views.AcceleratorBackend,
    "checkpoint_connector": views.CheckpointConnector,
    "data_connector": views.DataConnector,
    "evaluation_loop": views.EvaluationLoop,
    "logger_connector": views.LoggerConnector,
    "optimizer_connector": views.OptimizerConnector,
    "train_loop": views.TrainLoop,
    "dev_debugger": debugger_of,
    "call_hook": lambda trainer: trainer._run.call,
    "has_arg": lambda trainer: (
        lambda name, argument: _has_arg(getattr(trainer.model, name), argument)
    ),
    "hiddens": lambda trainer: None if trainer._run.step is None else trainer._run.step.hiddens,
    "init_optimizers": lambda trainer: (
        lambda model: (
            (parts := configured(model.configure_optimizers())).optimizers,
            parts.schedulers,
            parts.frequencies,
        )
    ),
    "is_function_implemented": lambda trainer: (
        lambda name, model=None: overrides(
            trainer.model if model is None else model, name, LightningModule
        )
    ),
    "replace_sampler": lambda trainer: with_sampler,
    "_reset_eval_dataloader": _reset_eval_dataloader,
    "reset_test_dataloader": _reset("test"),
    "reset_train_dataloader": _reset_train,
    "reset_val_dataloader": _reset("validate"),
    "run_evaluation": _run_evaluation,
    # Of versions before and after 1.1.
    "estimated_stepping_batches": lambda trainer: _stepping_batches(trainer),
    "is_last_batch": lambda trainer: trainer.batch_idx + 1 >= trainer.num_training_batches,
    "loggers": lambda trainer: _loggers(trainer),
    "proc_rank": lambda trainer: trainer.global_rank,
}

_HOOK = "trainer.call_hook(name) calls a hook of the callbacks and the module"
_HANDLER = "print(trainer.plan()) shows the handlers that do its work"
#: name -> what to use instead.
INSTEAD: dict[str, str] = {
    "accelerator_connector": "devices are arguments; trainer.root_device and its like tell them",
    "callback_connector": "trainer.callbacks is the list, and can be changed",
    "config_validator": "arguments are checked when the Trainer is made, a module when fit begins",
    "debugging_connector": _HANDLER,
    "detect_nan_tensors": "Trainer(terminate_on_nan=True)",
    "fit_loop": "the loop is trainer.engine, its position trainer.engine.state",
    "model_connector": "trainer.model is the module",
    "plugin_connector": _HANDLER,
    "precision_connector": "trainer.precision_plugin is what the steps compute with",
    "print_nan_gradients": "Trainer(terminate_on_nan=True) names the parameters",
    "profile_connector": "trainer.profiler is the profiler",
    "profiler_connector": "trainer.profiler is the profiler",
    "request_dataloader": "trainer.reset_train_dataloader(model) asks for the loader",
    "run_sanity_check": "num_sanity_val_steps says how much of it fit runs",
    "run_test": "trainer.test(model)",
    "schedulers": "trainer.lr_schedulers",
    "setup": _HOOK,
    "slurm_connector": "SIGUSR1 saves the run and ends it; it goes on from the same script",
    "teardown": _HOOK,
    "train": "trainer.fit(model)",
    "training_tricks_connector": _HANDLER,
}


def attribute_of_1_1(trainer: Any, name: str) -> Any:
    """The attribute ``name`` of Lightning 1.1's Trainer that leyden's own does not have.

    Raises:
        AttributeError: there is none; the message says what to use, if it was one of 1.1.
    """
    made = ATTRIBUTES.get(name)
    if made is not None:
        found = made(trainer)
        if isinstance(made, type):
            # What somebody sets on a view is there the next time.
            trainer.__dict__[name] = found
        return found
    kind = type(trainer).__name__
    instead = INSTEAD.get(name) or (_HOOK if name.startswith("on_") else None)
    if instead is not None:
        raise AttributeError(f"{kind} of leyden has no {name!r}: {instead}")
    raise AttributeError(f"{kind!r} object has no attribute {name!r}")


def _loggers(trainer: Any) -> list[Any]:
    logger = trainer.logger
    if logger is None:
        return []
    several = getattr(logger, "logger_iterable", None)
    return [logger] if several is None else list(several)


def _stepping_batches(trainer: Any) -> float:
    """Optimizer steps that a whole run makes: for schedulers that have to know the end."""
    run = trainer._run
    if not run.loaders.num_training_batches:
        run.loaders.request_train(LightningModule, run.settings)
    factor = run.settings.accumulate_grad_batches
    if isinstance(factor, dict):
        factors = [factor_at(factor, epoch) for epoch in range(trainer.max_epochs)]
    else:
        factors = [factor] * trainer.max_epochs
    batches = run.loaders.num_training_batches
    if batches == float("inf"):
        total = float("inf")
    else:
        total = float(sum(-(-int(batches) // one) for one in factors))
    most = trainer.max_steps
    least = total if most is None else min(total, most)
    return least if least == float("inf") else int(least)

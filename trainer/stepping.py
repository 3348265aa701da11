"""From a LightningModule to the process functions of the engines."""

import inspect
from collections.abc import Callable
from typing import Any

from leyden.backends.precision import MixedPrecision, Precision
from leyden.backends.precision.base import Kind
from leyden.backends.strategies import Strategy
from leyden.compiling import Compiling
from leyden.engine.errors import MisconfigurationException, ReportedValue
from leyden.engine.notice import warn
from leyden.engine.step import TrainingStep
from leyden.handlers.evaluation import EvaluationStep
from leyden.handlers.hooks import WORDS, accepted
from leyden.handlers.metric_legacy import logs_by_return
from leyden.module import LightningModule
from leyden.optimizers import OptimizerSet
from leyden.overrides import overrides

__all__ = ["evaluation_step", "training_step", "verify", "verify_accumulation"]

#: What a module may do instead of the training step's own way.
HOOKED = ("training_step_end", "backward", "optimizer_step", "optimizer_zero_grad")


def verify(model: Any, stage: str) -> None:
    """Check that the module has what the loop needs, before anything of it runs.

    Raises:
        MisconfigurationException: naming the method that is missing.
    """
    if not isinstance(model, LightningModule):
        raise MisconfigurationException(
            f"the model is a {type(model).__name__}, not a LightningModule: derive it from "
            "leyden.LightningModule, or compose leyden.engine.Engine with handlers yourself"
        )
    if stage != "fit":
        name = f"{WORDS[stage]}_step"
        if stage not in ("predict", "test") and not overrides(model, name, LightningModule):
            raise MisconfigurationException(
                f"{type(model).__name__} has no {name}(): define it to run this loop"
            )
        return
    for name in ("training_step", "configure_optimizers"):
        if not overrides(model, name, LightningModule):
            raise MisconfigurationException(
                f"{type(model).__name__} has no {name}(): fit cannot train without it"
            )


def verify_accumulation(model: Any, settings: Any) -> None:
    """Refuse accumulation beside a module that decides itself when to step.

    Raises:
        MisconfigurationException: naming the override.
    """
    if settings.accumulate_grad_batches in (1, {0: 1}) or not _automatic(model, settings):
        return
    for name in ("optimizer_step", "optimizer_zero_grad"):
        if overrides(model, name, LightningModule):
            raise MisconfigurationException(
                f"accumulate_grad_batches={settings.accumulate_grad_batches} and an overridden "
                f"{name} do not go together, both decide when to step: use "
                "accumulate_grad_batches=1 or remove the override. It ensures optimizer_step "
                "or optimizer_zero_grad are called on every batch"
            )


def training_step(
    model: Any,
    parts: OptimizerSet,
    settings: Any,
    *,
    scope: Any,
    trainer: Any,
    keep_outputs: bool,
    precision: Precision | None = None,
    strategy: Strategy | None = None,
    compiling: Compiling | None = None,
) -> TrainingStep:
    """The step of one batch, told only what this module really overrides."""
    manual = not _automatic(model, settings)
    step = model.training_step
    several = len(parts.optimizers) > 1
    takes_index = several and _names(step, "optimizer_idx")
    if several and not takes_index and not manual:
        raise ReportedValue(
            f"{type(model).__name__} has {len(parts.optimizers)} optimizers, but its training_step "
            "takes no 'optimizer_idx': add that argument, or optimize by hand "
            "(self.automatic_optimization = False)"
        )
    split = settings.truncated_bptt_steps
    if split is not None and not _names(step, "hiddens"):
        raise MisconfigurationException(
            f"truncated_bptt_steps={split} hands hidden states on, but the training_step of "
            f"{type(model).__name__} takes no 'hiddens': add that argument"
        )
    has = {name: overrides(model, name, LightningModule) for name in HOOKED}
    verify_accumulation(model, settings)

    def own_optimizer_step(optimizer: Any, index: int, closure: Callable[[], Any]) -> Any:
        scope.hook = "optimizer_step"
        return model.optimizer_step(
            trainer.current_epoch,
            trainer.batch_idx,
            optimizer,
            index,
            closure,
            on_tpu=strategy is not None and strategy.root_device.type in ("xla", "tpu"),
            using_native_amp=isinstance(precision, MixedPrecision),
            using_lbfgs=type(optimizer.optimizer).__name__ == "LBFGS",
        )

    def untoggle(optimizer: Any, index: int) -> None:
        model.untoggle_optimizer(optimizer)

    def own_zero_grad(optimizer: Any, index: int) -> Any:
        return model.optimizer_zero_grad(trainer.current_epoch, trainer.batch_idx, optimizer, index)

    toggles = several and not manual
    own_backward = model.backward if has["backward"] else None
    used = precision if precision is not None and precision.active else None
    kind: Kind = "manual" if manual else "train"
    called = step
    if strategy is not None:
        called = strategy.step_of(model, "training_step", ends=has["training_step_end"])
    if compiling is not None:
        called = compiling.step(model, called, manual=manual)
    made = TrainingStep(
        used.around(called, kind) if used else called,
        parts.optimizers,
        manual=manual,
        takes_batch_idx=accepted(step, 0) != 1,
        takes_optimizer_idx=takes_index,
        frequencies=parts.frequencies,
        split=(lambda batch: model.tbptt_split_batch(batch, split)) if split is not None else None,
        step_end=_step_end(model, strategy) if has["training_step_end"] else None,
        backward=_precise_backward(used, own_backward) if used else own_backward,
        optimizer_step=own_optimizer_step if has["optimizer_step"] else None,
        zero_grad=own_zero_grad if has["optimizer_zero_grad"] else None,
        stepper=used.step if used else None,
        toggle=model.toggle_optimizer if toggles else None,
        untoggle=untoggle if toggles else None,
        keep_outputs=keep_outputs,
        on_none=_NoneWarning(),
        scope=scope,
    )
    if strategy is not None and strategy.active:
        strategy.prepare(model, parts.optimizers, manual=manual)
        made.forward = strategy.around(
            made.forward, kind, lambda: made.closes_group(trainer._run.state)
        )
    if several and not manual:
        _tell_each_turn(made, scope)
    return made


def _step_end(model: Any, strategy: Strategy | None) -> Callable[[Any], Any]:
    """The module's ``training_step_end``; what stands for a batch that is not there is left out."""
    if strategy is None or not strategy.join_uneven_inputs:
        end: Callable[[Any], Any] = model.training_step_end
        return end
    uneven = strategy.uneven  # type: ignore[attr-defined]
    return lambda output: output if uneven.over else model.training_step_end(output)


def _tell_each_turn(made: TrainingStep, scope: Any) -> None:
    """Log the 'log' entry of every optimizer's turn: the output of a batch is that of the last."""
    name = "forward" if made.step_end is None else "step_end"
    call = getattr(made, name)

    def told(*arguments: Any) -> Any:
        output = call(*arguments)
        if logs_by_return(output):
            scope.train_step_output(output)
        return output

    setattr(made, name, told)


def _precise_backward(precision: Precision, own: Callable[..., Any] | None) -> Callable[..., None]:
    """The backward pass as the precision scales it, by the module's own where it has one."""

    def backward(loss: Any, optimizer: Any, index: int, *args: Any, **kwargs: Any) -> None:
        def run(scaled: Any) -> Any:
            if own is not None:
                return own(scaled, optimizer, index, *args, **kwargs)
            return scaled.backward(*args, **kwargs)

        # By hand it may be any of them that steps next, or all.
        precision.backward(run, loss, None if index < 0 else optimizer)

    return backward


class _NoneWarning:
    """Warns once a run that a step returned None."""

    def __init__(self) -> None:
        self.warned = False

    def __call__(self) -> None:
        if not self.warned:
            self.warned = True
            warn(
                "training_step returned None: this batch changes no parameter; return None only "
                "to skip a batch",
                UserWarning,
            )


def evaluation_step(
    model: Any,
    stage: str,
    *,
    scope: Any,
    started: Callable[..., Any] | None,
    precision: Precision | None = None,
    strategy: Strategy | None = None,
    compiling: Compiling | None = None,
) -> EvaluationStep:
    """The step of one evaluation batch."""
    name = f"{WORDS[stage]}_step"
    step = getattr(model, name)
    end = f"{name}_end"
    ends = stage != "predict" and overrides(model, end, LightningModule)
    used = precision if precision is not None and precision.active else None
    taken = accepted(step, 0)
    if strategy is not None:
        step = strategy.step_of(model, name, ends=ends)
    if compiling is not None:
        step = compiling.step(model, step, manual=False)
    if used:
        step = used.around(step, "evaluate")
    if strategy is not None and strategy.active:
        step = strategy.around(step, "evaluate", lambda: False)
    return EvaluationStep(
        step,
        name=name,
        step_end=getattr(model, end) if ends else None,
        takes=taken,
        started=started,
        scope=scope,
    )


def _automatic(model: Any, settings: Any) -> bool:
    if settings.automatic_optimization is not None and "automatic_optimization" in settings.given:
        return bool(settings.automatic_optimization)
    return bool(model.automatic_optimization)


def _names(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())

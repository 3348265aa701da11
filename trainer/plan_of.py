"""Collect the plan of a run from its engines."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from leyden.config import CHECKS
from leyden.engine import Engine
from leyden.engine.events import Events, TrainerEvents
from leyden.engine.filters import Filter
from leyden.handlers.hooks import WORDS
from leyden.handlers.naming import handler_name, handler_origin
from leyden.loaders import INFINITE, batches_of
from leyden.module import LightningModule
from leyden.overrides import overrides
from leyden.plan import Line, Plan
from leyden.plan_counts import Counts, accumulation, counts_of, passes
from leyden.resuming import resumable
from leyden.run import Run
from leyden.settings import Settings
from leyden.simulate import Schedule

__all__ = ["plan_of"]

# The step stands among the events that it fires.
FORWARD, STEP = "the forward pass", "the optimizer step"
THE_STEP = "the step"

ORDER = (
    TrainerEvents.FIT_STARTED,
    TrainerEvents.PRETRAIN_STARTED,
    TrainerEvents.CHECKPOINT_LOADED,
    TrainerEvents.PRETRAIN_COMPLETED,
    TrainerEvents.SANITY_CHECK_STARTED,
    TrainerEvents.SANITY_CHECK_COMPLETED,
    Events.STARTED,
    Events.EPOCH_STARTED,
    Events.DATALOADER_STOP_ITERATION,
    Events.GET_BATCH_STARTED,
    Events.GET_BATCH_COMPLETED,
    Events.ITERATION_STARTED,
    FORWARD,
    TrainerEvents.FORWARD_COMPLETED,
    TrainerEvents.BACKWARD_STARTED,
    TrainerEvents.BACKWARD_COMPLETED,
    TrainerEvents.GRADIENTS_READY,
    TrainerEvents.OPTIMIZER_STEP_STARTED,
    STEP,
    TrainerEvents.OPTIMIZER_STEP_COMPLETED,
    TrainerEvents.ZERO_GRAD_STARTED,
    Events.ITERATION_COMPLETED,
    Events.EPOCH_COMPLETED,
    TrainerEvents.VALIDATION_STARTED,
    TrainerEvents.VALIDATION_COMPLETED,
    TrainerEvents.CHECKPOINT_SAVED,
    Events.COMPLETED,
    Events.INTERRUPT,
    Events.TERMINATE,
    Events.EXCEPTION_RAISED,
    TrainerEvents.TRAINING_ENDED,
    TrainerEvents.FIT_COMPLETED,
)
_PLACE = {getattr(event, "name", event): place for place, event in enumerate(ORDER)}


def plan_of(run: Run, settings: Settings, *, reasons: bool = False) -> Plan:
    """The handlers on the engines; what only a model and data tell is added when fit has them."""
    counts = counts_of(run, settings)
    lines = _sorted(
        [*_step_lines(run, settings, counts), *_lines(run.engine, "train", counts.train)]
    )
    for stage, engine in run.evaluators.items():
        if run.stage == stage or (stage == "validate" and (run.model is None or run.validates)):
            times = counts.evaluation(stage)
            lines += _sorted([*_evaluation_step(run, stage, times), *_lines(engine, stage, times)])
    return Plan(
        lines,
        _notes(run, settings, counts),
        reasons=reasons,
        schedule=_schedule(run, settings),
        known=_known(run),
    )


def _schedule(run: Run, settings: Settings) -> Schedule:
    names = (field.name for field in fields(Schedule))
    given = {name: getattr(settings, name) for name in names if name in CHECKS}
    step = run.step
    turns = 1 if step is None or step.frequencies else max(1, len(step.optimizers))
    validates = run.model is None or overrides(run.model, "validation_step", LightningModule)
    return Schedule(
        **given,
        accumulate=accumulation(run, settings),
        optimizers=turns,
        validates=validates,
    )


def _known(run: Run) -> tuple[int | None, list[int]]:
    """The lengths of the loaders, as far as fit has asked for them."""
    train = None if run.loaders.train is None else batches_of(run.loaders.train)
    val = [batches_of(loader) for loader in run.loaders.evaluation.get("validate", [])]
    return (
        None if train is None or train == INFINITE else int(train),
        [] if INFINITE in val else [int(count) for count in val],
    )


def _sorted(lines: list[tuple[str, Line]]) -> list[Line]:
    return [line for _, line in sorted(lines, key=lambda item: _PLACE.get(item[0], len(ORDER)))]


def _lines(engine: Engine, stage: str, times: dict[str, int]) -> Iterator[tuple[str, Line]]:
    for entry in engine.entries():
        event = str(getattr(entry.event, "name", entry.event))
        owner = entry.owner or getattr(entry.handler, "__self__", None)
        origin = handler_origin(entry.handler, entry.owner)
        filter_: Filter | None = entry.filter
        when = _pace(owner, event) if filter_ is None else str(filter_)
        total = times.get(event)
        called = total if total is None or filter_ is None else passes(filter_, total)
        reason = (
            getattr(owner, "order_reason", "")
            if entry.order == getattr(owner, "order", None)
            else ""
        )
        name = handler_name(entry.handler, entry.owner)
        yield event, Line(stage, event, entry.order, name, when, called, origin, reason)


def _pace(owner: Any, event: str) -> str:
    """What a handler says of itself that counts for itself: ``each 100 steps``."""
    attributes = {"EPOCH_COMPLETED": ("every_n_epochs",), "EPOCH_STARTED": ("every_n_epochs",)}
    for attribute in attributes.get(event, ("every_n_batches", "every_n_steps")):
        value = getattr(owner, attribute, None)
        if isinstance(value, int) and value > 1:
            return f"each {value} {attribute.removeprefix('every_n_')}"
    return ""


def _step_lines(run: Run, settings: Settings, counts: Counts) -> Iterator[tuple[str, Line]]:
    """The step itself: what the engine does between two events."""
    model = "" if run.model is None else f"{type(run.model).__name__}."
    origin = "fit(model)" if run.model is None else f"model={type(run.model).__name__}"
    step = run.step
    if step is not None and step.manual:
        name = f"{model}training_step, by hand"
        yield FORWARD, Line("train", THE_STEP, None, name, "", counts.iterations, origin)
        return
    name = f"{model}training_step, backward"
    split = settings.truncated_bptt_steps
    when = "" if split is None else f"each {split} time steps"
    yield FORWARD, Line("train", THE_STEP, None, name, when, counts.forwards, origin)
    names = ["optimizer"] if step is None else [type(one).__name__ for one in step.optimizers]
    for index, optimizer in enumerate(names):
        when, times = _group(settings.accumulate_grad_batches), counts.steps
        if step is not None and step.frequencies:
            when, times = f"{step.frequencies[index]} of {sum(step.frequencies)} batches", None
        origin = "configure_optimizers"
        if settings.accumulate_grad_batches != 1:
            origin = f"accumulate_grad_batches={settings.accumulate_grad_batches}"
        line = Line("train", THE_STEP, None, f"{optimizer}.step, zero_grad", when, times, origin)
        yield STEP, line


def _group(factor: int | dict[int, int]) -> str:
    if isinstance(factor, int):
        return "" if factor == 1 else f"each {factor} batches"
    return ", ".join(f"from epoch {epoch} each {k}" for epoch, k in sorted(factor.items()))


def _evaluation_step(run: Run, stage: str, times: dict[str, int]) -> Iterator[tuple[str, Line]]:
    if run.model is not None:
        name = f"{type(run.model).__name__}.{WORDS[stage]}_step"
        origin = f"model={type(run.model).__name__}"
        total = times.get("ITERATION_STARTED")
        yield FORWARD, Line(stage, THE_STEP, None, name, "", total, origin)


def _notes(run: Run, settings: Settings, counts: Counts) -> Iterator[str]:
    meant = f"val_check_interval={settings.val_check_interval!r}: validation runs"
    if run.model is None:
        yield f"{meant} {counts.validation_words(settings)}"
        yield "the hooks and steps of the model join when fit(model) begins"
    elif run.validates:
        yield f"{meant} {counts.validation_words(settings)}"
    else:
        yield "no validation: there is no validation_step, or there are no batches for it"
    if run.trainer.checkpoint_callbacks and run.feed is not None:
        exact, why = resumable(run)
        yield f"resumed in mid-epoch: {'exact' if exact else 'not exact'}, {why}"
    if settings.overfit_batches or settings.fast_dev_run:
        yield from (f"changed: {change}" for change in settings.changes)

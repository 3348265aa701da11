"""How often each event happens in a run, worked out beforehand."""

import math
from dataclasses import dataclass, field
from typing import Any

from leyden.engine.filters import NEVER, Filter
from leyden.handlers.accumulation_scheduler import GradientAccumulationScheduler
from leyden.loaders import INFINITE
from leyden.run import Run
from leyden.settings import Settings

__all__ = ["Counts", "accumulation", "counts_of", "passes"]


@dataclass
class Counts:
    """Numbers of one run, if nothing stops it early; None where they are not known.

    Attributes:
        batches: of a training epoch.
        epochs, iterations, steps: of the run; ``steps`` are optimizer steps.
        forwards: calls of ``training_step``.
        every: batches between two validations of an epoch; infinity: at the end of data of unknown
            length.
        validations: of the run, the check before training not counted.
        train: how often each event of the training engine happens.
        stages: the same for the engines of the evaluations.
    """

    batches: int | None = None
    epochs: int | None = None
    iterations: int | None = None
    steps: int | None = None
    forwards: int | None = None
    every: float | None = None
    validations: int | None = None
    train: dict[str, int] = field(default_factory=dict)
    stages: dict[str, dict[str, int]] = field(default_factory=dict)

    def evaluation(self, stage: str) -> dict[str, int]:
        """How often each event of an evaluation engine happens."""
        return self.stages.get(stage, {})

    def validation_words(self, settings: Settings) -> str:
        """When validation runs, with the batches by number where they are known."""
        rare = settings.check_val_every_n_epoch
        epochs = "" if rare == 1 else f", in one epoch of {rare}"
        total = "" if self.validations is None else f"; {self.validations} times in this run"
        if self.batches is None or self.every is None or self.every == INFINITE:
            return f"{settings.val_check_meaning}{epochs}{total}"
        if self.every >= self.batches:
            where = f"at the end of each training epoch, after batch {self.batches}"
            return f"{where}{epochs}{total}"
        at = range(int(self.every), self.batches + 1, int(self.every))
        shown = ", ".join(map(str, at[:3])) + (f", ... {at[-1]}" if len(at) > 3 else "")
        return f"after batches {shown}: {len(at)} times an epoch{epochs}{total}"


def passes(filter_: Filter, total: int) -> int | None:
    """How many of the numbers 1 to ``total`` a filter lets through; None if only it knows."""
    if filter_.opaque:
        return None
    if filter_.once is not None:
        return sum(1 for value in filter_.once if 1 <= value <= total)
    first = filter_.next(1)
    if first == NEVER or first > total:
        return 0
    last = total if filter_.before is None else min(total, filter_.before - 1)
    return max(0, (last - first) // (filter_.every or 1) + 1)


def counts_of(run: Run, settings: Settings) -> Counts:
    """Work out the numbers of a run; before fit only the epochs are known."""
    counts = Counts()
    known = run.loaders.train is not None and run.loaders.num_training_batches != INFINITE
    if known:
        counts.batches = int(run.loaders.num_training_batches)
    full, partial = _training(counts, run, settings)
    _validation(counts, run, settings, full, partial)
    _events(counts, run, settings)
    return counts


def accumulation(run: Run, settings: Settings) -> dict[int, int]:
    """Batches to an optimizer step, from each epoch on."""
    for handler in run.handlers:
        if isinstance(handler, GradientAccumulationScheduler):
            return dict(handler.scheduling)
    factor = settings.accumulate_grad_batches
    return dict(factor) if isinstance(factor, dict) else {0: factor}


def _training(counts: Counts, run: Run, settings: Settings) -> tuple[int, int]:
    """Fill in epochs, iterations, steps; return the whole epochs and a last part's batches."""
    limit, batches = settings.max_steps, counts.batches
    if batches is None:
        counts.epochs = settings.max_epochs if limit is None else None
        return counts.epochs or 0, 0
    full = partial = iterations = steps = 0
    schedule = {} if batches == 0 else accumulation(run, settings)
    starts = sorted({0, *schedule})
    for start, end in zip(starts, [*starts[1:], settings.max_epochs], strict=True):
        k = schedule.get(start, 1)
        epochs = max(0, min(end, settings.max_epochs) - start) if batches else 0
        an_epoch = math.ceil(batches / k) if batches else 0
        if limit is not None and epochs and steps + epochs * an_epoch >= limit:
            whole, rest = divmod(limit - steps, an_epoch)
            partial = min(rest * k, batches)
            full, steps, iterations = full + whole, limit, iterations + whole * batches + partial
            break
        full, steps, iterations = (
            full + epochs,
            steps + epochs * an_epoch,
            iterations + epochs * batches,
        )
    counts.epochs, counts.iterations, counts.steps = full + (partial > 0), iterations, steps
    if run.step is not None and settings.truncated_bptt_steps is None:
        alternate = run.step.manual or run.step.frequencies
        counts.forwards = iterations * (1 if alternate else max(1, len(run.step.optimizers)))
    return full, partial


def _validation(counts: Counts, run: Run, settings: Settings, full: int, partial: int) -> None:
    if run.model is None or not run.validates or "Validation" not in run.handlers:
        return
    counts.every = run.handlers["Validation"].every_n_batches
    if counts.batches is None or counts.every is None or counts.every == INFINITE:
        return
    each, every = settings.check_val_every_n_epoch, int(counts.every)
    inside = (
        partial // every if partial and (full + 1) % each == 0 and every < counts.batches else 0
    )
    counts.validations = full // each * (counts.batches // every) + inside


def _events(counts: Counts, run: Run, settings: Settings) -> None:
    once = ("FIT_STARTED", "PRETRAIN_STARTED", "PRETRAIN_COMPLETED", "STARTED", "COMPLETED")
    counts.train.update(dict.fromkeys((*once, "TRAINING_ENDED", "FIT_COMPLETED"), 1))
    step = run.step
    turns = 1
    if step is not None and not step.frequencies:
        turns = max(1, len(step.optimizers))
    closes = (
        None if counts.steps is None or (step is not None and step.manual) else counts.steps * turns
    )
    table: dict[tuple[str, ...], int | None] = {
        ("EPOCH_STARTED", "EPOCH_COMPLETED"): counts.epochs,
        ("GET_BATCH_STARTED", "GET_BATCH_COMPLETED"): counts.iterations,
        ("ITERATION_STARTED", "ITERATION_COMPLETED"): counts.iterations,
        ("FORWARD_COMPLETED", "BACKWARD_STARTED", "BACKWARD_COMPLETED"): counts.forwards,
        ("GRADIENTS_READY", "OPTIMIZER_STEP_STARTED", "OPTIMIZER_STEP_COMPLETED"): closes,
        ("ZERO_GRAD_STARTED",): closes,
        ("VALIDATION_STARTED", "VALIDATION_COMPLETED"): counts.validations,
    }
    for events, times in table.items():
        if times is not None:
            counts.train.update(dict.fromkeys(events, times))
    _evaluations(counts, run, settings)


def _evaluations(counts: Counts, run: Run, settings: Settings) -> None:
    for stage, loaders in run.loaders.num_batches.items():
        if INFINITE in loaders:
            continue
        batches, runs, checked = int(sum(loaders)), 1, 0
        if stage == "validate" and run.stage != "validate":
            if counts.validations is None:
                continue
            runs = counts.validations
            steps: Any = settings.num_sanity_val_steps
            checked = int(sum(min(count, steps) for count in loaders)) if steps else 0
        total = runs * batches + checked
        runs += checked > 0
        if checked:
            counts.train.update(SANITY_CHECK_STARTED=1, SANITY_CHECK_COMPLETED=1)
        events = dict.fromkeys(("STARTED", "EPOCH_STARTED", "EPOCH_COMPLETED", "COMPLETED"), runs)
        inner = (
            "GET_BATCH_STARTED",
            "GET_BATCH_COMPLETED",
            "ITERATION_STARTED",
            "ITERATION_COMPLETED",
        )
        counts.stages[stage] = {**events, **dict.fromkeys(inner, total)}

"""Collect the plan of a run from its engines."""

from typing import Any

from leyden.plan import Plan, lines_of
from leyden.run import INFINITE, Run
from leyden.settings import Settings

__all__ = ["plan_of"]


def plan_of(run: Run, settings: Settings) -> Plan:
    """The handlers on all engines; what is only known with a model and data is added when fit has them."""
    lines = list(lines_of(run.engine, "train", _times(run, settings)))
    for stage, engine in run.evaluators.items():
        if stage == "validate" or run.stage == stage:
            lines += lines_of(engine, stage, {})
    notes = [f"val_check_interval={settings.val_check_interval!r}: validates {settings.val_check_meaning}"]
    if run.model is None:
        notes.append("the hooks and steps of the model join when fit(model) begins")
    notes += [str(change) for change in settings.changes]
    return Plan(lines, notes)


def _times(run: Run, settings: Settings) -> dict[str, str]:
    """How often each event fires in this run, as far as it is known."""
    epochs, batches = settings.max_epochs, run.loaders.num_training_batches
    known: dict[str, Any] = dict.fromkeys(
        ("FIT_STARTED", "PRETRAIN_STARTED", "PRETRAIN_COMPLETED", "STARTED", "TRAINING_ENDED", "FIT_COMPLETED"), 1
    )
    known.update(COMPLETED=1)
    if settings.max_steps is not None:
        return {event: str(count) for event, count in known.items()}
    known.update(EPOCH_STARTED=epochs, EPOCH_COMPLETED=epochs)
    if batches and batches != INFINITE:
        for event in ("GET_BATCH_STARTED", "GET_BATCH_COMPLETED", "ITERATION_STARTED", "ITERATION_COMPLETED"):
            known[event] = int(batches) * epochs
    return {event: str(count) for event, count in known.items()}

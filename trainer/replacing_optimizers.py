"""Put other optimizers or schedulers into a run: ``trainer.optimizers = [...]`` in a hook."""

from collections.abc import Callable, Sequence
from typing import Any

from leyden.dev_debugger import watched_step
from leyden.engine.errors import MisconfiguredValue
from leyden.engine.notice import warn
from leyden.handlers.hooks import accepted
from leyden.handlers.schedulers import LRSchedulers
from leyden.module import LightningModule
from leyden.optimizers import check_optimizers, scheduler_entry
from leyden.overrides import overrides

__all__ = ["schedule", "use_optimizers", "use_schedulers"]


def use_optimizers(run: Any, optimizers: Sequence[Any]) -> None:
    """Step these from the next step on.

    Raises:
        MisconfigurationException: for what is no optimizer, and for another number of them while
            training runs: the steps of the module were made for as many as there were.
    """
    found = list(optimizers)
    check_optimizers(found)
    there = len(run.parts.optimizers)
    if run.stage == "fit" and run.step is not None and len(found) != there:
        raise MisconfiguredValue(
            f"trainer.optimizers = {len(found)} optimizers, where training runs with {there}: "
            "replace each by one, or change the number between two calls of fit"
        )
    run.parts.optimizers = run.state.optimizers = found
    if run.step is not None:
        if run.precision.active and run.model is not None:
            run.prepare_precision(found, fresh=True)
        run.step.optimizers = found
        run.step.prepare(run.engine)


def use_schedulers(run: Any, schedulers: Sequence[Any]) -> None:
    """Step these from now on: schedulers, or dicts with ``scheduler``, ``interval`` and so on."""
    run.parts.schedulers = [scheduler_entry(item) for item in schedulers]
    if run.step is not None:
        before = run.schedulers
        schedule(run)
        if before is not None and run.schedulers is not None:
            run.schedulers.load_state_dict(before.state_dict())


def schedule(run: Any) -> None:
    """Attach the handler that steps the run's schedulers, in place of an earlier one."""
    if run.schedulers is not None:
        run.handlers.remove(run.schedulers)
        run.schedulers = None
    if run.parts.schedulers:
        run.schedulers = LRSchedulers(
            run.parts.schedulers,
            lambda: run.recorder.callback_metrics,
            evaluator=run.evaluators["validate"],
            warn=lambda message: warn(message, RuntimeWarning),
            validates=lambda: run.validates,
            step_by=watched_step(run, _own_scheduler_step(run)),
        )
        run.handlers.add(run.schedulers, origin="configure_optimizers")


def _own_scheduler_step(run: Any) -> Callable[[Any, Any], Any] | None:
    """The module's ``lr_scheduler_step``, if it has one of its own."""
    if not overrides(run.model, "lr_scheduler_step", LightningModule):
        return None
    own = run.model.lr_scheduler_step
    if accepted(own, 0) == 2:  # Lightning 2.x dropped the number of the optimizer
        return lambda scheduler, metric: own(scheduler, metric)

    def step(scheduler: Any, metric: Any) -> None:
        optimizer = getattr(scheduler, "optimizer", None)
        at = (i for i, known in enumerate(run.parts.optimizers) if known is optimizer)
        own(scheduler, next(at, 0), metric)

    return step

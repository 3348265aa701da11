"""From what ``configure_optimizers`` returns to optimizers, schedulers and frequencies."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from leyden.engine.errors import MisconfigurationException, ReportedValue
from leyden.engine.notice import warn
from leyden.engine.optimizer_proxy import OptimizerProxy

__all__ = ["IdleOptimizer", "OptimizerSet", "check_optimizers", "configured", "scheduler_entry"]

SCHEDULER_DEFAULTS: dict[str, Any] = {
    "scheduler": None,
    "name": None,
    "interval": "epoch",
    "frequency": 1,
    "reduce_on_plateau": False,
    "monitor": None,
    "strict": True,
}
FORMS = (
    "an optimizer; a list of optimizers; two lists, optimizers and schedulers; a dict with "
    "'optimizer' and maybe 'lr_scheduler' and 'monitor'; a list of such dicts, maybe with "
    "'frequency'; or None"
)


@dataclass
class OptimizerSet:
    """What a run steps.

    Attributes:
        optimizers: in the order of their indices.
        schedulers: dicts with the keys of ``SCHEDULER_DEFAULTS``.
        frequencies: batches in a row for each optimizer; empty: all on every batch.
    """

    optimizers: list[Any] = field(default_factory=list)
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    frequencies: list[int] = field(default_factory=list)


class IdleOptimizer(Optimizer):
    """Steps nothing: what a run has whose ``configure_optimizers`` returned None."""

    def __init__(self) -> None:
        super().__init__([nn.Parameter(Tensor(0))], {})

    def step(self, closure: Any = None) -> Any:
        """Evaluate the closure, if there is one."""
        return None if closure is None else closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """There is nothing to clear."""

    def __repr__(self) -> str:
        return "IdleOptimizer()"


def configured(returned: Any) -> OptimizerSet:
    """Read what ``configure_optimizers`` returned.

    Raises:
        MisconfigurationException: for a form that is not one of those of Lightning 1.1, or a
            scheduler whose optimizer was not returned.
    """
    found = _read(returned)
    # One that the user wrapped is wrapped again, with the run behind it.
    found.optimizers = [_plain(optimizer) for optimizer in found.optimizers]
    for entry in found.schedulers:
        scheduled = _plain(getattr(entry["scheduler"], "optimizer", None))
        if isinstance(scheduled, Optimizer) and not any(
            scheduled is optimizer for optimizer in found.optimizers
        ):
            raise MisconfigurationException(
                f"configure_optimizers gave a {type(entry['scheduler']).__name__} of an optimizer "
                f"({type(scheduled).__name__}) that it did not return: the scheduler is "
                # Spelled as 1.1.8 does, for code that looks for these words.
                "attatched with an optimizer that wasn't returned, and the rate of what trains "
                "would never change; make it with the very optimizer that is returned"
            )
    return found


def _plain(optimizer: Any) -> Any:
    return optimizer.optimizer if isinstance(optimizer, OptimizerProxy) else optimizer


def _read(returned: Any) -> OptimizerSet:
    if returned is None:
        warn(
            "configure_optimizers returned None: this run will run with no optimizer, no parameter "
            "will change",
            UserWarning,
        )
        return OptimizerSet([IdleOptimizer()])
    if isinstance(returned, Optimizer):
        return OptimizerSet([returned])
    if isinstance(returned, dict):
        return _from_dicts([returned])
    if isinstance(returned, (list, tuple)) and returned:
        if len(returned) == 2 and isinstance(returned[0], (list, tuple)):
            optimizers, schedulers = list(returned[0]), returned[1]
            entries = list(schedulers) if isinstance(schedulers, (list, tuple)) else [schedulers]
            check_optimizers(optimizers)
            return OptimizerSet(optimizers, [scheduler_entry(item) for item in entries])
        if all(isinstance(item, dict) for item in returned):
            return _from_dicts(returned)
        if all(isinstance(item, Optimizer) for item in returned):
            return OptimizerSet(list(returned))
    raise MisconfigurationException(
        "Unknown configuration for model optimizers: configure_optimizers returned "
        f"{returned!r} ({type(returned).__name__}): return {FORMS}"
    )


def _from_dicts(entries: Sequence[dict[str, Any]]) -> OptimizerSet:
    found = OptimizerSet()
    for entry in entries:
        allowed = "it may hold 'optimizer', 'lr_scheduler', 'monitor' and 'frequency'"
        unknown = sorted(set(entry) - {"optimizer", "lr_scheduler", "monitor", "frequency"})
        if "optimizer" not in entry:
            raise MisconfigurationException(
                "a dict that configure_optimizers returned has no 'optimizer', but "
                f"{sorted(entry)}: {allowed}"
            )
        if unknown:
            warn(
                f"a dict that configure_optimizers returned has the unknown keys {unknown}, which "
                f"are ignored: {allowed}; what is for a scheduler belongs into the dict under "
                "'lr_scheduler'",
                RuntimeWarning,
            )
        found.optimizers.append(entry["optimizer"])
        scheduler = entry.get("lr_scheduler")
        if scheduler is not None:
            found.schedulers.append(scheduler_entry(scheduler, entry.get("monitor")))
    check_optimizers(found.optimizers)
    frequencies = [entry.get("frequency") for entry in entries]
    given = [value for value in frequencies if value is not None]
    if given and len(given) != len(entries):
        raise ReportedValue(
            f"configure_optimizers gave a 'frequency' for {len(given)} of {len(entries)} "
            "optimizers: give it for all of them or for none"
        )
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise MisconfigurationException(
                f"the optimizer frequency {value!r} is no number of batches: pass an int, 1 or more"
            )
    found.frequencies = given if len(given) > 1 else []
    return found


def check_optimizers(optimizers: Sequence[Any]) -> None:
    """Refuse what is no optimizer."""
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise MisconfigurationException(
                f"configure_optimizers gave {optimizer!r} ({type(optimizer).__name__}) as an "
                f"optimizer: return {FORMS}"
            )


def scheduler_entry(scheduler: Any, monitor: str | None = None) -> dict[str, Any]:
    """One scheduler with all the keys of Lightning's dict."""
    if isinstance(scheduler, dict):
        unknown = [key for key in scheduler if key not in SCHEDULER_DEFAULTS]
        if unknown:
            warn(
                f"Found unsupported keys in the lr scheduler dict: {unknown} are ignored, "
                f"it may hold {sorted(SCHEDULER_DEFAULTS)}",
                RuntimeWarning,
            )
        if scheduler.get("scheduler") is None:
            raise MisconfigurationException(
                f'The lr scheduler dict must have the key "scheduler", with the scheduler under '
                f"it; this is {scheduler!r}"
            )
        entry = {**SCHEDULER_DEFAULTS, **scheduler}
    else:
        entry = {**SCHEDULER_DEFAULTS, "scheduler": scheduler}
    if monitor is not None and entry["monitor"] is None:
        entry["monitor"] = monitor
    inner = entry["scheduler"]
    if not callable(getattr(inner, "step", None)):
        raise MisconfigurationException(
            f"configure_optimizers gave {inner!r} ({type(inner).__name__}) as a scheduler, "
            "which has no step(): return one of torch.optim.lr_scheduler, or an object with step()"
        )
    if entry["interval"] not in ("epoch", "step"):
        raise MisconfigurationException(
            f"interval={entry['interval']!r} of a scheduler: use 'epoch' or 'step'"
        )
    frequency = entry["frequency"]
    if isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1:
        raise MisconfigurationException(
            f"frequency={frequency!r} of a scheduler: pass an int, 1 or more"
        )
    if isinstance(inner, ReduceLROnPlateau):
        entry["reduce_on_plateau"] = True
    if entry["reduce_on_plateau"] and entry["monitor"] is None:
        raise MisconfigurationException(
            "`configure_optimizers` must include a monitor when a `ReduceLROnPlateau` scheduler is "
            "used, the name of the metric that it watches: return "
            "{'optimizer': optimizer, 'lr_scheduler': scheduler, 'monitor': 'val_loss'}"
        )
    return entry

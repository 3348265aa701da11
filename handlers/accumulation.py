"""Add up the gradients of several batches before each optimizer step."""

from collections.abc import Mapping
from typing import Any

from leyden.engine import Engine, Events
from leyden.handlers.base import Handler

__all__ = ["GradientAccumulation", "factor_at"]


class GradientAccumulation(Handler):
    """Sets how many batches make one optimizer step, from the epoch in which it changes.

    The loss is divided by the factor. The last batch of an epoch always steps, so an incomplete
    group at its end is divided by the full factor as well.

    Args:
        factor: batches to a step, 1 or more; or ``{epoch: factor}`` with 0-based epochs, each
            factor in force from its epoch on (1 before the first).

    Raises:
        TypeError, ValueError: for anything else.

    Runs on: EPOCH_STARTED, before the hooks; writes ``state.accumulate_grad_batches``, which
    :class:`leyden.engine.TrainingStep` (or a hand-written step) reads.

    Source: ``accumulate_grad_batches`` of PyTorch Lightning 1.1.
    """

    order = 5.0
    order_reason = "before the hooks: they may look at the factor"

    def __init__(self, factor: int | Mapping[int, int]) -> None:
        super().__init__()
        self.factor = factor
        self.schedule = _schedule(factor)

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.EPOCH_STARTED, self.set_factor)

    def set_factor(self, engine: Engine) -> None:
        """Write the factor of the epoch that begins."""
        state: Any = engine.state
        state.accumulate_grad_batches = factor_at(self.schedule, state.epoch - 1)


def factor_at(schedule: Mapping[int, int], epoch: int) -> int:
    """The factor in force in the 0-based ``epoch``."""
    begun = [start for start in schedule if start <= epoch]
    return schedule[max(begun)] if begun else 1


def _schedule(factor: int | Mapping[int, int]) -> dict[int, int]:
    schedule = dict(factor) if isinstance(factor, Mapping) else {0: factor}
    if not schedule:
        raise ValueError("factor={} is empty: pass an int, or {epoch: batches}, e.g. {0: 1, 4: 8}")
    for epoch, batches in schedule.items():
        for name, value, least in (("epoch", epoch, 0), ("factor", batches, 1)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"factor={factor!r}: the {name} {value!r} is not an int")
            if value < least:
                raise ValueError(f"factor={factor!r}: the {name} {value} is below {least}")
    return schedule

"""Changes the number of batches whose gradients make up one optimizer step, by epoch."""

from typing import Any, ClassVar

from leyden.engine import Engine, Events
from leyden.engine.errors import ReportedIndex, ReportedType
from leyden.handlers.accumulation import factor_at
from leyden.handlers.callback import Callback

__all__ = ["GradientAccumulationScheduler"]


class GradientAccumulationScheduler(Callback):
    """Accumulate the gradients of ``scheduling[epoch]`` batches from that epoch (0-based) on.

    Runs on: EPOCH_STARTED, before the hooks; writes ``state.accumulate_grad_batches``, after and so
    in place of :class:`leyden.handlers.accumulation.GradientAccumulation`, which is the argument of
    the Trainer.

    State: none, the epoch decides.

    Source: Lightning 1.1.

    Args:
        scheduling: number of batches by first epoch; before the first one named it is 1.

    Example:
        >>> from leyden.handlers.accumulation import factor_at
        >>> scheduler = GradientAccumulationScheduler({4: 2, 8: 4})
        >>> [factor_at(scheduler.scheduling, epoch) for epoch in (0, 4, 7, 8)]
        [1, 2, 2, 4]
    """

    order: ClassVar[float] = 6.0
    order_reason: ClassVar[str] = (
        "after the Trainer's own factor (5), before the hooks that look at it"
    )
    state_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self, scheduling: dict[int, int]) -> None:
        super().__init__()
        name = f"GradientAccumulationScheduler(scheduling={scheduling!r})"
        if not isinstance(scheduling, dict) or not scheduling:
            raise ReportedType(f"{name} is no dict with entries: pass {{epoch: number of batches}}")
        for epoch, factor in scheduling.items():
            if not _whole(epoch) or not _whole(factor):
                raise ReportedType(
                    f"{name} has the entry {epoch!r}: {factor!r}: epochs and numbers of batches "
                    "are ints"
                )
            if epoch < 0:
                raise ReportedIndex(f"{name} has the epoch {epoch}: epochs count from 0")
            if factor < 1:
                raise ReportedIndex(f"{name} has the number of batches {factor}: pass 1 or more")
        self.scheduling = {0: 1, **scheduling}
        self.epochs = sorted(self.scheduling)

    def going_to_accumulate_grad_batches(self) -> bool:
        """Whether gradients are accumulated in any epoch."""
        return any(factor > 1 for factor in self.scheduling.values())

    def attach(self, engine: Engine) -> None:
        """Listen at the starts of training epochs."""
        super().attach(engine)
        if getattr(engine.state, "stage", "train") == "train":
            self.listen(engine, Events.EPOCH_STARTED, self._set_factor)

    def _set_factor(self, engine: Engine) -> None:
        state: Any = engine.state
        state.accumulate_grad_batches = factor_at(self.scheduling, state.epoch - 1)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

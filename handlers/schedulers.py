"""Step learning-rate schedulers: after batches, after epochs, on a metric."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.handlers.base import Handler, Order

__all__ = ["LRSchedulers"]


class LRSchedulers(Handler):
    """Steps schedulers, each by its own interval, frequency and monitor.

    Args:
        schedulers: dicts with ``scheduler``, ``interval`` (``"epoch"`` or ``"step"``),
            ``frequency``, ``reduce_on_plateau``, ``monitor``, ``strict``, ``name``.
        metrics: gives the metrics that a monitor is looked up in.
        evaluator: the validation engine. Epoch schedulers step inside the validation that ends an
            epoch, after its metrics and before ``on_validation_end``, where checkpoints read the
            new rate.
        warn: called with a message when a loose monitor is missing.
        validates: whether the run validates at all. ReduceLROnPlateau then waits for an epoch that
            does: in the others its metric is an old one, or not there yet.
        step_by: steps a scheduler, given it and the metric (None without a monitor), in place of
            its own ``step``.

    Runs on: ITERATION_COMPLETED where a group of batches is complete (interval "step", if the
    batch's number in the epoch is a multiple of the frequency); the evaluator's EPOCH_COMPLETED,
    else EPOCH_COMPLETED.

    State: the epochs of the last step and of the last validation.

    Source: PyTorch Lightning 1.1; differently, epoch schedulers step in every epoch, also where it
    does not validate; ReduceLROnPlateau as in 1.1.
    """

    order = Order.SCHEDULERS
    order_reason = "after validation (35): ReduceLROnPlateau reads its metrics"
    state_keys = ("stepped_in", "validated_in")

    def __init__(
        self,
        schedulers: Sequence[dict[str, Any]],
        metrics: Callable[[], Mapping[str, Any]],
        *,
        evaluator: Engine | None = None,
        warn: Callable[[str], Any] | None = None,
        validates: Callable[[], bool] | None = None,
        step_by: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        super().__init__()
        self.schedulers = list(schedulers)
        self.metrics = metrics
        self.evaluator = evaluator
        self.warn = warn
        self.validates = validates
        self.step_by = step_by
        self.stepped_in = -1
        self.validated_in = -1
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        intervals = {entry["interval"] for entry in self.schedulers}
        if "step" in intervals:
            self.listen(engine, Events.ITERATION_COMPLETED, self.after_batch)
        if "epoch" in intervals:
            self.listen(engine, Events.EPOCH_COMPLETED, self.after_epoch)
            if self.validates is not None:
                self.listen(engine, TrainerEvents.VALIDATION_STARTED, self.note_validation)
            if self.evaluator is not None:
                self.listen(self.evaluator, Events.EPOCH_COMPLETED, self.in_validation)

    def after_batch(self, engine: Engine) -> None:
        """Step what goes by batches, where the optimizer stepped."""
        state: Any = engine.state
        if state.closed_at == state.iteration:
            self.step("step", state.batch_idx)

    def note_validation(self, engine: Engine) -> None:
        """This epoch validates: a metric that is watched is a new one."""
        self.validated_in = engine.state.epoch

    def in_validation(self, evaluator: Engine) -> None:
        """Step what goes by epochs, inside the validation that ends one."""
        state: Any = evaluator.state
        if state.on_epoch and self._engine is not None:
            self.after_epoch(self._engine)

    def after_epoch(self, engine: Engine) -> None:
        """Step what goes by epochs, once an epoch."""
        state: Any = engine.state
        if self.stepped_in != state.epoch:
            self.stepped_in = state.epoch
            self.step("epoch", state.epoch - 1)

    def _metric_is_old(self, epoch: int) -> bool:
        return self.validates is not None and self.validates() and self.validated_in != epoch

    def _step(self, entry: dict[str, Any], *metric: Any) -> None:
        if self.step_by is None:
            entry["scheduler"].step(*metric)
        else:
            self.step_by(entry["scheduler"], *(metric or (None,)))

    def step(self, interval: str, index: int) -> None:
        """Step the schedulers of ``interval`` whose frequency divides ``index + 1``."""
        for entry in self.schedulers:
            if entry["interval"] != interval or (index + 1) % entry["frequency"]:
                continue
            if not entry["reduce_on_plateau"]:
                self._step(entry)
                continue
            if interval == "epoch" and self._metric_is_old(index + 1):
                continue
            metrics, monitor = self.metrics(), entry["monitor"]
            if monitor in metrics:
                self._step(entry, metrics[monitor])
            elif entry.get("strict", True):
                raise MisconfigurationException(
                    f"ReduceLROnPlateau conditioned on metric {monitor!r} which is not available. "
                    f"Available metrics are: {sorted(metrics)}. Log it with self.log({monitor!r}, "
                    "...), or set 'strict': False"
                )
            elif self.warn is not None:
                self.warn(
                    f"ReduceLROnPlateau skips a step: {monitor!r} is not among {sorted(metrics)}"
                )

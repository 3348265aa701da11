"""Run an evaluation in the middle or at the end of training epochs."""

from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers.base import Handler, Order

__all__ = ["Validation"]


class Validation(Handler):
    """Calls ``run`` whenever validation is due.

    Args:
        run: performs one validation, called as ``run(on_epoch)``: True at the end of an epoch.
        every_n_batches: within an epoch, counted from its start; None: only at its end. Infinity:
            at the end of data whose length nobody knows.
        every_n_epochs: only in every n-th epoch.
        stopping: says whether the run was asked to stop; an epoch cut short still validates.
        wanted: whether this run validates at all; None: yes.

    Runs on: ITERATION_COMPLETED where it may be due inside an epoch, EPOCH_COMPLETED; fires
    VALIDATION_STARTED and VALIDATION_COMPLETED on the same engine.

    Source: ``val_check_interval`` and ``check_val_every_n_epoch`` of PyTorch Lightning 1.1.
    """

    order = Order.VALIDATION
    order_reason = "after the metrics of the batch (30), before everything that reads its results"

    def __init__(
        self,
        run: Callable[[bool], Any],
        *,
        every_n_batches: float | None = None,
        every_n_epochs: int = 1,
        stopping: Callable[[], bool] | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        for unit, value in (("batches", every_n_batches), ("epochs", every_n_epochs)):
            if value is not None and not value >= 1:
                raise ValueError(
                    f"every_n_{unit}={value!r} is below 1: it counts {unit} between validations"
                )
        self.run = run
        self.every_n_batches = every_n_batches
        self.every_n_epochs = every_n_epochs
        self.stopping = stopping
        self.wanted = wanted

    def attach(self, engine: Engine) -> None:
        state: Any = engine.state
        # As often as an epoch has batches is at its end, which after_epoch sees.
        ends = (None, float("inf"), getattr(state, "num_batches", None))
        if self.every_n_batches not in ends:
            self.listen(engine, Events.ITERATION_COMPLETED, self.after_batch)
        self.listen(engine, Events.EPOCH_COMPLETED, self.after_epoch)

    def after_batch(self, engine: Engine) -> None:
        """Validate inside an epoch; where it is due at the end, that is left to `after_epoch`."""
        state: Any = engine.state
        every = self.every_n_batches
        if (state.iteration - state.epoch_start) % every == 0 and every != state.num_batches:
            if state.epoch % self.every_n_epochs == 0:
                self._validate(engine, on_epoch=False)

    def after_epoch(self, engine: Engine) -> None:
        """Validate at the end of an epoch that is due, or that was cut short by a stop."""
        state: Any = engine.state
        if state.epoch % self.every_n_epochs:
            return
        whole = self.every_n_batches in (None, float("inf"), state.num_batches)
        complete = (
            state.iteration - state.epoch_start >= state.num_batches
            # Nobody knows how many batches there are: the data ended, unless somebody cut it.
            or (state.num_batches == float("inf") and not engine.should_terminate_single_epoch)
        )
        if (whole and complete) or (self.stopping is not None and self.stopping()):
            self._validate(engine, on_epoch=True)

    def _validate(self, engine: Engine, *, on_epoch: bool) -> None:
        if self.wanted is not None and not self.wanted():
            return
        started = engine.channel(TrainerEvents.VALIDATION_STARTED)
        if started.live:
            started.fire()
        self.run(on_epoch)
        completed = engine.channel(TrainerEvents.VALIDATION_COMPLETED)
        if completed.live:
            completed.fire()

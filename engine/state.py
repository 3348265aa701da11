"""The state of a training run: the one place that holds position and counters."""

from collections.abc import Mapping
from typing import Any, TypeVar

from leyden.engine.emitter import RunState
from leyden.engine.engine import Engine

__all__ = ["TrainState", "give_state"]


class TrainState(RunState):
    """ignite's ``State`` with what a training step adds. All others read it, nothing else counts.

    Written by the engine: ``epoch`` (1-based, moves before EPOCH_STARTED), ``iteration`` (1-based
    over the whole run, moves before ITERATION_STARTED), ``batch``, ``output``, ``epoch_length``,
    ``max_epochs``.

    Written by the training step:

    * ``optimizer_steps``: completed accumulation groups, 1-based; moves before
      OPTIMIZER_STEP_COMPLETED.
    * ``closed_at``: the iteration whose group is complete, until its batch is over; -1 otherwise.
    * ``loss``: what BACKWARD_STARTED listeners may look at, already divided by the accumulation
      factor.
    * ``optimizer``, ``optimizer_idx``, ``split_idx``: whose turn it is.
    * ``outputs``: what the steps of this batch returned, ``[optimizer][split]``, kept only where
      asked for.

    Written by the handler named: ``accumulate_grad_batches`` (GradientAccumulation),
    ``epoch_start`` (Position: the iteration before the first batch of this epoch), ``num_batches``
    (the loaders: batches in this epoch, infinity if unknown), ``should_stop`` (Stopping: a stop was
    asked for). Written by whoever assembles the run:
    ``model``, ``optimizers``, ``stage``, ``trainer`` and ``scope``.
    """

    def __init__(self, counters: Mapping[Any, str]) -> None:
        self.optimizer_steps = 0
        self.closed_at = -1
        self.epoch_start = 0
        self.num_batches: float = float("inf")
        self.accumulate_grad_batches = 1
        self.loss: Any = None
        self.model: Any = None
        self.optimizers: list[Any] = []
        self.optimizer: Any = None
        self.optimizer_idx = 0
        self.split_idx: int | None = None
        self.should_stop = False
        self.outputs: list[list[Any]] = []
        self.stage = "train"
        self.trainer: Any = None
        self.scope: Any = None
        self.saved_path: str | None = None  # of the last checkpoint, at CHECKPOINT_SAVED
        super().__init__(counters)

    @property
    def batch_idx(self) -> int:
        """0-based number of the batch in its epoch; between epochs that of the last batch."""
        return max(self.iteration - 1 - self.epoch_start, 0)

    @property
    def global_step(self) -> int:
        """Completed accumulation groups as Lightning counts: one behind until the batch is over."""
        return self.optimizer_steps - (self.closed_at == self.iteration)

    @property
    def coming_step(self) -> int:
        """The number of the optimizer step that is being made or comes next, 1-based."""
        return self.optimizer_steps + (self.closed_at != self.iteration)

    def close_group(self) -> None:
        """This batch completes a group; saying it twice counts once."""
        if self.closed_at != self.iteration:
            self.optimizer_steps += 1
            self.closed_at = self.iteration

    def settle(self) -> None:
        """The batch is over: ``global_step`` catches up with ``optimizer_steps``."""
        self.closed_at = -1


_State = TypeVar("_State", bound=TrainState)


def give_state(engine: Engine, kind: type[_State]) -> _State:
    """Replace the engine's fresh state by one of class ``kind``; attributes that were set stay."""
    old: Any = engine.state
    state = kind(old._counters)
    state.__dict__.update(old.__dict__)
    engine.state = state
    return state

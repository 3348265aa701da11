"""Processes with different numbers of batches: those that have run out stay in step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.uneven_feed import UnevenFeed
from leyden.handlers.base import Handler
from leyden.handlers.metric_stage import await_steps

__all__ = ["UnevenBatches"]


class UnevenBatches(Handler):
    """Tells the strategy which batches are none of this process, and leaves out what they are.

    A process that has run out of batches goes on with the others: it adds zeros to their gradients
    and makes the same optimizer steps, so weights, counters, validations and checkpoints are the
    same everywhere. Its batches log nothing and leave no outputs. Callbacks see each of them, with
    this process's last batch.

    Runs on: ITERATION_STARTED (first) and ITERATION_COMPLETED; GRADIENTS_READY where gradients are
    divided by the number of processes that brought some.

    State: none; the loader's position has the numbers of batches.

    Args:
        strategy: averages gradients over all processes.
        feed: gives the batches of the run.
        recorder: takes the values of ``self.log``.

    Source: ``torch.distributed.algorithms.Join``, where a process that has run out sends zeros and
    makes no steps, but is given the weights in the end.
    """

    order = 3.0
    order_reason = "before outputs are kept (4) and the hooks (10)"

    def __init__(
        self, strategy: Any, *, feed: Callable[[], UnevenFeed], recorder: Callable[[], Any]
    ) -> None:
        super().__init__()
        self.strategy = strategy
        self.feed = feed
        self.recorder = recorder

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.ITERATION_STARTED, self.begin, order=-10_000)
        self.listen(engine, Events.ITERATION_COMPLETED, self.leave_out)
        self.listen(engine, Events.ITERATION_COMPLETED, self.await_values, order=29.9)
        if not self.strategy.divide_by_initial_world_size:
            self.listen(engine, TrainerEvents.GRADIENTS_READY, self.divide, order=5)

    def begin(self, engine: Engine) -> None:
        """See whether this batch is one of ours."""
        self.strategy.uneven.over = self.feed().over(_position(engine))

    def divide(self, engine: Engine) -> None:
        """They are divided by the number of all processes: leave out those without a batch."""
        state: Any = engine.state
        position = _position(engine)
        first = position - (position - 1) % state.accumulate_grad_batches  # of the group
        brought = len(self.feed().with_batch(first))
        if brought == self.strategy.world_size:
            return
        factor = self.strategy.world_size / brought
        for group in state.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def leave_out(self, engine: Engine) -> None:
        """The step is done: buffers come from a process that had a batch, outputs from no other."""
        there = self.feed().with_batch(_position(engine))
        if there[0] != 0:  # before each batch torch gives all the buffers of the first process
            self.strategy.share_buffers(there[0])
        if self.strategy.uneven.over:
            state: Any = engine.state
            state.output = None
            state.outputs = [[] for _ in state.outputs]

    def await_values(self, engine: Engine) -> None:
        """A row that is due needs the values of the others, though there is none of ours."""
        if not self.strategy.uneven.over:
            return
        state: Any = engine.state
        recorder = self.recorder()
        every = recorder.log_every_n_steps
        due = state.closed_at == state.iteration and (
            (every > 0 and state.optimizer_steps % every == 0)
            or state.should_stop
            or recorder.fast_dev_run
        )
        if due and await_steps(recorder._train):
            recorder.busy = True


def _position(engine: Engine) -> int:
    """The number of the batch at hand in its epoch, from 1."""
    state: Any = engine.state
    return int(state.iteration - state.epoch_start)

"""The mean loss of the last steps, for people who watch."""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from leyden.engine import Engine, Events
from leyden.handlers.base import Handler

__all__ = ["RunningLoss"]


class RunningLoss(Handler):
    """Keeps the losses of the last optimizer steps; nothing is read from the device.

    Args:
        window: optimizer steps.

    Runs on: ITERATION_COMPLETED.

    State: ``losses``, and ``group``, the losses of an accumulation group that is not complete.

    Source: the loss on the progress bar of PyTorch Lightning 1.1: over 20 steps, not divided by the
    accumulation factor.
    """

    order = 5.0
    order_reason = "before the hooks (10): a progress bar is drawn in one"
    state_keys = ("losses", "group")
    one_rank = True  # where a bar is drawn

    def __init__(self, window: int = 20) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window={window} is below 1: it counts optimizer steps")
        self.window = window
        self._steps: deque[Tensor] = deque(maxlen=window)
        self.group: list[Tensor] = []

    @property
    def losses(self) -> list[Tensor]:
        """The losses of the window, oldest first."""
        return list(self._steps)

    @losses.setter
    def losses(self, value: list[Tensor]) -> None:
        self._steps = deque(value, maxlen=self.window)

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.ITERATION_COMPLETED, self.keep)

    def keep(self, engine: Engine) -> None:
        """Take the loss of this batch; a group of batches counts with its mean."""
        state: Any = engine.state
        if state.loss is None:
            return
        # .data is detach() that does not share the version: a third faster.
        loss, group, factor = state.loss.data, self.group, state.accumulate_grad_batches
        if factor == 1 and not group:
            self._steps.append(loss)
            return
        group.append(loss)
        if state.closed_at == state.iteration:
            self._steps.append(_mean(group, factor))
            self.group = []

    def start(self, engine: Engine) -> None:
        """Begin in the middle of a run: the batch that ran last stands for its group."""
        self.keep(engine)
        state: Any = engine.state
        if self.group and not self._steps and state.optimizer_steps:
            self._steps.append(_mean(self.group, state.accumulate_grad_batches))

    def mean(self) -> Tensor | None:
        """The mean over the window, a tensor on its device.

        None before the first batch, NaN before the first step.
        """
        if self._steps:
            return torch.stack(list(self._steps)).mean()
        return torch.tensor(float("nan")) if self.group else None


def _mean(group: list[Tensor], factor: int) -> Tensor:
    # One loss alone needs no stack; times 1 would be a kernel for nothing.
    if len(group) == 1:
        return group[0] if factor == 1 else group[0] * factor
    return torch.stack(group).mean() * factor

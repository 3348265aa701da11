"""End a run at the first NaN or infinity, and say where it is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from leyden.engine import Engine, TrainerEvents
from leyden.handlers.base import Handler

__all__ = ["NanTermination", "first_bad"]


class NanTermination(Handler):
    """Raises ``ValueError`` when the loss or a parameter stops being finite.

    Runs on: GRADIENTS_READY, after clipping and the hooks. One number leaves the device for each
    optimizer step, which is a host sync: a run that asks for this check wants to stop before the
    bad step is made.

    Args:
        agree: whether any of the processes says True; with it all of them end at the same step.

    Source: ``terminate_on_nan`` of PyTorch Lightning 1.1.
    """

    order = 40.0
    order_reason = "after clipping (20) and hooks (30): it sees what the optimizer will use"

    def __init__(self, agree: Callable[[bool], bool] | None = None) -> None:
        super().__init__()
        self.agree = agree

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.GRADIENTS_READY, self.check)

    def check(self, engine: Engine) -> None:
        """Look at the loss and all parameters at once; look closer only if something is wrong."""
        state: Any = engine.state
        loss, model = state.loss, state.model
        parameters = list(model.parameters()) if model is not None else []
        where = None
        with torch.no_grad():
            # A sum is finite only if its terms are, but it may overflow: the closer look decides.
            sums = [parameter.sum() for parameter in parameters]
            if loss is not None:
                sums.append(loss.detach().sum())
            if sums and not torch.isfinite(torch.stack([s.float() for s in sums]).sum()):
                where = first_bad(loss, model)
        if self.agree is not None and self.agree(where is not None) and where is None:
            where = "the loss of another process is NaN or infinite"
        if where is not None:
            error = ValueError(
                f"{where} at epoch {state.epoch - 1}, batch {state.batch_idx} (optimizer step "
                f"{state.optimizer_steps}): lower the learning rate, clip the gradients, or look "
                "for bad input"
            )
            error.on_all_ranks = self.agree is not None  # type: ignore[attr-defined]
            raise error


def first_bad(loss: Tensor | None, model: Any) -> str | None:
    """What is not finite: the loss, or the first such parameter by name; None if all is well."""
    if loss is not None and not bool(torch.isfinite(loss).all()):
        value = loss.detach().cpu().tolist()
        return f"The loss returned in `training_step` is nan or inf: the loss is {value}"
    for name, parameter in [] if model is None else model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return (
                f"Detected nan and/or inf values in `{name}`: the parameter {name!r} holds NaN or "
                "infinity"
            )
    return None

"""Track the norm of the gradients, of each parameter and in total."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from leyden.engine import Engine, TrainerEvents
from leyden.handlers.base import Handler

__all__ = ["GradientNorm", "gradient_norms"]


class GradientNorm(Handler):
    """Measures the gradients' p-norm before they are clipped, on the steps that will be written.

    Args:
        p: p of the norm, or ``"inf"``.
        report: called with the dict of norms (0-dim tensors, by name), once an optimizer step that
            is due.
        due: whether the norms of this step will be written; None: always.
        measure: called with ``p`` instead of the default: a module's own ``grad_norm``.

    Runs on: GRADIENTS_READY, first. No host sync: the norms stay tensors.

    Source: ``track_grad_norm`` of PyTorch Lightning 1.1, with its names of the norms.
    """

    order = 10.0
    order_reason = "before clipping (20): it shows the raw norm"

    def __init__(
        self,
        p: float | str,
        report: Callable[[dict[str, Any]], None],
        *,
        due: Callable[[], bool] | None = None,
        measure: Callable[[float | str], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.p = p
        self.report = report
        self.due = due
        self.measure = measure

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.GRADIENTS_READY, self.track)

    def track(self, engine: Engine) -> None:
        """Measure and hand on the norms."""
        if self.due is None or self.due():
            state: Any = engine.state
            if self.measure is not None:
                self.report(self.measure(self.p))
            else:
                self.report(gradient_norms(state.model.named_parameters(), self.p))


def gradient_norms(
    named_parameters: Iterable[tuple[str, Tensor]], p: float | str
) -> dict[str, Tensor]:
    """Norms of the gradients there are: ``grad_{p}_norm_{parameter}``, ``grad_{p}_norm_total``."""
    order = float(p)
    norms = {
        f"grad_{p}_norm_{name}": torch.linalg.vector_norm(parameter.grad, order)
        for name, parameter in named_parameters
        if parameter.grad is not None
    }
    if norms:
        every = torch.stack(list(norms.values()))
        norms[f"grad_{p}_norm_total"] = torch.linalg.vector_norm(every, order)
    return norms

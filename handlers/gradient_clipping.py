"""Clip gradients before each optimizer step, by norm or by value."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from leyden.engine import Engine, TrainerEvents
from leyden.handlers.base import Handler

__all__ = ["GradientClipping", "clip_gradients"]

ALGORITHMS = ("norm", "value")


class GradientClipping(Handler):
    """Limits the gradients of all parameters together (norm) or each element alone (value).

    Args:
        limit: the largest norm, or the largest absolute value; above 0.
        algorithm: ``"norm"`` or ``"value"``.
        norm_type: p of the norm, ``float("inf")`` for the largest element; unused by ``"value"``.
        parameters: whose gradients; None: those of ``engine.state.model``, all of them whichever
            optimizer steps (as Lightning 1.1), or those of the optimizer at hand where there is no
            model.

    Attributes:
        clip_by: where it is set, called instead, with ``(optimizer, optimizer_idx, limit,
            algorithm)``: a module's own ``configure_gradient_clipping``.

    Runs on: GRADIENTS_READY, after the norm is tracked, before ``on_after_backward``; no host sync.

    Source: ``gradient_clip_val`` of PyTorch Lightning 1.1; ``algorithm`` came with 1.3.
    """

    order = 20.0
    order_reason = (
        "after norm tracking (10), which shows the raw norm; before the hooks (30), as in Lightning"
    )

    def __init__(
        self,
        limit: float,
        *,
        algorithm: str = "norm",
        norm_type: float = 2.0,
        parameters: Iterable[Tensor] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(limit, bool) or not isinstance(limit, (int, float)):
            raise TypeError(f"limit={limit!r} is not a number: pass a norm or value above 0")
        if not limit > 0:
            raise ValueError(
                f"limit={limit} is not above 0: attach no GradientClipping to switch it off"
            )
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm={algorithm!r} is not known: choose 'norm' or 'value'")
        self.limit = limit
        self.algorithm = algorithm
        self.norm_type = norm_type
        self.parameters = None if parameters is None else list(parameters)
        self.clip_by: Callable[[Any, int, float, str], Any] | None = None

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.GRADIENTS_READY, self.clip)

    def clip(self, engine: Engine) -> None:
        """Clip what the next optimizer step will use."""
        state: Any = engine.state
        if self.clip_by is not None:
            self.clip_by(state.optimizer, state.optimizer_idx, self.limit, self.algorithm)
        else:
            self.clip_all(state, self.limit, self.algorithm)

    def clip_all(self, state: Any, limit: float, algorithm: str) -> None:
        """Clip the gradients that this handler is for."""
        clip_gradients(self._parameters(state), limit, algorithm, self.norm_type)

    def _parameters(self, state: Any) -> Iterable[Tensor]:
        if self.parameters is not None:
            return self.parameters
        model = getattr(state, "model", None)
        if model is not None:
            return model.parameters()  # type: ignore[no-any-return]
        return [p for group in state.optimizer.param_groups for p in group["params"]]


def clip_gradients(
    parameters: Iterable[Tensor], limit: float, algorithm: str = "norm", norm_type: float = 2.0
) -> None:
    """Change the gradients in place: their joint norm, or each value, is at most ``limit``."""
    if algorithm == "norm":
        torch.nn.utils.clip_grad_norm_(parameters, limit, norm_type=norm_type)
    else:
        torch.nn.utils.clip_grad_value_(parameters, limit)

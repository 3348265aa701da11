"""The whole model in one format: float64, or a 16-bit one."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from leyden.backends.precision.base import Kind, Precision
from leyden.backends.precision.casting import cast
from leyden.engine.notice import warn

__all__ = ["TruePrecision", "default_dtype", "warn_of_small_eps"]


class TruePrecision(Precision):
    """Weights, gradients, optimizer and computation in one format.

    The model is converted when a run begins, and stays so. Batches are converted as they enter a
    step, and tensors that a step makes (``torch.zeros(3)``) are of the format too.

    Args:
        dtype: ``torch.float64``, ``torch.float16`` or ``torch.bfloat16``.

    State: none; weights and optimizers are saved in the format.
    """

    active: ClassVar[bool] = True

    def __init__(self, dtype: torch.dtype) -> None:
        names = {torch.float64: "64-true", torch.float16: "16-true", torch.bfloat16: "bf16-true"}
        if dtype not in names:
            raise ValueError(f"dtype={dtype} is not known here: pass one of {list(names)}")
        super().__init__(names[dtype])
        self.dtype = dtype

    def prepare(
        self, model: nn.Module, optimizers: Sequence[Optimizer] = (), *, fresh: bool = True
    ) -> None:
        model.to(self.dtype)
        if self.dtype is torch.float16:
            warn_of_small_eps(self.name, optimizers)

    def around(self, step: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        @functools.wraps(step)
        def run(batch: Any, *args: Any, **kwargs: Any) -> Any:
            with default_dtype(self.dtype):
                return step(cast(batch, self.dtype), *args, **kwargs)

        return run


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within the block new floating-point tensors are of ``dtype``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def warn_of_small_eps(name: str, optimizers: Sequence[Optimizer]) -> None:
    """Warn where an optimizer divides by something that is 0 in float16: NaN after one step."""

    for optimizer in optimizers:
        for group in optimizer.param_groups:
            eps = group.get("eps")
            if isinstance(eps, float) and eps > 0 and float(torch.tensor(eps).half()) == 0.0:
                warn(
                    f"{type(optimizer).__name__} with eps={eps} and precision={name!r}: eps is 0 "
                    "in float16, weights whose gradient is 0 become NaN at the first step. Set "
                    "eps=1e-4, or keep float32 weights (precision='16-mixed', amp_level='O2')",
                    UserWarning,
                )
                break

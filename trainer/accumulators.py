"""A running window of numbers, as Lightning 1.1 had it."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["TensorRunningAccum"]


class TensorRunningAccum:
    """The last ``window_length`` numbers, kept as tensors where they are.

    Example:
        >>> accumulated = TensorRunningAccum(2)
        >>> for value in (1.0, 2.0, 4.0):
        ...     accumulated.append(torch.tensor(value))
        >>> accumulated.mean(), accumulated.last()
        (tensor(3.), tensor(4.))
    """

    def __init__(self, window_length: int) -> None:
        self.window_length = window_length
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._values: list[Tensor] = []

    def append(self, value: Tensor) -> None:
        """Take one number; the oldest goes where the window is full."""
        self._values = [*self._values[-self.window_length + 1 :], value.detach()]

    def last(self) -> Tensor | None:
        """The newest number."""
        return self._values[-1] if self._values else None

    def mean(self) -> Tensor | None:
        """The mean of the window."""
        return self._over(torch.mean)

    def max(self) -> Tensor | None:
        """The largest number of the window."""
        return self._over(torch.max)

    def min(self) -> Tensor | None:
        """The smallest number of the window."""
        return self._over(torch.min)

    def _over(self, function: Callable[[Tensor], Tensor]) -> Tensor | None:
        return function(torch.stack(self._values)) if self._values else None

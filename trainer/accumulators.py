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
        self._count = 0

    def append(self, value: Tensor) -> None:
        """Take one number; the oldest goes where the window is full."""
        kept = self.window_length - 1
        self._values = [*(self._values[-kept:] if kept else ()), value.detach()]
        self._count += 1

    @property
    def memory(self) -> Tensor | None:
        """The window, each number in its place, 0 where none came yet; None before the first."""
        if not self._values:
            return None
        held = torch.zeros(self.window_length, dtype=self._values[0].dtype)
        held = held.to(self._values[0].device)
        for back, value in enumerate(reversed(self._values)):
            held[(self._count - 1 - back) % self.window_length] = value
        return held

    @property
    def current_idx(self) -> int:
        """The place of the next number."""
        return self._count % self.window_length

    @property
    def last_idx(self) -> int | None:
        """The place of the newest number; None before the first."""
        return (self._count - 1) % self.window_length if self._count else None

    @property
    def rotated(self) -> bool:
        """Whether the window was full once."""
        return self._count >= self.window_length

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

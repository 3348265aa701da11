"""The loss scale of the opt-levels: judged after every backward pass, not after every step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["LossScale", "all_finite", "overflowed"]


class LossScale:
    """A factor for the loss that halves where a gradient overflows and doubles where none did.

    Args:
        initial: the factor to begin with.
        dynamic: False: it stays as it is, and nothing is judged.
        growth_interval: backward passes without overflow after which it doubles.
        largest: where growing ends.

    Attributes:
        scale: the factor of now.
        good: backward passes since it changed last, or since the last overflow.

    Source: NVIDIA's apex, with its numbers.
    """

    def __init__(
        self,
        initial: float = 2.0**16,
        *,
        dynamic: bool = True,
        growth_interval: int = 2000,
        largest: float = 2.0**24,
    ) -> None:
        self.scale = initial if dynamic else 1.0
        self.dynamic = dynamic
        self.growth_interval = growth_interval
        self.largest = largest
        self.good = 0

    def judge(self, overflow: bool) -> None:
        """Take note of one backward pass."""
        if not self.dynamic:
            return
        if overflow:
            self.scale, self.good = self.scale / 2.0, 0
            return
        self.good += 1
        if self.good == self.growth_interval:
            self.scale, self.good = min(self.scale * 2.0, self.largest), 0

    def state_dict(self) -> dict[str, Any]:
        """In apex's form, which knows one scale for each loss and calls the first one so."""
        return {"loss_scaler0": {"loss_scale": self.scale, "unskipped": self.good}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` or apex gave."""
        kept = state["loss_scaler0"]
        self.scale, self.good = float(kept["loss_scale"]), int(kept["unskipped"])


def all_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether no entry is infinite or NaN. Waits for the device: the step depends on it."""
    if not gradients:
        return True
    # The largest entry of each tensor is infinite or NaN exactly if one of its entries is.
    largest = torch._foreach_norm(list(gradients), float("inf"))
    return bool(torch.isfinite(torch.stack([n.float() for n in largest]).sum()))


def overflowed(gradients: Sequence[Tensor]) -> bool:
    """Whether a gradient of any process overflowed: all of them must decide alike."""
    found = not all_finite(gradients)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        device = gradients[0].device if gradients else torch.device("cpu")
        flag = torch.tensor(float(found), device=device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        found = bool(flag.item())
    return found

"""Microseconds of an iteration on an XLA device over a loop written by hand for torch_xla."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.contenders import LEYDEN_OFF, leyden_fit, small_batch, small_net
from benchmarks.harness import Batches, Rounds, Row

pytestmark = pytest.mark.xla


class ByHand:
    """What torch_xla's documentation writes: a step, and one mark after it."""

    def __init__(self, device: torch.device) -> None:
        self.net, self.device = small_net().to(device), device
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def __call__(self, batches: Any) -> None:
        import torch_xla

        for x, y in batches:
            loss = nn.functional.cross_entropy(self.net(x.to(self.device)), y.to(self.device))
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            torch_xla.sync()


def test_iteration_on_xla(measure: Any, smoke: bool) -> None:
    """The time of this thread, which traces; what was recorded is computed in others."""
    os.environ.setdefault("PJRT_DEVICE", "CPU")
    import torch_xla

    base = ByHand(torch_xla.device())
    loop: list[float] = []

    def trainer() -> float:
        batches = Batches(small_batch(), base, 25, 8 if smoke else 20)
        leyden_fit(small_net(), batches, **{**LEYDEN_OFF, "tpu_cores": 1})
        loop.append(min(theirs for _, theirs in batches.pairs) / batches.size * 1e6)
        return batches.over

    def row(done: Rounds) -> Row:
        return Row(
            f"Trainer on an XLA device, where the loop takes {min(loop):.0f} us",
            {"leyden": done.median("leyden")},
            must=100,
            aim=30,
        )

    measure({"leyden": trainer}, row)

"""Precisions on a GPU: scaling, skipping without a word from the device, levels, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.backends.precision import MixedPrecision, opt_level
from leyden.backends.precision.base import Precision

pytestmark = pytest.mark.gpu


def train(precision: Precision, *, fused: bool = False, bad: int | None = None) -> Any:
    """Ten steps of a small net on the GPU, by the calls that a run makes."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    model.cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-4, fused=fused)
    precision.prepare(model, [optimizer])
    x = torch.randn(16, 32, device="cuda")
    losses = []

    def forward(batch: Any, factor: float) -> torch.Tensor:
        return model(batch).float().pow(2).mean() * factor

    step = precision.around(forward, "train")
    for index in range(10):
        loss = step(x, float("inf") if index == bad else 1.0)
        precision.backward(lambda scaled: scaled.backward(), loss, optimizer)
        precision.gradients_ready(optimizer)
        precision.step(optimizer)
        optimizer.zero_grad()
        precision.settle()
        losses.append(loss.detach())
    precision.release()
    return model, torch.stack(losses).cpu()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_learns_what_32_bits_learn(dtype: torch.dtype) -> None:
    _, losses = train(MixedPrecision(dtype, "cuda"))
    _, expected = train(Precision())
    assert torch.allclose(losses, expected, rtol=0.05)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_left_out_is_counted_wherever_it_was_decided(fused: bool) -> None:
    precision = MixedPrecision(torch.float16, "cuda")
    model, _ = train(precision, fused=fused, bad=4)
    assert precision.skipped_steps == 1
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_levels_learn_what_32_bits_learn(level: str) -> None:
    model, losses = train(opt_level(level, "cuda"))
    _, expected = train(Precision())
    assert torch.allclose(losses, expected, rtol=0.1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_bfloat16_never_waits_for_the_device() -> None:
    train(MixedPrecision(torch.bfloat16, "cuda"), fused=True)  # the first use of a kernel waits
    precision = MixedPrecision(torch.bfloat16, "cuda")
    model = torch.nn.Linear(8, 1).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision.prepare(model, [optimizer])
    step = precision.around(lambda batch: model(batch).float().mean(), "train")
    x = torch.randn(4, 8, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            precision.backward(lambda scaled: scaled.backward(), step(x), optimizer)
            precision.gradients_ready(optimizer)
            precision.step(optimizer)
            optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_is_back_where_it_was() -> None:
    for _ in range(2):
        train(opt_level("O2", "cuda"))
        torch.cuda.synchronize()
        used = torch.cuda.memory_allocated()
        train(opt_level("O2", "cuda"))
        assert torch.cuda.memory_allocated() <= used

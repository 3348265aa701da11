"""Batch normalization over several ranks is that of one process with the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from leyden.backends.sync_batchnorm import SyncedBatchNorm, synchronised
from tests.ranks import ranks
from tests.trainer.ranks_runs import Net, everything, loader, trainer

SHAPES = {nn.BatchNorm1d: (12, 6), nn.BatchNorm2d: (12, 6, 3, 2), nn.BatchNorm3d: (12, 6, 2, 2, 2)}


def both_ways(
    kind: Any, shape: tuple[int, ...], given: dict[str, Any], dtype: Any, cuts: list[int]
) -> list[float]:
    """The greatest differences of outputs, gradients and buffers to one process."""
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).mul(3).add(100).to(dtype)
    y = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    alone, many = (nn.Sequential(kind(6, **given)).to(dtype) for _ in range(2))
    restore = synchronised(many)
    assert isinstance(many[0], SyncedBatchNorm) and isinstance(many[0], kind)
    bounds = [0, *cuts, len(x)]
    mine = slice(bounds[rank], bounds[rank + 1])
    found = []
    for _ in range(2):
        whole, part = x.clone().requires_grad_(), x[mine].clone().requires_grad_()
        expected, output = alone(whole), many(part)
        # The same sum as of the whole batch, each rank its part.
        ((expected - y) ** 2).sum().backward()
        ((output - y[mine]) ** 2).sum().backward()
        found.append((expected[mine] - output).abs().max().item())
        found.append((whole.grad[mine] - part.grad).abs().max().item())
    for one, other in zip(alone.parameters(), many.parameters(), strict=True):
        dist.all_reduce(other.grad)
        found.append((one.grad - other.grad).abs().max().item())
    for one, other in zip(alone.buffers(), many.buffers(), strict=True):
        found.append((one - other).abs().max().item())
    alone.eval(), many.eval()
    found.append((alone(x) - many(x)).abs().max().item())
    restore()
    assert type(many[0]) is kind and world > 1
    return found


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("given", [{}, {"momentum": None}, {"affine": False}])
def test_it_is_that_of_one_process(kind: Any, given: dict[str, Any]) -> None:
    for found in ranks(2).run(both_ways, kind, SHAPES[kind], given, torch.float64, [6]):
        assert max(found) < 1e-10


def test_ranks_may_have_parts_of_different_size_even_one_sample() -> None:
    for found in ranks(3).run(both_ways, nn.BatchNorm1d, (12, 6), {}, torch.float64, [1, 5]):
        assert max(found) < 1e-10


def test_nothing_cancels_in_narrow_numbers() -> None:
    # Around 100 with a spread of 3, sums of squares would lose four digits of the variance.
    for found in ranks(2).run(both_ways, nn.BatchNorm1d, (12, 6), {}, torch.float32, [6]):
        assert max(found) < 2e-4  # of gradients up to 20: both compute in 24 bits


def test_without_running_statistics_the_batch_of_all_counts_in_evaluation_too() -> None:
    def work() -> float:
        module = nn.BatchNorm1d(2, track_running_stats=False)
        synchronised(module)
        module.eval()
        rows = torch.tensor([[0.0, 1.0], [2.0, 3.0]]) + 10 * dist.get_rank()
        return module(rows).detach().mean().item()

    assert ranks(2).run(work) == [pytest.approx(-0.98, abs=0.02), pytest.approx(0.98, abs=0.02)]


def test_one_value_in_all_is_refused() -> None:
    def work() -> None:
        module = nn.BatchNorm1d(2)
        synchronised(module)
        with pytest.raises(ValueError, match="has 1 values a channel over all processes"):
            module(torch.ones(1 - dist.get_rank(), 2))

    ranks(2).run(work)


def test_two_ranks_train_like_one_process() -> None:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            # Not Adam: before a normalization a bias has no gradient but rounding.
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def train() -> tuple[torch.Tensor, str]:
        model = Plain(norm=True)
        trainer(max_epochs=2, sync_batchnorm=True).fit(model, loader(24, 8), loader(8, 8))
        return everything(model), type(model.net[1]).__name__

    one = ranks(1).run(train)[0]
    for weights, name in ranks(2).run(train):
        assert torch.allclose(weights, one[0], atol=1e-6)
        assert name == "BatchNorm1d"  # again, when the run is over

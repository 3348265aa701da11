"""dp: a batch is cut, each replica does a part, what they return and log is put together.

Two replicas on the CPU stand in for two GPUs, one after the other; putting together is shared code.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.backends.environments import find_environment
from leyden.backends.strategies.data_parallel import (
    DataParallelStrategy,
    DDP2Strategy,
    gathered,
    reduced,
)
from leyden.engine.errors import MisconfigurationException
from tests.ranks import ranks


class OneAfterTheOther:
    """What ``Replicas`` does on GPUs, on one CPU."""

    def __init__(self, count: int) -> None:
        self.devices = [torch.device("cpu")] * count

    def scatter(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        parts = [_cut(argument, len(self.devices)) for argument in arguments]
        count = min(len(p) for p in parts if p is not None)
        given = [
            tuple(a if p is None else p[i] for a, p in zip(arguments, parts, strict=True))
            for i in range(count)
        ]
        return given, [dict(options) for _ in given]

    def replicate(self, model: nn.Module, count: int) -> list[Any]:
        return [copy.copy(model) for _ in range(count)]

    def apply(self, steps: Sequence[Callable[..., Any]], arguments: Any, options: Any) -> list[Any]:
        return [step(*a, **o) for step, a, o in zip(steps, arguments, options, strict=True)]


def _cut(value: Any, count: int) -> Any:
    if isinstance(value, torch.Tensor):
        return list(value.chunk(count))
    if isinstance(value, (list, tuple)):
        return list(zip(*(_cut(item, count) for item in value), strict=True))
    return None


class Net(leyden.LightningModule):
    def __init__(self, returns: str = "loss", end: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.returns = returns
        self.sizes: list[int] = []
        self.ended: list[Any] = []
        if end:
            self.training_step_end = self._end  # type: ignore[method-assign]

    def _end(self, output: Any) -> Any:
        self.ended.append(copy.copy(output))
        return output["loss"].mean() if isinstance(output, Mapping) else output.mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.sizes.append(len(x))
        loss = ((self.layer(x) - y) ** 2).mean()
        self.log("rows", float(len(x)), on_step=True)
        self.log_dict({"loss": loss.detach()})
        if self.returns == "dict":
            return {"loss": loss, "out": self.layer(x).detach()}
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.log("v", ((self.layer(x) - y) ** 2).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(model: Net, strategy: Any, size: int = 8, **arguments: Any) -> leyden.Trainer:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(
        torch.randn(16, 3, generator=generator), torch.randn(16, 1, generator=generator)
    )
    trainer = leyden.Trainer(
        max_epochs=2,
        logger=False,
        checkpoint_callback=False,
        progress_bar_refresh_rate=0,
        weights_summary=None,
        plugins=strategy,
        **arguments,
    )
    trainer.fit(model, DataLoader(data, batch_size=size), DataLoader(data, batch_size=size))
    return trainer


def two() -> DataParallelStrategy:
    return DataParallelStrategy(["cpu", "cpu"], replicas=OneAfterTheOther(2))


@pytest.mark.parametrize("returns", ["loss", "dict"])
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"precision": "bf16"}, {"accumulate_grad_batches": 2}])
def test_parts_train_as_the_whole(returns: str, end: bool, arguments: dict[str, Any]) -> None:
    alone, parts = Net(), Net(returns, end)
    expected = fit(alone, None, **arguments)
    found = fit(parts, two(), **arguments)
    torch.testing.assert_close(parts.layer.weight, alone.layer.weight, rtol=1e-2, atol=1e-5)
    if "precision" not in arguments:
        torch.testing.assert_close(parts.layer.weight, alone.layer.weight, rtol=1e-5, atol=1e-6)
    assert set(parts.sizes) == {4} and len(parts.sizes) == 2 * len(alone.sizes)
    assert float(found.callback_metrics["rows"]) == 4.0
    for name in ("loss", "v"):
        assert float(found.callback_metrics[name]) == pytest.approx(
            float(expected.callback_metrics[name]), rel=1e-2
        )


def test_the_end_of_a_step_sees_what_all_parts_returned() -> None:
    model = Net("dict", end=True)
    fit(model, two())
    seen = model.ended[0]
    assert seen["loss"].shape == (2,) and seen["out"].shape == (8, 1)


def test_single_numbers_are_averaged_and_batches_joined() -> None:
    output = gathered([{"n": 1, "t": torch.ones(2, 3)}, {"n": 3, "t": torch.zeros(1, 3)}], "cpu")
    assert output["n"].tolist() == [1.0, 3.0] and output["t"].shape == (3, 3)
    mean = reduced(output, 2)
    assert mean["n"].item() == 2.0 and mean["t"].shape == (3, 3)
    assert reduced(torch.tensor([1, 2]), 2).tolist() == [1, 2]  # whole numbers have no mean
    assert gathered([None, None], "cpu") is None


def test_parts_that_return_different_things_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="NoneType, Tensor"):
        gathered([None, torch.ones(1)], "cpu")


def test_one_device_is_refused_with_the_reason() -> None:
    with pytest.raises(MisconfigurationException, match="there is 1: pass gpus=2"):
        DataParallelStrategy(["cpu"])


@pytest.mark.slow
def test_machines_that_each_cut_their_batches_train_as_one_process() -> None:
    """ddp2: two processes with two replicas each, a quarter of the samples for each replica."""

    def machine() -> Any:
        model = Net()
        strategy = DDP2Strategy(["cpu", "cpu"], find_environment(), replicas=OneAfterTheOther(2))
        trainer = fit(model, strategy, size=4)
        return model.layer.weight.detach(), set(model.sizes), trainer.global_step

    alone = Net()
    expected = fit(alone, None)
    for weight, sizes, steps in ranks(2).run(machine):
        assert sizes == {2} and steps == expected.global_step
        torch.testing.assert_close(weight, alone.layer.weight.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu(count=2)
def test_two_gpus_train_as_one() -> None:
    one, several = Net(), Net()
    fit(one, None, gpus=1)
    fit(several, DataParallelStrategy(["cuda:0", "cuda:1"]))
    torch.testing.assert_close(several.layer.weight.cpu(), one.layer.weight.cpu())

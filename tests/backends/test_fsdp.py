"""FSDP on two ranks: the numbers of DDP, in every way of training; directories as checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

import leyden
from leyden.backends.environments import find_environment
from leyden.backends.strategies import DDPStrategy, Strategy
from leyden.backends.strategies.fsdp import FSDPStrategy
from leyden.engine.errors import MisconfigurationException
from tests.ranks import ranks

pytest.importorskip("torch.distributed.fsdp", reason="torch without FSDP2")


class Net(leyden.LightningModule):
    def __init__(self, manual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.automatic_optimization = not manual

    def forward(self, x: Any) -> Any:
        return self.layers(x)

    def loss(self, batch: Any, i: int) -> Any:
        x, y = batch
        # Through the module and past it: both have to find whole parameters.
        return nn.functional.mse_loss(self(x) if i % 2 else self.layers(x), y)

    def training_step(self, batch: Any, i: int) -> Any:
        loss = self.loss(batch, i)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def validation_step(self, batch: Any, i: int) -> None:
        self.log("v", self.loss(batch, i), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def data() -> Dataset[Any]:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.randn(32, 4, generator=generator), torch.randn(32, 2, generator=generator)
    )


def loader() -> DataLoader[Any]:
    place = find_environment()
    sampler = DistributedSampler(data(), place.world_size, place.global_rank, shuffle=False)
    return DataLoader(data(), batch_size=4, sampler=sampler)


def trainer(strategy: Strategy, **arguments: Any) -> leyden.Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "checkpoint_callback": False,
        "progress_bar_refresh_rate": 0,
        "weights_summary": None,
        "max_epochs": 2,
    }
    return leyden.Trainer(plugins=strategy, **{**quiet, **arguments})


def trained(make: Callable[[], Strategy], manual: bool, **arguments: Any) -> Any:
    strategy, model = make(), Net(manual)
    fitted = trainer(strategy, **arguments)
    fitted.fit(model, loader(), loader())
    metrics = {name: float(value) for name, value in fitted.callback_metrics.items()}
    return strategy.model_state_dict(model), metrics


def ddp() -> Strategy:
    return DDPStrategy("cpu", find_environment(), find_unused_parameters=False)


def whole() -> Strategy:
    return FSDPStrategy("cpu", find_environment())


def layer_by_layer() -> Strategy:
    return FSDPStrategy("cpu", find_environment(), auto_wrap_policy={nn.Linear})


def once_a_group() -> Strategy:
    return FSDPStrategy("cpu", find_environment(), sync_each_batch=False)


@pytest.mark.slow
@pytest.mark.parametrize("make", [whole, layer_by_layer, once_a_group])
@pytest.mark.parametrize(
    ("manual", "arguments"),
    [
        (False, {}),
        (False, {"accumulate_grad_batches": 2}),
        (True, {}),
        (False, {"gradient_clip_val": 0.01, "track_grad_norm": 2}),
        (False, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
        (False, {"precision": "bf16"}),
        (False, {"terminate_on_nan": True}),
    ],
    ids=["plain", "accumulated", "manual", "norm", "value", "bf16", "nan"],
)
def test_numbers_are_those_of_ddp(
    make: Callable[[], Strategy], manual: bool, arguments: dict[str, Any]
) -> None:
    def both() -> Any:
        return trained(ddp, manual, **arguments), trained(make, manual, **arguments)

    for (expected, expected_metrics), (found, metrics) in ranks(2).run(both):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
        assert metrics == pytest.approx(expected_metrics, rel=1e-5)


@pytest.mark.slow
def test_each_process_holds_its_part_of_parameters_gradients_and_moments() -> None:
    def parts() -> Any:
        model = Net()
        fitted = trainer(whole(), max_epochs=1)
        fitted.fit(model, loader(), loader())
        weight: Any = model.layers[1].weight
        moment: Any = fitted.optimizers[0].state[weight]["exp_avg"]
        return tuple(weight.to_local().shape), tuple(moment.to_local().shape)

    assert ranks(2).run(parts) == [((4, 4), (4, 4)), ((4, 4), (4, 4))]


@pytest.mark.slow
def test_a_module_that_shards_itself_is_taken_as_it_is() -> None:
    def own() -> Any:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        class Own(Net):
            calls = 0

            def configure_model(self) -> None:
                Own.calls += 1
                if Own.calls == 1:
                    fully_shard(self.layers[1], mesh=init_device_mesh("cpu", (2,)))
                    fully_shard(self, mesh=init_device_mesh("cpu", (2,)))

        torch.manual_seed(0)
        model = Own()
        strategy = whole()
        trainer(strategy).fit(model, loader(), loader())
        return Own.calls, strategy.model_state_dict(model), trained(ddp, False)[0]

    for calls, found, expected in ranks(2).run(own):
        assert calls == 1
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_optimizer_of_parameters_that_are_gone_is_refused() -> None:
    def early() -> str:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
        with pytest.raises(MisconfigurationException) as caught:
            trainer(whole()).fit(model, loader(), loader())
        return str(caught.value)

    assert all("self.parameters() in configure_optimizers" in text for text in ranks(2).run(early))


def test_an_unknown_kind_of_state_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="state_dict_type='both' is unknown"):
        FSDPStrategy(state_dict_type="both")


def test_the_model_runs_its_own_forward_again_afterwards(tmp_path: Path) -> None:
    from leyden.backends.strategies.fsdp import _as_forward

    model = nn.Linear(2, 2)
    seen = []

    def step(x: Any) -> Any:
        seen.append("forward" in vars(model))
        return model(x).sum()

    assert _as_forward(model, step, (torch.ones(1, 2),), {}).shape == ()
    assert seen == [False] and "forward" not in vars(model)

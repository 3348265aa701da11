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
    return DataLoader(data(), batch_size=8 // place.world_size, sampler=sampler)


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


# --- checkpoints


def saver(folder: Path, **options: Any) -> Any:
    return leyden.callbacks.ModelCheckpoint(dirpath=str(folder), save_top_k=-1, **options)


def continued(
    folder: Path,
    kind: str,
    epochs: int,
    resume: Any = None,
    dropout: bool = False,
    saving: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    strategy = FSDPStrategy("cpu", find_environment(), state_dict_type=kind)
    model = Net()
    if dropout:
        model.layers[2] = nn.Dropout(0.3)
    torch.manual_seed(find_environment().global_rank + (1000 if resume else 0))
    fitted = trainer(
        strategy,
        max_epochs=epochs,
        callbacks=[saver(folder, **(saving or {}))],
        checkpoint_callback=True,
        resume_from_checkpoint=resume,
        **arguments,
    )
    fitted.fit(model, loader(), loader())
    return strategy.model_state_dict(model), fitted


def same(found: dict[str, Any], expected: dict[str, Any], *, exact: bool) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if exact:
            assert torch.equal(found[name], value), name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sharded", "full"])
def test_a_run_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    def both() -> Any:
        whole_run, _ = continued(tmp_path / "whole", kind, 3)
        continued(tmp_path / "part", kind, 1)
        path = str(tmp_path / "part" / "epoch=0-step=3.ckpt")
        assert Path(path).is_dir() == (kind == "sharded")
        again, fitted = continued(tmp_path / "part", kind, 3, resume=path)
        assert fitted.global_step == 12
        return whole_run, again

    for expected, found in ranks(2).run(both):
        same(found, expected, exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sharded", "full"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_killed_anywhere_goes_on_bit_for_bit(
    kind: str, asynchronous: bool, tmp_path: Path
) -> None:
    """In the middle of an epoch and of an accumulation, with other random numbers on each rank."""
    saving = {
        "every_n_train_steps": 1,
        "filename": "{epoch}-{step}",
        "asynchronous": asynchronous,
    }

    def all_of_them() -> Any:
        arguments: Any = {"dropout": True, "accumulate_grad_batches": 3, "saving": saving}
        whole_run, _ = continued(tmp_path / "whole", kind, 3, **arguments)
        paths = sorted(map(str, (tmp_path / "whole").glob("*.ckpt")))
        ends = []
        for number, path in enumerate(paths):
            folder = tmp_path / f"again{number}"
            ends.append(continued(folder, kind, 3, resume=path, **arguments)[0])
        return whole_run, ends, paths

    for expected, ends, paths in ranks(2).run(all_of_them, timeout=120):
        assert len(ends) >= 4, paths
        for found in ends:
            same(found, expected, exact=True)


@pytest.mark.slow
def test_a_directory_is_read_with_any_number_of_processes(tmp_path: Path) -> None:
    def two() -> Any:
        return continued(tmp_path, "sharded", 1)[0]

    expected = ranks(2).run(two)[0]
    path = tmp_path / "epoch=0-step=3.ckpt"
    checkpoint = leyden.handlers.checkpoint_io.load(path)
    same(checkpoint["state_dict"], expected, exact=True)
    assert list(checkpoint["state_dict"]) == list(Net().state_dict())
    assert Net.load_from_checkpoint(str(path)).layers[1].weight.shape == (8, 4)

    # One process without any strategy takes it over, moments of the optimizer and all.
    one = tmp_path / "one.ckpt"
    leyden.consolidate(path, one)
    model = Net.load_from_checkpoint(str(one))
    same(model.state_dict(), expected, exact=True)
    optimizer = model.configure_optimizers()
    optimizer.load_state_dict(leyden.handlers.checkpoint_io.load(one)["optimizer_states"][0])
    moment = optimizer.state[model.layers[1].weight]["exp_avg"]
    assert moment.shape == (8, 4) and moment.abs().sum() > 0


@pytest.mark.slow
def test_damage_in_a_directory_is_found(tmp_path: Path) -> None:
    def two() -> Any:
        return continued(tmp_path, "sharded", 1)[0]

    ranks(2).run(two)
    path = tmp_path / "epoch=0-step=3.ckpt"
    part = sorted(path.glob("*.distcp"))[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(bytes(content))
    with pytest.raises(leyden.handlers.checkpoint_io.DamagedCheckpoint, match="not what was writ"):
        leyden.handlers.checkpoint_io.load(path)
    part.unlink()
    with pytest.raises(leyden.handlers.checkpoint_io.DamagedCheckpoint, match="is missing"):
        leyden.handlers.checkpoint_io.verify(path)


def test_an_index_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    import os
    import pickle

    from leyden.backends import sharded_files
    from leyden.handlers import checkpoint_folder

    checkpoint = {"state_dict": {"a": torch.ones(2)}, "epoch": 1}
    checkpoint_folder.save(checkpoint, tmp_path / "c.ckpt")
    assert checkpoint_folder.load(tmp_path / "c.ckpt")["epoch"] == 1

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "c.ckpt" / ".metadata").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        sharded_files.read(tmp_path / "c.ckpt")
    with pytest.raises(leyden.handlers.checkpoint_io.UnsafeCheckpoint, match="mkdir"):
        checkpoint_folder.load(tmp_path / "c.ckpt", check=False)
    assert not (tmp_path / "ran").exists()


def test_consolidating_says_what_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from leyden.__main__ import main
    from leyden.handlers import checkpoint_folder

    (tmp_path / "plain").mkdir()
    assert main(["consolidate", str(tmp_path / "plain"), str(tmp_path / "out")]) == 1
    assert "is no checkpoint in a directory" in capsys.readouterr().err
    checkpoint_folder.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "c")
    assert main(["consolidate", str(tmp_path / "c"), str(tmp_path / "out")]) == 0
    assert "bytes" in capsys.readouterr().out
    found = leyden.handlers.checkpoint_io.load(tmp_path / "out")
    assert torch.equal(found["state_dict"]["a"], torch.ones(2))

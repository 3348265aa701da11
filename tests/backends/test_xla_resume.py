"""Random numbers, checkpoints and runs that go on, on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.engine import rng
from leyden.handlers import EMAWeightAveraging
from leyden.handlers.checkpoint_io import load
from tests.backends.xla_cases import Net, adamw, loader, losses, train, trainer, weights

pytestmark = [pytest.mark.xla, pytest.mark.slow, pytest.mark.usefixtures("four_devices")]


def test_the_seed_decides_what_dropout_draws(tmp_path: Path) -> None:
    found = []
    for seed in (1, 1, 2):
        leyden.seed_everything(seed)
        found.append(losses(train(tmp_path, lambda: Net(dropout=0.5), max_epochs=1)[0]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_another_core_begins_with_the_seed_too(tmp_path: Path) -> None:
    found = []
    for core in ([2], [4]):
        leyden.seed_everything(5)
        found.append(losses(train(tmp_path, lambda: Net(dropout=0.5), cores=core, max_epochs=1)[0]))
    assert torch.equal(*found)


def test_torchs_seed_alone_does_not_reach_xla(tmp_path: Path) -> None:
    """Why seed_everything has to: it is what the page says."""
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(losses(train(tmp_path, lambda: Net(dropout=0.5), max_epochs=1)[0]))
    assert not torch.equal(*found)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, accumulated: int) -> None:
    def make() -> Net:
        leyden.seed_everything(7)
        return Net(adamw, dropout=0.4)

    class Save(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            if trainer.current_epoch == 1 and trainer.batch_idx == 3:
                trainer.save_checkpoint(tmp_path / "there.ckpt")

    arguments: dict[str, Any] = {"accumulate_grad_batches": accumulated}
    data = loader(shuffle=True)
    whole, run = train(tmp_path, make, data, callbacks=[Save()], **arguments)
    leyden.seed_everything(99)
    other = Net(adamw, dropout=0.4)
    again = trainer(tmp_path, max_epochs=3, tpu_cores=1, callbacks=[Save()], **arguments)
    again.fit(other, loader(shuffle=True), ckpt_path=str(tmp_path / "there.ckpt"))
    assert torch.equal(losses(other), losses(whole)[-len(other.losses) :])
    assert len(other.losses) == 8
    assert torch.equal(weights(other), weights(whole))
    assert float(again.callback_metrics["loss"]) == float(run.callback_metrics["loss"])


def test_the_stream_is_captured_and_put_back(tmp_path: Path) -> None:
    train(tmp_path, max_epochs=1)
    state = rng.capture()
    first = torch.rand(3, device="xla:0").cpu()
    rng.restore(state)
    assert isinstance(state["xla"], int)
    assert torch.equal(torch.rand(3, device="xla:0").cpu(), first)


# ------------------------------------------------------------------------ checkpoints


def test_checkpoints_hold_nothing_of_xla(tmp_path: Path) -> None:
    module, run = train(tmp_path, lambda: Net(adamw), callbacks=[EMAWeightAveraging(decay=0.9)])
    path = tmp_path / "run.ckpt"
    run.save_checkpoint(path)
    found = load(path)  # without a map_location: as it lies in the file
    places: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, Tensor):
            places.add(value.device.type)
        elif isinstance(value, dict):
            for item in value.values():
                look(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                look(item)

    look(found)
    assert places == {"cpu"}
    expected = {key: value.cpu() for key, value in module.state_dict().items()}
    plain = Net(adamw)
    plain.load_state_dict(found["state_dict"])
    assert set(expected) == set(found["state_dict"])


def test_a_snapshot_does_not_go_on_with_the_training(tmp_path: Path) -> None:
    """Adam counts its steps in a tensor on the CPU, which a transfer would only pass on."""
    module, run = train(tmp_path, lambda: Net(adamw), max_epochs=1)
    path = tmp_path / "run.ckpt"
    run.save_checkpoint(path)
    run.max_epochs = 2
    run.fit(module, loader())
    steps = [state["step"] for state in load(path)["optimizer_states"][0]["state"].values()]
    assert {float(step) for step in steps} == {6.0}


def test_saving_beside_the_training(tmp_path: Path) -> None:
    class Last(leyden.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            self.weights = weights(module)

    last = Last()
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True, asynchronous=True)
    train(tmp_path, lambda: Net(adamw), callbacks=[saver, last], checkpoint_callback=True)
    found = load(tmp_path / "last.ckpt")["state_dict"]
    assert torch.equal(torch.cat([value.flatten() for value in found.values()]), last.weights)

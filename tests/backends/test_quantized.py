"""Training with weights of few bits, and the packed file: the same outputs from a plain model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leyden.backends.precision import (
    QuantizedTraining,
    fake_quantize,
    load_quantized,
    quantized_state_dict,
)
from leyden.backends.precision.packed import pack, unpack
from leyden.backends.precision.quantized import plain_again, quantize_layers, quantized_layers
from leyden.exceptions import MisconfigurationException
from tests.trainer.tiny import Bare, data, trainer, weights


class Mixed(Bare):
    """Every kind of layer that is covered, and some that are not."""

    def __init__(self) -> None:
        super().__init__(lambda p: torch.optim.Adam(p, lr=1e-2))
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Unflatten(1, (1, 5)),
            nn.Conv1d(1, 4, 3, padding="same", padding_mode="circular"),
            nn.Unflatten(2, (5, 1)),
            nn.Conv2d(4, 4, 1),
            nn.Unflatten(3, (1, 1)),
            nn.Conv3d(4, 2, 1),
            nn.Flatten(),
            nn.BatchNorm1d(10),
            nn.Linear(10, 3),
            nn.Linear(3, 1),
        )


@pytest.mark.parametrize("bits", [8, 4, 2, 3])
def test_a_plain_model_gives_the_same_outputs_from_the_file(bits: int, tmp_path: Path) -> None:
    model = Mixed()
    run = trainer(plugins=QuantizedTraining(bits), max_epochs=2)
    run.fit(model, data())
    size = run.export_quantized(tmp_path / "deep" / "model.pt")
    assert size == (tmp_path / "deep" / "model.pt").stat().st_size
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model.pt"]
    plain = load_quantized(Mixed(), tmp_path / "deep" / "model.pt")
    x = torch.randn(7, 5)
    assert torch.equal(plain.eval().net(x), model.eval().net(x))
    for name in quantized_layers(model):
        for channel in plain.get_submodule(name).weight.flatten(1):
            assert len(channel.unique()) <= 2**bits
    assert not quantized_layers(plain)


def test_the_file_is_as_small_as_it_should_be(tmp_path: Path) -> None:
    sizes = {}
    for bits in (8, 4, 2):
        model = nn.Sequential(nn.Linear(256, 256, bias=False))
        quantize_layers(model, bits)
        from leyden.backends.precision import save_quantized

        sizes[bits] = save_quantized(model, tmp_path / f"{bits}.pt")
    weights_alone = {bits: 256 * 256 * bits // 8 for bits in sizes}
    for bits, size in sizes.items():
        assert weights_alone[bits] < size < weights_alone[bits] + 5000


@pytest.mark.parametrize("bits", [8, 5, 4, 3, 2])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_packing_is_undone_by_unpacking(bits: int, count: int) -> None:
    low = 1 << (bits - 1)
    values = torch.randint(-low, low, (count,), generator=torch.Generator().manual_seed(bits))
    packed = pack(values, bits)
    assert packed.dtype is torch.uint8 and len(packed) == -(-count // (8 // bits))
    assert torch.equal(unpack(packed, bits, count).long(), values)


def test_gradients_pass_but_for_what_is_cut_off() -> None:
    weight = torch.tensor([[3.0, 0.1, -0.1, 0.2]], requires_grad=True)
    fake_quantize(weight, 2).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[0.0, 1.0, 1.0, 1.0]]


def test_checkpoints_load_with_any_precision(tmp_path: Path) -> None:
    model = Mixed()
    keys = list(model.state_dict())
    run = trainer(precision=4, max_epochs=1)
    run.fit(model, data())
    assert list(model.state_dict()) == keys
    run.save_checkpoint(tmp_path / "x.ckpt")
    again = Mixed()
    run = trainer(max_epochs=2, resume_from_checkpoint=str(tmp_path / "x.ckpt"))
    run.fit(again, data())
    assert not quantized_layers(again)


def test_a_32_bit_run_makes_the_layers_plain_again() -> None:
    model = Mixed()
    trainer(precision=2, max_epochs=1).fit(model, data())
    before = weights(model)
    assert len(quantized_layers(model)) == 5
    plain_again(model)
    assert not quantized_layers(model) and torch.equal(weights(model), before)
    assert type(model.net[8]) is nn.Linear and not hasattr(model.net[8], "weight_bits")


def test_layers_of_ones_own_are_left_alone() -> None:
    class Mine(nn.Linear):
        pass

    model = nn.Sequential(Mine(2, 2), nn.Linear(2, 2))
    assert quantize_layers(model, 4) == ["1"]
    assert type(model[0]) is Mine


def test_activations_are_rounded_by_option(tmp_path: Path) -> None:
    layer = nn.Linear(4, 2)
    quantize_layers(layer, 8, 2)
    x = torch.randn(3, 4)
    assert not torch.equal(layer(x), nn.functional.linear(x, fake_quantize(layer.weight, 8)))
    model = Mixed()
    run = trainer(plugins=QuantizedTraining(4, activation_bits=8), max_epochs=1)
    run.fit(model, data())
    run.export_quantized(tmp_path / "x.pt")
    with pytest.raises(MisconfigurationException, match=r"activations of \[8\] bits"):
        load_quantized(Mixed(), tmp_path / "x.pt")
    twin = Mixed()
    twin.load_state_dict(quantized_state_dict(tmp_path / "x.pt"))
    assert set(quantized_state_dict(tmp_path / "x.pt")) == set(twin.state_dict())


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for arguments in ({"bits": 1}, {"bits": 9}, {"bits": True}):
        with pytest.raises(ValueError, match="no number of bits"):
            QuantizedTraining(**arguments)
    with pytest.raises(ValueError, match="activation_bits=1"):
        QuantizedTraining(4, activation_bits=1)
    with pytest.raises(MisconfigurationException, match="call fit"):
        trainer(precision=4).export_quantized(tmp_path / "x")
    run = trainer(max_epochs=1)
    run.fit(Bare(), data())
    with pytest.raises(MisconfigurationException, match="no layer with weights of few bits"):
        run.export_quantized(tmp_path / "x")
    torch.save({"something": 1}, tmp_path / "y")
    with pytest.raises(ValueError, match="save_quantized"):
        quantized_state_dict(tmp_path / "y")


def test_a_model_without_such_layers_trains_with_a_warning() -> None:
    class Without(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net: Any = nn.Bilinear(5, 5, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return nn.functional.mse_loss(self.net(batch[0], batch[0]), batch[1])

    with pytest.warns(UserWarning, match="Without has none"):
        trainer(precision=8, max_epochs=1).fit(Without(), data())

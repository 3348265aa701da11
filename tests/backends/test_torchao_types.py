"""Weights of few bits as torchao's tensors."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leyden.backends.precision import QuantizedTraining, torchao_state_dict
from leyden.exceptions import MisconfigurationException
from tests.backends.test_quantized import Mixed
from tests.trainer.tiny import Bare, data, trainer

needs_torchao = [
    pytest.mark.skipif(
        find_spec("torchao") is None, reason="needs torchao: pip install leyden[quant]"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning:torchao", "ignore::DeprecationWarning"),
]


class TestWithTorchao:
    pytestmark = needs_torchao

    @pytest.mark.parametrize("bits", [8, 4, 2, 3])
    def test_a_plain_model_gives_the_same_outputs_from_the_file(
        self, bits: int, tmp_path: Path
    ) -> None:
        model = Mixed()
        run = trainer(plugins=QuantizedTraining(bits), max_epochs=2)
        run.fit(model, data())
        path = tmp_path / "deep" / "model.pt"
        assert run.export_quantized(path, format="torchao") == path.stat().st_size
        state = torch.load(path, weights_only=True)
        assert type(state["net.8.weight"]).__name__ == "IntxUnpackedToInt8Tensor"
        assert state["net.8.weight"].qdata.unique().numel() <= 2**bits
        plain = Mixed()
        plain.load_state_dict(state, assign=True)
        x = torch.randn(7, 5)
        assert torch.equal(plain.eval().net(x), model.eval().net(x))

    def test_rounded_activations_are_refused(self) -> None:
        model = Mixed()
        run = trainer(plugins=QuantizedTraining(4, activation_bits=8), max_epochs=1)
        run.fit(model, data())
        with pytest.raises(MisconfigurationException, match=r"activations of \[8\] bits"):
            torchao_state_dict(model)

    def test_what_was_not_quantised_is_refused(self) -> None:
        with pytest.raises(MisconfigurationException, match="no layer with weights of few bits"):
            torchao_state_dict(nn.Linear(2, 2))


def trained() -> Any:
    run = trainer(precision=4, max_epochs=1)
    run.fit(Bare(), data())
    return run


def test_without_torchao_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MisconfigurationException, match=r"pip install leyden\[quant\]"):
        trained().export_quantized(tmp_path / "x", format="torchao")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="'packed', 'torchao'"):
        trained().export_quantized(tmp_path / "x", format="gguf")
    assert not (tmp_path / "x").exists()

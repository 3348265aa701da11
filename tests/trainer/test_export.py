"""TorchScript and ONNX."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leyden.datamodule import LightningDataModule
from leyden.exceptions import MisconfigurationException
from leyden.module import LightningModule

# torch 2.9 began to announce the end of TorchScript; whoever calls it shall see that.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"x": 1})
        self.layer = nn.Linear(2, 1)
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.frozen(self.layer(x))
        return result

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).mean()


class Run:
    """Stands for a Trainer, which no compiler could take."""

    lock = print


@pytest.mark.parametrize("method", ["script", "trace"])
def test_torchscript(tmp_path: Path, method: str) -> None:
    model = Model()
    model.trainer = run = Run()
    model._recorder = run
    model.datamodule = LightningDataModule()
    x = torch.ones(1, 2)
    compiled = model.to_torchscript(tmp_path / "m.pt", method=method, example_inputs=x)
    expected = model.layer(x)
    assert torch.equal(compiled(x), expected)
    assert torch.equal(torch.jit.load(str(tmp_path / "m.pt"))(x), expected)
    assert not compiled.training
    # The model is as before.
    assert model.training and not model.frozen.training
    assert model.trainer is run and model._recorder is run and model.datamodule is not None
    assert not hasattr(compiled, "datamodule")
    assert torch.is_grad_enabled()


def test_the_example_of_the_module_is_traced() -> None:
    model = Model()
    with pytest.raises(MisconfigurationException, match="example_input_array on Model"):
        model.to_torchscript(method="trace")
    assert model.training
    model.example_input_array = torch.ones(3, 2)
    assert model.to_torchscript(method="trace")(torch.ones(3, 2)).shape == (3, 1)


@pytest.mark.parametrize("method", ["temp", None, 1])
def test_an_unknown_method_is_refused(method: Any) -> None:
    with pytest.raises(MisconfigurationException, match="only supports 'script' or 'trace'"):
        Model().to_torchscript(method=method)


def test_onnx_needs_an_input_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    with pytest.raises(MisconfigurationException, match="pass input_sample"):
        model.to_onnx(tmp_path / "m.onnx")
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"needs the package 'onnx.*pip install 'leyden\[onnx\]'"):
        model.to_onnx(tmp_path / "m.onnx", torch.ones(1, 2))
    assert model.training and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxscript") is None,
    reason="needs onnx and onnxscript, which are not installed: pip install 'leyden[onnx]'",
)
@pytest.mark.filterwarnings("ignore")
def test_onnx(tmp_path: Path) -> None:
    model = Model()
    model.trainer = Run()
    model.to_onnx(tmp_path / "m.onnx", torch.ones(1, 2))
    assert (tmp_path / "m.onnx").stat().st_size > 0

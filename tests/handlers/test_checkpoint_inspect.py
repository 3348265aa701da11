"""Looking into a checkpoint: without torch, without running anything."""

import argparse
import pathlib
import subprocess
import sys
import zipfile

import pytest
import torch

from leyden.handlers import checkpoint_io
from tests.handlers.checkpoint_cases import contents, lightning


@pytest.fixture
def previous(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "last.ckpt"
    checkpoint_io.save(contents(1), path)
    return path


def test_inspect_describes_without_loading(tmp_path: pathlib.Path) -> None:
    checkpoint_io.save(
        {**contents(3), "half": torch.zeros(2, 5, dtype=torch.bfloat16), "leyden_version": "9"},
        tmp_path / "a.ckpt",
    )
    found = checkpoint_io.inspect(tmp_path / "a.ckpt")
    assert found["file"]["damaged"] is None
    assert found["file"]["bytes"] == (tmp_path / "a.ckpt").stat().st_size
    assert found["keys"]["state_dict"] == "dict of 2"
    assert found["values"] == {"epoch": 3, "note": "text", "leyden_version": "9"}
    assert found["versions"] == {"leyden_version": "9"}
    assert repr(found["tensors"]["state_dict.weight"]) == "tensor(3x4, float32)"
    assert found["tensors"]["state_dict.weight"].nbytes == 48
    assert repr(found["tensors"]["optimizer_states.0.state.0.step"]) == "tensor(scalar, float32)"
    assert repr(found["tensors"]["half"]) == "tensor(2x5, bfloat16)"
    assert found["parameters"] == 15
    assert found["names"] == []


def test_inspect_shows_what_an_old_file_names(tmp_path: pathlib.Path) -> None:
    with lightning() as pl:
        hparams = pl.AttributeDict(a=argparse.Namespace(b=1))
        callbacks = {pl.ModelCheckpoint: {"best": torch.zeros(2)}}
        torch.save({"callbacks": callbacks, "hparams": hparams}, tmp_path / "a")
    found = checkpoint_io.inspect(tmp_path / "a")
    name = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    assert list(found["tensors"]) == [f"callbacks.{name}.best"]
    assert found["names"] == [
        "argparse.Namespace",
        name,
        "pytorch_lightning.utilities.parsing.AttributeDict",
    ]


def test_inspect_names_the_damaged_record(previous: pathlib.Path) -> None:
    data = bytearray(previous.read_bytes())
    data[data.index(torch.full((4,), 1.0).numpy().tobytes()) + 3] ^= 1
    previous.write_bytes(data)
    assert "/data/" in checkpoint_io.inspect(previous)["file"]["damaged"]
    previous.write_bytes(data[:100])
    with pytest.raises(ValueError, match="cannot be looked into"):
        checkpoint_io.inspect(previous)
    with zipfile.ZipFile(previous, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(ValueError, match="no data.pkl"):
        checkpoint_io.inspect(previous)


def test_inspect_needs_no_torch(previous: pathlib.Path) -> None:
    from leyden.handlers import checkpoint_inspect

    code = (
        "import sys, runpy; found = runpy.run_path(sys.argv[1])['inspect'](sys.argv[2])\n"
        "assert 'torch' not in sys.modules and found['values']['epoch'] == 1\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, checkpoint_inspect.__file__, str(previous)], check=True
    )

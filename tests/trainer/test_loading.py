"""load_from_checkpoint."""

import argparse
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leyden
from leyden.handlers import checkpoint_io, checkpoint_objects
from leyden.handlers.checkpoint_io import UnsafeCheckpoint
from leyden.module import LightningModule


class Sized(LightningModule):
    def __init__(self, width: int, rate: float = 0.1, kind: str = "a") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.kind = kind
        self.layer = nn.Linear(width, 1)
        self.register_buffer("seen", torch.zeros(1))


class Conf(LightningModule):
    def __init__(self, conf: Any, other: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters(conf)
        self.other = other
        self.layer = nn.Linear(conf.width if hasattr(conf, "width") else conf["width"], 1)


class Plain(LightningModule):
    def __init__(self, width: int, deep: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.width, self.deep = width, deep


class Takes(LightningModule):
    def __init__(self, width: int = 2, **rest: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)
        self.rest = rest


def saved(path: Path, module: LightningModule, **more: Any) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "epoch": 1, "global_step": 4}
    if module.hparams:
        checkpoint["hyper_parameters"] = dict(module.hparams)
        checkpoint["hparams_name"] = module._hparams_name
    torch.save({**checkpoint, **more}, path / "x.ckpt")
    return path / "x.ckpt"


def test_the_module_comes_back(tmp_path: Path) -> None:
    module = Sized(3, kind="b")
    module.seen += 8
    path = saved(tmp_path, module)
    same, other = (
        Sized.load_from_checkpoint(path),
        Sized.load_from_checkpoint(str(path), kind="c", rate=0.7),
    )
    assert dict(same.hparams) == {"width": 3, "rate": 0.1, "kind": "b"}
    assert dict(other.hparams) == {"width": 3, "rate": 0.7, "kind": "c"}
    assert (same.kind, other.kind) == ("b", "c")
    assert same.training and same.trainer is None
    for name, value in module.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)


@pytest.mark.parametrize("kind", [dict, argparse.Namespace])
def test_one_object_of_hyper_parameters(tmp_path: Path, kind: Any) -> None:
    path = saved(tmp_path, Conf(kind(width=3, rate=0.1)))
    assert dict(Conf.load_from_checkpoint(path).hparams) == {"width": 3, "rate": 0.1}
    changed = Conf.load_from_checkpoint(path, rate=0.5, other=7)
    assert dict(changed.hparams) == {"width": 3, "rate": 0.5} and changed.other == 7
    given = Conf.load_from_checkpoint(path, conf={"width": 3})
    assert dict(given.hparams) == {"width": 3}


def test_arguments_that_were_not_saved(tmp_path: Path) -> None:
    path = saved(tmp_path, Plain(3))
    with pytest.raises(
        TypeError, match=r"Plain needs 'width', .* load_from_checkpoint\(path, width"
    ):
        Plain.load_from_checkpoint(path)
    assert Plain.load_from_checkpoint(path, width=3, unknown=1).width == 3


def test_a_constructor_that_takes_everything(tmp_path: Path) -> None:
    path = saved(
        tmp_path, Plain(2), hyper_parameters={"width": 2, "more": 1}, hparams_name="kwargs"
    )
    assert Takes.load_from_checkpoint(path, own=3).rest == {"more": 1, "own": 3}
    assert not Plain.load_from_checkpoint(path).deep


def test_names_of_old_versions(tmp_path: Path) -> None:
    path = saved(tmp_path, Plain(3), module_arguments={"width": 3, "deep": True})
    assert Plain.load_from_checkpoint(path).deep


def test_hparams_file_replaces_the_saved_ones(tmp_path: Path) -> None:
    path = saved(tmp_path, Sized(3))
    (tmp_path / "h.yaml").write_text("width: 3\nkind: z\n")
    got = Sized.load_from_checkpoint(path, hparams_file=tmp_path / "h.yaml")
    assert dict(got.hparams) == {"width": 3, "rate": 0.1, "kind": "z"}
    with pytest.raises(ValueError, match="use .yaml, .yml or .csv"):
        Sized.load_from_checkpoint(path, hparams_file=tmp_path / "h.txt")


def test_files_that_are_missing_or_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Sized.load_from_checkpoint(tmp_path / "none.ckpt", width=3)
    path = saved(tmp_path, Plain(3))
    with pytest.raises(RuntimeError, match=re.escape("size mismatch for layer.weight")):
        Plain.load_from_checkpoint(path, width=4)
    with pytest.raises(RuntimeError, match="seen"):
        Sized.load_from_checkpoint(path, width=3)
    assert Sized.load_from_checkpoint(path, width=3, strict=False).kind == "a"


def test_the_hook_runs_before_the_weights_are_loaded(tmp_path: Path) -> None:
    class Grows(Plain):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.layer = nn.Linear(checkpoint["state_dict"]["layer.weight"].shape[1], 1)

    assert Grows.load_from_checkpoint(saved(tmp_path, Plain(5)), width=1).layer.in_features == 5


def test_an_error_of_the_constructor_is_not_hidden(tmp_path: Path) -> None:
    class Fails(Plain):
        def __init__(self, width: int) -> None:
            raise TypeError("of its own")

    with pytest.raises(TypeError, match="^of its own$"):
        Fails.load_from_checkpoint(saved(tmp_path, Plain(3)), width=3)


def test_map_location(tmp_path: Path) -> None:
    seen = []

    class Looks(Plain):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            seen.append(checkpoint["state_dict"]["layer.weight"].device.type)

    path = saved(tmp_path, Plain(3))
    Looks.load_from_checkpoint(path, width=3)
    with pytest.raises(RuntimeError, match="meta tensor"):
        Looks.load_from_checkpoint(path, map_location="meta", width=3)
    assert seen == ["cpu", "meta"]


def test_an_open_file_is_read_too(tmp_path: Path) -> None:
    module = Sized(3)
    path = saved(tmp_path, module)
    with path.open("rb") as file:
        from_file = Sized.load_from_checkpoint(file)
    for loaded in (from_file, Sized.load_from_checkpoint(io.BytesIO(path.read_bytes()))):
        assert torch.equal(loaded.layer.weight, module.layer.weight)
        assert dict(loaded.hparams) == dict(module.hparams)
    with pytest.raises(checkpoint_io.DamagedCheckpoint):
        Sized.load_from_checkpoint(io.BytesIO(path.read_bytes()[:-100]))


def test_the_hook_finds_hyper_parameters_in_any_file(tmp_path: Path) -> None:
    class Looks(Plain):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.found = checkpoint["hyper_parameters"]

    path = saved(tmp_path, Plain(2))
    assert Looks.load_from_checkpoint(path, width=2).found == {}


class Judge(nn.Module):
    """A loss that is an argument of the module."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power


class Judged(LightningModule):
    def __init__(self, loss: Any, name: str = "a", shape: Any = abs) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.loss, self.name, self.shape = loss, name, shape
        self.layer = nn.Linear(2, 1)


def judged(path: Path, **arguments: Any) -> Path:
    made = leyden.Trainer(logger=False, checkpoint_callback=False, default_root_dir=str(path))
    made._run.model = Judged(**arguments)
    made.save_checkpoint(path / "j.ckpt", weights_only=True)
    return path / "j.ckpt"


def test_objects_come_back_to_the_process_that_saved_them(tmp_path: Path) -> None:
    loss = Judge(3)
    module = Judged.load_from_checkpoint(judged(tmp_path, loss=loss, name="b"))
    assert module.loss is not loss and (module.loss.power, module.name) == (3, "b")
    assert module.hparams.loss is module.loss


def test_objects_of_another_process_are_given_or_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = judged(tmp_path, loss=Judge(3), name="b")
    monkeypatch.setattr(checkpoint_objects, "_OWN", set())
    with pytest.raises(UnsafeCheckpoint, match="'loss' as pickled.*loss=.*trust_checkpoint=True"):
        Judged.load_from_checkpoint(path)
    assert Judged.load_from_checkpoint(path, loss=Judge(5)).loss.power == 5
    assert Judged.load_from_checkpoint(path, trust_checkpoint=True).loss.power == 3


@pytest.mark.filterwarnings("ignore:these values are no plain data")
def test_what_could_not_be_pickled_has_its_default_or_is_asked_for(tmp_path: Path) -> None:
    path = judged(tmp_path, loss=Judge(1), shape=lambda x: x)
    assert Judged.load_from_checkpoint(path).shape is abs
    path = judged(tmp_path, loss=lambda x: x)
    with pytest.raises(TypeError, match="Judged needs 'loss', which the checkpoint does not hold"):
        Judged.load_from_checkpoint(path)

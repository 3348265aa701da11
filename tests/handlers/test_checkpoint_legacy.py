"""Files of Lightning 1.1 and before load as data, without Lightning."""

import argparse
import pathlib

import pytest
import torch

from leyden.handlers import checkpoint_io
from leyden.handlers.checkpoint_io import UnsafeCheckpoint
from tests.handlers.checkpoint_cases import contents, lightning


def test_checkpoints_of_1_1_load_without_lightning(tmp_path: pathlib.Path) -> None:
    with lightning() as pl:
        torch.save(
            {
                **contents(2),
                "pytorch-lightning_version": "1.1.8",
                "callbacks": {
                    pl.EarlyStopping: {"wait_count": 1},
                    pl.ModelCheckpoint: {"best_model_score": torch.tensor(0.5)},
                },
                "hyper_parameters": pl.AttributeDict(
                    width=2, nested=argparse.Namespace(rate=0.1, names=["a"])
                ),
            },
            tmp_path / "a.ckpt",
        )
    loaded = checkpoint_io.load(tmp_path / "a.ckpt")
    assert loaded["epoch"] == 2
    assert list(loaded["callbacks"]) == ["EarlyStopping", "ModelCheckpoint"]
    assert loaded["callbacks"]["EarlyStopping"] == {"wait_count": 1}
    assert loaded["hyper_parameters"] == {"width": 2, "nested": {"rate": 0.1, "names": ["a"]}}
    assert type(loaded["hyper_parameters"]["nested"]) is dict


def test_older_forms_are_brought_to_todays(tmp_path: pathlib.Path) -> None:
    torch.save(
        {
            "epoch": 1,
            "hparams": argparse.Namespace(width=3),
            "checkpoint_callback_best_model_score": 0.25,
            "checkpoint_callback_best_model_path": "x.ckpt",
            "early_stop_callback_wait": 2,
            "early_stop_callback_patience": 5,
        },
        tmp_path / "a.ckpt",
    )
    assert checkpoint_io.load(tmp_path / "a.ckpt") == {
        "epoch": 1,
        "hyper_parameters": {"width": 3},
        "callbacks": {
            "ModelCheckpoint": {"best_model_score": 0.25, "best_model_path": "x.ckpt"},
            "EarlyStopping": {"wait_count": 2, "patience": 5},
        },
    }


def test_a_callback_of_the_users_needs_its_name(tmp_path: pathlib.Path) -> None:
    with lightning() as pl:
        torch.save({"callbacks": {pl.Mine: {"x": 1}}}, tmp_path / "a.ckpt")
    with pytest.raises(UnsafeCheckpoint, match=r"pytorch_lightning.my_callbacks.Mine"):
        checkpoint_io.load(tmp_path / "a.ckpt")
    loaded = checkpoint_io.load(tmp_path / "a.ckpt", allow=["pytorch_lightning.my_callbacks.Mine"])
    assert loaded == {"callbacks": {"Mine": {"x": 1}}}


@pytest.mark.slow
def test_what_needs_trust_is_refused_and_says_how(tmp_path: pathlib.Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
    with lightning() as pl:
        # torch 1.7 kept the bound method in the state.
        state = {"anneal_func": scheduler.step, "callbacks": {pl.ModelCheckpoint: {}}}
        torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(UnsafeCheckpoint, match=r"a.ckpt.*getattr.*trust_checkpoint=True"):
        checkpoint_io.load(tmp_path / "a.ckpt")
    loaded = checkpoint_io.load(tmp_path / "a.ckpt", trust=True)
    assert list(loaded["callbacks"]) == ["ModelCheckpoint"]
    assert callable(loaded["anneal_func"])

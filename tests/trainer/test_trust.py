"""Files that could run code are refused everywhere, and read where ``trust_checkpoint=True``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.callbacks import ModelCheckpoint
from leyden.engine.errors import MisconfigurationException
from leyden.handlers.checkpoint_io import UnsafeCheckpoint, load
from tests.handlers.checkpoint_cases import lightning
from tests.trainer.tiny import Bare, data, trainer, weights


class OneCycle(Bare):
    """Its schedule is the one whose state of torch 1.7 holds a bound method."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=30)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test", self.net(batch[0]).mean())

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.net(batch[0])


class Trace:
    """Leaves a folder behind when it is read from a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self.marker), 0o777, True)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A checkpoint as Lightning 1.1.8 and torch 1.7 left it, with something that leaves a trace."""
    made = trainer(tmp_path, max_epochs=1)
    made.fit(OneCycle(), data())
    made.save_checkpoint(tmp_path / "old.ckpt")
    checkpoint = torch.load(tmp_path / "old.ckpt", weights_only=True)
    del checkpoint["leyden"]
    (schedule,) = checkpoint["lr_schedulers"]
    schedule["anneal_func"] = made.lr_schedulers[0]["scheduler"].get_last_lr
    with lightning() as pl:
        checkpoint["callbacks"] = {pl.ModelCheckpoint: {"best_model_path": "", "dirpath": None}}
        checkpoint["trace"] = Trace(tmp_path / "was run")
        torch.save(checkpoint, tmp_path / "old.ckpt")
    return tmp_path / "old.ckpt"


def _fit(path: Path, **given: Any) -> Any:
    saver = ModelCheckpoint(dirpath=path.parent / "more")
    made = trainer(
        path.parent,
        max_epochs=2,
        resume_from_checkpoint=path,
        callbacks=[saver],
        checkpoint_callback=True,
    )
    made.fit(OneCycle(), data(), **given)
    return made


def _fitted(path: Path) -> Any:
    made = trainer(path.parent, max_epochs=1)
    made.fit(OneCycle(), data())
    return made


def _words(path: Path, **given: Any) -> None:
    saver = ModelCheckpoint(dirpath=path.parent)
    made = trainer(path.parent, max_epochs=2, callbacks=[saver], checkpoint_callback=True)
    made.fit(OneCycle(), data(), ckpt_path="best", **given)


READERS: dict[str, Callable[..., Any]] = {
    "fit": _fit,
    "fit, a word": _words,
    "test": lambda path, **given: _fitted(path).test(
        test_dataloaders=data(), ckpt_path=path, verbose=False, **given
    ),
    "predict": lambda path, **given: _fitted(path).predict(
        dataloaders=data(), ckpt_path=path, **given
    ),
    "load_from_checkpoint": OneCycle.load_from_checkpoint,
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_refused_until_it_is_trusted(old: Path, reader: str) -> None:
    with pytest.raises(UnsafeCheckpoint, match=r"old\.ckpt.*trust_checkpoint=True: to fit, test"):
        READERS[reader](old)
    assert not (old.parent / "was run").exists(), "code from the file was executed"
    READERS[reader](old, trust_checkpoint=True)
    assert (old.parent / "was run").exists(), "the whole file was read"


@pytest.mark.slow
def test_a_trusted_run_goes_on_and_saves_files_that_need_no_trust(old: Path) -> None:
    made = _fit(old, trust_checkpoint=True)
    assert made.engine.state.optimizer_steps == 12
    schedule = made.lr_schedulers[0]["scheduler"]
    assert schedule.last_epoch == 12 and not hasattr(schedule, "anneal_func")
    made.save_checkpoint(old.parent / "new.ckpt")
    found = load(old.parent / "new.ckpt")
    assert found["lr_schedulers"][0]["last_epoch"] == 12


def test_trust_is_for_one_call(old: Path) -> None:
    made = _fit(old, trust_checkpoint=True)
    (old.parent / "was run").rmdir()
    before = weights(made.model)
    with pytest.raises(UnsafeCheckpoint):
        made.fit(made.model, data(), ckpt_path=old)
    assert torch.equal(weights(made.model), before)
    assert not (old.parent / "was run").exists()


@pytest.mark.parametrize("method", ["fit", "test", "validate", "predict"])
def test_only_true_is_trust(method: str, tmp_path: Path) -> None:
    made = trainer(tmp_path)
    with pytest.raises(MisconfigurationException, match=rf"{method}\(trust_checkpoint='no'"):
        getattr(made, method)(Bare(), data(), trust_checkpoint="no")

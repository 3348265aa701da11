"""A checkpoint of another run: every difference is named, and nothing is changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.handlers.checkpoint_mismatch import refuse
from tests.trainer.tiny import Tiny, data, trainer, weights


class Counts(leyden.Callback):
    """Has a state of its own, with names that may differ."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.state_keys = names  # type: ignore[misc]
        for name in names:
            setattr(self, name, 1)


def _saved(root: Path, make: Callable[..., Any] | None = None, **arguments: Any) -> Path:
    made = trainer(root, max_epochs=1, **arguments)
    made.fit(Tiny(make), data(), data(2))
    made.save_checkpoint(root / "a.ckpt")
    return root / "a.ckpt"


def _refused(path: Path, model: Any, **arguments: Any) -> list[str]:
    made = trainer(path.parent, max_epochs=2, resume_from_checkpoint=path, **arguments)
    before, streams = weights(model).clone(), torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="does not fit this run, nothing was restored") as caught:
        made.fit(model, data(), data(2))
    assert torch.equal(weights(model), before)
    assert all(not state.state for state in made.optimizers)
    assert torch.equal(torch.random.get_rng_state(), streams)
    return [line.strip() for line in str(caught.value).splitlines()[1:-1]]


def _sgd(parameters: Any, **more: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, **more)


def _with(kind: Any, *rest: Any) -> Callable[..., Any]:
    def make(parameters: Any) -> Any:
        optimizer = _sgd(parameters)
        return [optimizer], [kind(optimizer, *rest)]

    return make


def test_other_kinds_of_optimizers(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    assert _refused(path, Tiny(lambda p: torch.optim.Adam(p))) == [
        "optimizer 0 was saved by SGD, the run has Adam"
    ]
    path = _saved(tmp_path, lambda p: torch.optim.Adam(p))
    # The same names in both states: without the class nobody would notice.
    assert _refused(path, Tiny(lambda p: torch.optim.AdamW(p))) == [
        "optimizer 0 was saved by Adam, the run has AdamW"
    ]


def test_an_optimizer_of_a_file_that_names_none(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["leyden"]
    torch.save(checkpoint, path)
    assert _refused(path, Tiny(lambda p: torch.optim.Adam(p))) == [
        "optimizer 0 was saved without betas, eps, which Adam has"
    ]


def test_ones_own_optimizer_may_have_another_name_now(tmp_path: Path) -> None:
    class Renamed(torch.optim.SGD):
        pass

    path = _saved(tmp_path, lambda p: Renamed(p, lr=0.1))
    made = trainer(tmp_path, max_epochs=2, resume_from_checkpoint=path)
    made.fit(Tiny(), data(), data(2))
    assert made.global_step == 12


def test_switches_that_only_one_version_of_torch_has(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["leyden"]
    for name in ("maximize", "foreach", "differentiable", "fused"):
        checkpoint["optimizer_states"][0]["param_groups"][0].pop(name)
    torch.save(checkpoint, path)
    made = trainer(tmp_path, max_epochs=2, resume_from_checkpoint=path)
    made.fit(Tiny(), data(), data(2))
    assert made.global_step == 12


def test_groups_and_schedulers(tmp_path: Path) -> None:
    path = _saved(tmp_path, _with(lr_scheduler.StepLR, 1))

    def groups(parameters: Any) -> Any:
        all_of_them = list(parameters)
        return _sgd([{"params": all_of_them[:1]}, {"params": all_of_them[1:]}])

    assert _refused(path, Tiny(groups)) == [
        "optimizer 0 was saved with [4] parameters a group, it has [1, 3]",
        "1 learning rate schedulers were saved, the run has 0",
    ]
    assert _refused(path, Tiny(_with(lr_scheduler.ExponentialLR, 0.5))) == [
        "scheduler 0 was saved by StepLR, the run has ExponentialLR"
    ]


def test_the_state_of_a_callback_that_has_changed(tmp_path: Path) -> None:
    path = _saved(tmp_path, callbacks=[Counts("a", "b")])
    assert _refused(path, Tiny(), callbacks=[Counts("b", "c", "d")]) == [
        "the state of Counts was saved without 'c'",
        "the state of Counts was saved without 'd'",
        "the state of Counts has no 'a' (any more)",
    ]


def test_other_callbacks_are_told_of_on_both_sides(tmp_path: Path) -> None:
    path = _saved(tmp_path, callbacks=[EarlyStopping("val_score"), Counts("a")])
    made = trainer(
        tmp_path,
        max_epochs=2,
        resume_from_checkpoint=path,
        callbacks=[Counts("a"), ModelCheckpoint(dirpath=tmp_path / "c")],
        checkpoint_callback=True,
    )
    with pytest.warns(
        UserWarning, match=r"does not have: EarlyStopping\{.*; and none of ModelCheckpoint\{"
    ) as told:
        made.fit(Tiny(), data(), data(2))
    assert len(told) == 1 and "Counts" not in str(told[0].message)


def test_another_model_and_another_optimizer_in_one_list(tmp_path: Path) -> None:
    class Wider(Tiny):
        def __init__(self) -> None:
            super().__init__(lambda p: torch.optim.Adam(p))
            self.net[0] = torch.nn.Linear(5, 9)
            self.head = torch.nn.Linear(1, 1)

    assert _refused(_saved(tmp_path), Wider()) == [
        "weights 'head.weight' are missing in the checkpoint",
        "weights 'head.bias' are missing in the checkpoint",
        "weights 'net.0.weight' have the shape (8, 5), the model's have (9, 5)",
        "weights 'net.0.bias' have the shape (8,), the model's have (9,)",
        "optimizer 0 was saved by SGD, the run has Adam",
        "optimizer 0 was saved with [4] parameters a group, it has [6]",
    ]


def test_a_long_list_is_cut() -> None:
    with pytest.raises(RuntimeError, match=r"\n  line 59\n  \.\.\. and 40 more\nResume") as caught:
        refuse([f"line {number}" for number in range(100)])
    assert "line 60" not in str(caught.value)


def test_the_same_run_has_nothing_to_tell(tmp_path: Path) -> None:
    arguments: dict[str, Any] = dict(callbacks=[Counts("a"), EarlyStopping("val_score")])
    path = _saved(tmp_path, _with(lr_scheduler.StepLR, 1), **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = trainer(tmp_path, max_epochs=2, resume_from_checkpoint=path, **arguments)
        made.fit(Tiny(_with(lr_scheduler.StepLR, 1)), data(), data(2))

"""What a checkpoint holds, and that a run gets it back."""

import copy
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from leyden.handlers import checkpoint_io
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.checkpoint_state import FORM, callback_keys, dump, mismatches, restore
from leyden.handlers.early_stopping import EarlyStopping
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.handlers.plain_data import foreign
from tests.handlers.callback_runs import Run


class Old(CallbackBase):
    """Keeps its state in the style of Lightning 1.1."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Any = 0

    def on_save_checkpoint(self, trainer: Any, pl_module: Any) -> Any:
        return {"count": self.count}

    def on_load_checkpoint(self, state: Any) -> None:
        self.count = state["count"]


class New(CallbackBase):
    """Keeps its state in the style of later versions, and changes the file."""

    state_keys = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.seen: Any = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        checkpoint["added"] = 7

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        self.seen = checkpoint["added"]


class Both(Old):
    """Has a state in both styles."""

    state_keys = ("other",)
    other = 3


class Module(torch.nn.Linear):
    """A module with hyper-parameters and hooks."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.hparams: dict[str, Any] = {"width": 3, "where": Path("a")}
        self._hparams_name = "kwargs"
        self.loaded: Any = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = {"a": 1}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint["mine"]


def through_a_file(checkpoint: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    checkpoint_io.save(checkpoint, tmp_path / "x.ckpt", fsync=False)
    found = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert isinstance(found, dict)
    return found


def schedulers(run: Run, *made: Any) -> Run:
    run.lr_schedulers = [{"scheduler": scheduler} for scheduler in made]
    return run


def test_the_keys_are_lightnings(tmp_path: Path) -> None:
    run = Run(tmp_path, [Old(), EarlyStopping("score", mode="min")], scores=[1.0]).fit(2)
    schedulers(run, lr_scheduler.StepLR(run.optimizers[0], 1))
    found = through_a_file(dump(run), tmp_path)
    assert sorted(found) == sorted(
        "epoch global_step pytorch-lightning_version state_dict callbacks optimizer_states "
        "lr_schedulers leyden".split()
    )
    assert (found["epoch"], found["global_step"]) == (2, 8)
    assert sorted(found["optimizer_states"][0]) == ["param_groups", "state"]
    assert found["callbacks"]["Old"] == {"count": 0} and found["leyden"]["version"] == FORM
    light = dump(run, weights_only=True)
    assert sorted(light) == ["epoch", "global_step", "pytorch-lightning_version", "state_dict"]


def test_nothing_trained_is_step_0(tmp_path: Path) -> None:
    found = dump(Run(tmp_path, []))
    assert (found["epoch"], found["global_step"]) == (0, 0)


def test_ended_by_max_steps_within_an_epoch_goes_on_in_it(tmp_path: Path) -> None:
    run = Run(tmp_path, [], max_steps=4).fit(1)
    position = {"position": {"optimizer_steps": 4, "iteration": 4, "epoch_done": False}}
    run.resume_state = lambda: position  # type: ignore[attr-defined]
    assert dump(run)["epoch"] == 0
    position["position"]["epoch_done"] = True
    assert dump(run)["epoch"] == 1


def test_hyper_parameters_and_the_hooks_of_the_module(tmp_path: Path) -> None:
    module = Module()
    run = Run(tmp_path, [], model=module).fit(1)
    found = through_a_file(dump(run), tmp_path)
    assert found["hyper_parameters"] == {"width": 3, "where": "a"}
    assert found["hparams_name"] == "kwargs" and found["mine"] == {"a": 1}
    restore(run, found)
    assert module.loaded == {"a": 1}


def test_a_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def make(epochs: int) -> Run:
        run = Run(tmp_path, [])
        schedulers(run, lr_scheduler.StepLR(run.optimizers[0], 1, gamma=0.5))
        return run.fit(epochs)

    first = make(2)
    found = through_a_file(copy.deepcopy(dump(first)), tmp_path)
    first.lr_schedulers[0]["scheduler"].step()
    seen: list[Any] = []
    second = schedulers(Run(tmp_path, []))
    schedulers(second, lr_scheduler.StepLR(second.optimizers[0], 1, gamma=0.5))
    second.load_resume_state = lambda *a: seen.append(a)  # type: ignore[attr-defined]
    restore(second, found)
    assert seen == [(None, 2, 8)]
    assert second.lr_schedulers[0]["scheduler"].last_epoch == 0
    second.fit(2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(second.model.parameters(), make(4).model.parameters(), strict=True)
    )


def test_what_the_run_gives_comes_back(tmp_path: Path) -> None:
    run, seen = Run(tmp_path, []), []
    run.resume_state = lambda: {"position": {"iteration": 3, "optimizer_steps": 3}, "rng": [1, 2]}  # type: ignore[attr-defined]
    run.load_resume_state = lambda *a: seen.append(a)  # type: ignore[attr-defined]
    restore(run, through_a_file(dump(run), tmp_path))
    assert seen == [({"position": {"iteration": 3, "optimizer_steps": 3}, "rng": [1, 2]}, 1, 3)]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
        lambda o: lr_scheduler.ReduceLROnPlateau(o),
        lambda o: lr_scheduler.LambdaLR(o, lambda e: 0.5**e),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], [2]
        ),
    ],
)
def test_the_states_of_schedulers_are_plain_data(tmp_path: Path, make: Any) -> None:
    run = Run(tmp_path, [])
    with warnings.catch_warnings():
        # A closure in LambdaLR and SequentialLR's own first step: torch warns of both.
        warnings.simplefilter("ignore", UserWarning)
        schedulers(run, make(run.optimizers[0]))
        state = through_a_file(dump(run), tmp_path)["lr_schedulers"][0]
        run.lr_schedulers[0]["scheduler"].load_state_dict(state)


def test_milestones_come_back_without_a_warning_and_as_what_they_were(tmp_path: Path) -> None:
    first, second = Run(tmp_path, []), Run(tmp_path, [])
    schedulers(first, lr_scheduler.MultiStepLR(first.optimizers[0], [1, 3, 3]))
    schedulers(second, lr_scheduler.MultiStepLR(second.optimizers[0], [7]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore(second, through_a_file(dump(first), tmp_path))
    milestones = second.lr_schedulers[0]["scheduler"].milestones
    assert type(milestones) is Counter and milestones == {1: 1, 3: 2}


def test_numbers_of_numpy_are_kept_as_numbers(tmp_path: Path) -> None:
    class Best(New):
        def state_dict(self) -> dict[str, Any]:
            return {"best": np.float64(0.25), "scores": [np.float32(0.5)]}

    run = Run(tmp_path, [Best()])
    run.optimizers[0].param_groups[0]["lr"] = np.float64(0.125)
    scheduler = lr_scheduler.ConstantLR(run.optimizers[0])
    scheduler.base_lrs = [np.float64(0.75)]
    schedulers(run, scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = through_a_file(dump(run), tmp_path)
    assert list(found["callbacks"].values()) == [{"best": 0.25, "scores": [0.5]}]
    assert found["lr_schedulers"][0]["base_lrs"] == [0.75]
    rate = found["optimizer_states"][0]["param_groups"][0]["lr"]
    assert type(rate) is float and rate == run.optimizers[0].param_groups[0]["lr"]


# ------------------------------------------------------------------ callbacks


def test_all_styles_of_callback_state(tmp_path: Path) -> None:
    old, new, both = Old(), New(), Both()
    old.count, new.count, both.count, both.other = 1, 2, 3, 4
    found = through_a_file(dump(Run(tmp_path, [old, new, both])), tmp_path)
    assert found["callbacks"] == {"Old": {"count": 1}, "New": {"count": 2}, "Both": {"count": 3}}
    again = Old(), New(), Both()
    restore(Run(tmp_path, again), found)
    assert (again[0].count, again[1].count, again[1].seen) == (1, 2, 7)
    assert (again[2].count, again[2].other) == (3, 4)


def test_two_that_cannot_be_told_apart_keep_their_own_state(tmp_path: Path) -> None:
    pair = Old(), Old()
    pair[0].count, pair[1].count = 1, 2
    assert callback_keys(pair) == ["Old", "Old#2"]
    again = Old(), Old()
    restore(Run(tmp_path, again), dump(Run(tmp_path, pair)))
    assert (again[0].count, again[1].count) == (1, 2)


def test_the_state_of_a_callback_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = dump(Run(tmp_path, [Old(), New()]))
    with pytest.warns(UserWarning, match="callbacks that this run does not have: New[.] That"):
        restore(Run(tmp_path, [Old()]), found)


def test_a_state_that_runs_code_is_left_out(tmp_path: Path) -> None:
    odd = Old()
    odd.count = object()
    with pytest.warns(UserWarning, match=r"state of Old is left out.*an object at \['count'\]"):
        found = dump(Run(tmp_path, [odd]))
    assert through_a_file(found, tmp_path)["callbacks"] == {}


def test_states_named_by_class_as_lightning_did(tmp_path: Path) -> None:
    found = dump(Run(tmp_path, []))
    del found["leyden"]
    found["callbacks"] = {
        "EarlyStopping": {
            "wait_count": 2,
            "stopped_epoch": 0,
            "best_score": torch.tensor(1.0),
            "patience": 3,
        },
        "ModelCheckpoint": {
            "monitor": "score",
            "best_model_score": torch.tensor(1.0),
            "best_model_path": "a.ckpt",
            "current_score": None,
            "dirpath": "",
        },
    }
    stopping, checkpoint = EarlyStopping("score", mode="min"), ModelCheckpoint(monitor="score")
    restore(Run(tmp_path, [stopping, checkpoint]), found)
    assert (stopping.wait_count, checkpoint.best_model_path) == (2, "a.ckpt")


# ------------------------------------------------------------------ what does not fit


def test_weights_alone_are_no_run(tmp_path: Path) -> None:
    run = Run(tmp_path, []).fit(1)
    with pytest.raises(KeyError, match="optimizer_states, lr_schedulers.*weights only"):
        restore(run, dump(run, weights_only=True))


def test_everything_that_does_not_fit_is_listed_and_nothing_changes(tmp_path: Path) -> None:
    saved = dump(Run(tmp_path, []))
    other = Run(tmp_path, [], model=torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False)))
    schedulers(other, lr_scheduler.StepLR(other.optimizers[0], 1))
    before = copy.deepcopy(other.model.state_dict())
    problems = mismatches(other, saved)
    assert problems == [
        "weights '0.weight' are missing in the checkpoint",
        "weights 'weight' are not in the model",
        "weights 'bias' are not in the model",
        "optimizer 0 was saved with [2] parameters a group, it has [1]",
        "0 learning rate schedulers were saved, the run has 1",
    ]
    with pytest.raises(RuntimeError, match="nothing was restored") as caught:
        restore(other, saved)
    assert all(problem in str(caught.value) for problem in problems)
    assert all(torch.equal(v, before[k]) for k, v in other.model.state_dict().items())


def test_shapes_and_numbers_of_optimizers(tmp_path: Path) -> None:
    saved = dump(Run(tmp_path, []))
    wide = Run(tmp_path, [], model=torch.nn.Linear(2, 3))
    wide.optimizers = []
    with pytest.raises(RuntimeError) as caught:
        restore(wide, saved)
    assert "weights 'weight' have the shape (1, 2), the model's have (3, 2)" in str(caught.value)
    assert "1 optimizers were saved, the run has 0" in str(caught.value)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, [])
    saved = dump(run)
    saved["leyden"]["version"] = FORM + 1
    with pytest.raises(RuntimeError, match="newer leyden.*: update$"):
        restore(run, saved)


def test_the_module_may_rename_weights_of_an_older_one(tmp_path: Path) -> None:
    class Renames(torch.nn.Linear):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            state = checkpoint["state_dict"]
            state["weight"] = state.pop("w")

    run = Run(tmp_path, [], model=Renames(2, 1))
    saved = copy.deepcopy(dump(run))
    saved["state_dict"]["w"] = saved["state_dict"].pop("weight") + 1
    restore(run, saved)
    assert torch.equal(run.model.weight, saved["state_dict"]["weight"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, (2.0, None)], "b": torch.zeros(1), "c": torch.float16}, None),
        (Path("a"), "a PosixPath"),
        ([{"x": {3: object()}}], "an object at [0]['x'][3]"),
        ({(1, object()): 1}, "an object at  (a key)[1]"),
    ],
)
def test_foreign_names_the_first_thing_that_is_no_data(value: Any, expected: str | None) -> None:
    assert foreign(value) == expected

"""The record of ModelCheckpoint: what files are called, and what it keeps of them as state."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.handlers import checkpoint_io
from leyden.handlers.model_checkpoint import ModelCheckpoint
from tests.handlers.callback_runs import Run, names


def best(tmp_path: Path, **arguments: Any) -> ModelCheckpoint:
    """A checkpoint callback that watches the score."""
    return ModelCheckpoint(**{"dirpath": tmp_path, "monitor": "score", "mode": "min", **arguments})


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("template", "files"),
    [
        ("{epoch:03d}-{score:.2f}", ["epoch=000-score=0.12", "epoch=001-score=0.46"]),
        ("best", ["best", "best-v0"]),
        ("a-{missing}", ["a-missing=0", "a-missing=0-v0"]),
        ("x{score:.1f}y", ["xscore=0.1y", "xscore=0.5y"]),
        ("{step}_{epoch}", ["step=3_epoch=0", "step=7_epoch=1"]),
    ],
)
def test_templates(tmp_path: Path, template: str, files: list[str]) -> None:
    Run(tmp_path, [best(tmp_path, save_top_k=-1, filename=template)], scores=[0.123, 0.456]).fit(2)
    assert names(tmp_path) == sorted(f"{name}.ckpt" for name in files)


def test_values_without_their_names(tmp_path: Path) -> None:
    checkpoint = best(tmp_path, filename="{epoch}-{val/acc:.1f}", auto_insert_metric_name=False)
    path = checkpoint.format_checkpoint_name(3, 9, {"val/acc": torch.tensor(0.25)})
    assert path == str(tmp_path / "3-0.2.ckpt")


def test_prefix_version_and_joining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(DeprecationWarning, match="at the beginning of filename="):
        checkpoint = best(tmp_path, filename="name", prefix="test")
    assert checkpoint.format_checkpoint_name(3, 2, {}, ver=3) == str(tmp_path / "test-name-v3.ckpt")
    assert ModelCheckpoint(dirpath="").format_checkpoint_name(5, 4, {}) == "epoch=5-step=4.ckpt"
    monkeypatch.setattr(ModelCheckpoint, "CHECKPOINT_JOIN_CHAR", "@")
    assert checkpoint.format_checkpoint_name(3, 2, {}) == str(tmp_path / "test@name.ckpt")


def test_files_of_an_earlier_run_are_not_overwritten(tmp_path: Path) -> None:
    for _ in range(2):
        Run(tmp_path, [best(tmp_path, filename="m")], scores=[1.0]).fit(1)
    assert names(tmp_path) == ["m-v0.ckpt", "m.ckpt"]


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Logger:
        save_dir, name, version = "logs", "n", 2

    def directory(**kw: Any) -> str | None:
        checkpoint = ModelCheckpoint()
        Run(tmp_path / "r", [checkpoint], **kw).fit(1)
        return checkpoint.dirpath

    monkeypatch.chdir(tmp_path)
    assert directory() == str(tmp_path / "r" / "checkpoints")
    assert directory(weights_save_path="w") == os.path.join("w", "checkpoints")
    parts = ("n", "version_2", "checkpoints")
    assert directory(logger=Logger()) == os.path.join("logs", *parts)
    assert directory(logger=Logger(), weights_save_path="w") == os.path.join("w", *parts)


def test_filepath_is_directory_and_template_in_one(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="pass dirpath= and filename="):
        whole = ModelCheckpoint(tmp_path / "a" / "{epoch}")
    assert (whole.dirpath, whole.filename) == (str(tmp_path / "a"), "{epoch}")
    with pytest.warns(DeprecationWarning, match="filepath="):
        folder = ModelCheckpoint(tmp_path)
    assert (folder.dirpath, folder.filename) == (str(tmp_path), None)


def test_to_yaml_is_yaml(tmp_path: Path) -> None:
    checkpoint = best(tmp_path, save_top_k=2)
    Run(tmp_path, [checkpoint], scores=[2, 3, 1]).fit(3)
    checkpoint.best_k_models['odd: "name" #1'] = torch.tensor(0.5)
    checkpoint.to_yaml()
    lines = (tmp_path / "best_k_models.yaml").read_text().splitlines()
    plain = rf"{re.escape(str(tmp_path))}/epoch=\d-step=\d+.ckpt: [12].0"
    assert all(re.fullmatch(plain, line) for line in lines[:2])
    assert lines[2] == r'"odd: \"name\" #1": 0.5'


def test_a_remote_directory(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    checkpoint = best(tmp_path, dirpath="memory://leyden-test/run", save_top_k=1)
    Run(tmp_path, [checkpoint], scores=[2, 1, 3]).fit(3)
    checkpoint.to_yaml()
    found = fsspec.filesystem("memory").ls("/leyden-test/run", detail=False)
    ends = sorted(name.rsplit("/", 1)[1] for name in found)
    assert ends == ["best_k_models.yaml", "epoch=1-step=7.ckpt"]


@pytest.mark.parametrize("template", ["{epoch:.2q}", "{epoch", "epoch}", "{}"])
def test_bad_templates_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match=re.escape(template)):
        ModelCheckpoint(filename=template)


def test_a_format_that_does_not_fit_its_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="{score:d} cannot show score = 0.5"):
        Run(tmp_path, [best(tmp_path, filename="{score:d}")], scores=[0.5]).fit(1)


# ------------------------------------------------------------------ state


def test_the_state_in_the_file_knows_the_file(tmp_path: Path) -> None:
    checkpoint = best(tmp_path, save_top_k=2)
    Run(tmp_path, [checkpoint], scores=[2, 3, 1]).fit(3)
    state = checkpoint_io.load(checkpoint.best_model_path)["callbacks"][checkpoint.state_key]
    assert state["best_model_path"] == checkpoint.best_model_path
    assert state["superseded"] == [str(tmp_path / "epoch=1-step=7.ckpt")]
    assert {k: float(v) for k, v in state["best_k_models"].items()} == {
        k: float(v) for k, v in checkpoint.best_k_models.items()
    }


@pytest.mark.parametrize("monitor", ["score", None])
def test_a_run_killed_before_the_old_file_went_goes_on_as_if_not(
    tmp_path: Path, monitor: str | None
) -> None:
    def make() -> ModelCheckpoint:
        return best(tmp_path, monitor=monitor, save_top_k=None)

    Run(tmp_path, [make()], scores=[3.0, 2.0]).fit(2)
    newest = names(tmp_path)
    # The old file is back: the process died between the write and the removal.
    old = tmp_path / "epoch=0-step=3.ckpt"
    old.write_bytes(b"old")
    state = checkpoint_io.load(tmp_path / newest[0])["callbacks"]
    again = make()
    again.on_load_checkpoint(state[again.state_key])
    assert again.best_model_path == str(tmp_path / newest[0])
    run = Run(tmp_path, [again], scores=[1.0])
    run.state.iteration = run.state.optimizer_steps = 8
    again.on_train_start(run, run.model)
    assert names(tmp_path) == newest


def test_another_directory_takes_only_the_best_score(tmp_path: Path) -> None:
    first = best(tmp_path / "a", save_top_k=2)
    Run(tmp_path, [first], scores=[2, 3]).fit(2)
    again = best(tmp_path / "b", save_top_k=2)
    again.load_state_dict(first.state_dict())
    assert again.best_model_path == first.best_model_path and not again.best_k_models


def test_another_monitor_takes_nothing(tmp_path: Path) -> None:
    first = best(tmp_path)
    Run(tmp_path, [first], scores=[2.0]).fit(1)
    again = best(tmp_path, monitor="other")
    with pytest.warns(UserWarning, match="watched 'score', this one watches 'other'"):
        again.load_state_dict(first.state_dict())
    assert again.best_model_path == "" and again.best_model_score is None


def test_the_state_of_lightning_is_taken(tmp_path: Path) -> None:
    checkpoint = best(tmp_path)
    checkpoint.on_load_checkpoint(
        {
            "monitor": "score",
            "best_model_score": torch.tensor(2.0),
            "best_model_path": "a.ckpt",
            "current_score": torch.tensor(3.0),
            "dirpath": str(tmp_path),
        }
    )
    assert checkpoint.best_model_path == "a.ckpt" and float(checkpoint.best_model_score or 0) == 2.0

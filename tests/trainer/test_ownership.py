"""Which files a run removes or writes over: its own, whoever else's lie beside them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.callbacks import ModelCheckpoint
from leyden.handlers import checkpoint_record
from leyden.handlers.checkpoint_io import Origin, is_own, load, origin_of, save, verify
from tests.trainer.tiny import Bare, Tiny, data, trainer


def _files(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*.ckpt"))


def _saver(root: Path, **arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=root / "c", **{"filename": "{step}", "every_n_train_steps": 2, **arguments}
    )


def _fit(root: Path, *, model: Any = None, resume: Any = None, epochs: int = 2, **arg: Any) -> Any:
    saver = _saver(root, **arg)
    made = trainer(
        root,
        max_epochs=epochs,
        callbacks=[saver],
        checkpoint_callback=True,
        resume_from_checkpoint=resume,
    )
    made.fit(Bare() if model is None else model, data())
    return made


def test_every_file_says_whose_it_is(tmp_path: Path) -> None:
    made = _fit(tmp_path, save_last=True)
    other = _fit(tmp_path / "other", save_weights_only=True)
    (light,) = (tmp_path / "other" / "c").glob("*.ckpt")
    assert origin_of(str(tmp_path / "c" / "last.ckpt")) == Origin(made.run_id, 12)
    assert origin_of(str(light)) == Origin(other.run_id, 12)
    assert made.run_id != other.run_id
    again = _fit(tmp_path, resume=tmp_path / "c" / "last.ckpt", epochs=3, save_last=True)
    assert again.run_id == made.run_id
    made.fit(Bare(), data())
    assert made.run_id != again.run_id, "another model is another run"


def test_what_says_nothing_is_nobodys(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "text.ckpt").write_text("kept by hand")
    for name in ("foreign.ckpt", "text.ckpt", "missing.ckpt"):
        assert origin_of(str(tmp_path / name)) is None
        assert not is_own(str(tmp_path / name), "somebody")


def test_a_remote_file_says_so_too() -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    save({"leyden": {"run": "mine"}, "global_step": 3}, "memory://ownership/a.ckpt")
    assert origin_of("memory://ownership/a.ckpt") == Origin("mine", 3)
    assert origin_of("memory://ownership/b.ckpt") is None


def test_a_fresh_run_beside_another_leaves_its_files(tmp_path: Path) -> None:
    first = _fit(tmp_path)
    assert _files(tmp_path / "c") == ["step=11.ckpt"]
    before = (tmp_path / "c" / "step=11.ckpt").read_bytes()
    second = _fit(tmp_path)
    assert _files(tmp_path / "c") == ["step=11-v0.ckpt", "step=11.ckpt"]
    assert (tmp_path / "c" / "step=11.ckpt").read_bytes() == before
    assert first.run_id != second.run_id


def test_going_on_from_an_older_file_makes_no_duplicates(tmp_path: Path) -> None:
    _fit(tmp_path, save_top_k=-1)
    files = _files(tmp_path / "c")
    assert len(files) == 6
    _fit(tmp_path, resume=tmp_path / "c" / "step=3.ckpt", save_top_k=-1)
    assert _files(tmp_path / "c") == files


def test_somebody_went_back_to_try_something_else(tmp_path: Path) -> None:
    """The same run and step, other weights: what was there is kept."""
    _fit(tmp_path, save_top_k=-1)
    files = _files(tmp_path / "c")
    before = (tmp_path / "c" / "step=11.ckpt").read_bytes()
    slower = Bare(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    slower.training_step = (  # type: ignore[method-assign]
        lambda batch, batch_idx: Tiny.training_step(slower, batch, batch_idx) * 0.5
    )
    _fit(tmp_path, model=slower, resume=tmp_path / "c" / "step=3.ckpt", save_top_k=-1)
    more = [f"step={step}-v0.ckpt" for step in (5, 7, 9, 11)]
    assert _files(tmp_path / "c") == sorted(files + more)
    assert (tmp_path / "c" / "step=11.ckpt").read_bytes() == before


def test_a_damaged_one_of_its_own_is_written_anew(tmp_path: Path) -> None:
    _fit(tmp_path, save_top_k=-1)
    files = _files(tmp_path / "c")
    newest = tmp_path / "c" / "step=11.ckpt"
    content = bytearray(newest.read_bytes())
    weights = load(newest)["state_dict"]["net.0.weight"].numpy().tobytes()
    content[content.index(weights)] ^= 1
    newest.write_bytes(content)
    os.utime(newest, (2e9, 2e9))
    with pytest.warns(UserWarning, match="skipped: .*step=11.ckpt"):
        _fit(tmp_path, resume="last", save_top_k=-1)
    assert _files(tmp_path / "c") == files and verify(newest)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("saves", [1, 3])
def test_killed_between_the_new_file_and_the_end_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int, asynchronous: bool
) -> None:
    folder, then = tmp_path / "c", tmp_path / "then"
    removed: list[str] = []

    def watched(path: str) -> None:
        removed.append(Path(path).name)
        if len(removed) == saves:  # what is there if it dies now
            shutil.copytree(folder, then)
        os.remove(path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_record, "remove", watched)
        _fit(tmp_path, asynchronous=asynchronous)
    whole = _files(folder)
    assert len(removed) == 5 and removed[saves - 1] in _files(then)
    for start in _files(then):
        shutil.rmtree(folder)
        shutil.copytree(then, folder)
        _fit(tmp_path, resume=folder / start, asynchronous=asynchronous)
        assert _files(folder) == whole, start


def test_a_name_that_is_another_runs_by_now_is_left_alone(tmp_path: Path) -> None:
    """The state lists a file; meanwhile somebody put another one there."""
    _fit(tmp_path, epochs=1)
    mine = tmp_path / "c" / "step=5.ckpt"
    elsewhere = tmp_path / "mine.ckpt"
    shutil.move(mine, elsewhere)
    _fit(tmp_path, epochs=1)
    theirs = mine.read_bytes()
    _fit(tmp_path, resume=elsewhere)
    assert _files(tmp_path / "c") == ["step=11.ckpt", "step=5.ckpt"]
    assert mine.read_bytes() == theirs


def test_two_savers_with_the_same_names_keep_theirs(tmp_path: Path) -> None:
    def fit(resume: Any = None) -> None:
        savers = [_saver(tmp_path, save_top_k=-1, every_n_train_steps=n) for n in (2, 4)]
        made = trainer(
            tmp_path, max_epochs=2, callbacks=savers, checkpoint_callback=True,
            resume_from_checkpoint=resume,
        )  # fmt: skip
        made.fit(Bare(), data())

    fit()
    files = _files(tmp_path / "c")
    assert "step=3-v0.ckpt" in files and len(files) == 9
    fit(tmp_path / "c" / "step=1.ckpt")
    assert _files(tmp_path / "c") == files


def test_averaged_weights_are_compared_as_they_are_saved(tmp_path: Path) -> None:
    from leyden.callbacks import EMAWeightAveraging

    def fit(resume: Any = None) -> None:
        saver = _saver(tmp_path, save_top_k=-1)
        made = trainer(
            tmp_path, max_epochs=1, checkpoint_callback=True, resume_from_checkpoint=resume,
            callbacks=[EMAWeightAveraging(decay=0.9), saver],
        )  # fmt: skip
        made.fit(Bare(), data())

    fit()
    files = _files(tmp_path / "c")
    fit(tmp_path / "c" / "step=1.ckpt")
    assert _files(tmp_path / "c") == files


def test_no_file_of_this_process_is_read_to_see_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("is_own", "origin_of", "same_again"):
        monkeypatch.setattr(checkpoint_record, name, lambda path, *rest: bool(asked.append(path)))
    _fit(tmp_path)
    assert _files(tmp_path / "c") == ["step=11.ckpt"] and not asked

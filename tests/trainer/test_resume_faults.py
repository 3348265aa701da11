"""Disks that refuse, files that are damaged or hostile: loud, nothing lost, nothing executed."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.handlers import checkpoint_archive
from leyden.handlers.checkpoint_io import DamagedCheckpoint, UnsafeCheckpoint, verify
from tests.trainer.resume_runs import Drawing, Noisy, run

ERRORS = {"full": errno.ENOSPC, "refused": errno.EACCES}


class Refusing:
    """A file system that fails one call, from the n-th save on."""

    def __init__(self, monkeypatch: Any, kind: str, good: int) -> None:
        self.kind, self.good, self.tries = kind, good, 0
        if kind == "full":  # in the middle of the data
            self.real: Callable[..., Any] = checkpoint_archive._serialize
            monkeypatch.setattr(checkpoint_archive, "_serialize", self.write)
        else:  # when the file is to get its name
            self.real = os.replace
            monkeypatch.setattr(checkpoint_archive.os, "replace", self.move)

    def write(self, obj: Any, file: Any) -> None:
        if self.refuses():
            file.write(b"PK\x03\x04 half of it")
            raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]))
        self.real(obj, file)

    def move(self, source: Any, target: Any) -> None:
        if str(target).endswith(".ckpt") and self.refuses():
            raise PermissionError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]), str(target))
        self.real(source, target)

    def refuses(self) -> bool:
        self.tries += 1
        return self.tries > self.good


def _saver(on_error: Any) -> ModelCheckpoint:
    return ModelCheckpoint(every_n_train_steps=2, filename="{step}", on_error=on_error)


def _left(root: Path) -> list[Path]:
    assert not list(root.rglob("*.part")), "an unfinished file was left behind"
    found = sorted(root.rglob("*.ckpt"))
    assert all(verify(path) is not False for path in found)
    return found


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_ends_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: Any, kind: str
) -> None:
    Refusing(monkeypatch, kind, good=1)
    with pytest.raises(OSError, match=os.strerror(ERRORS[kind])) as caught:
        run(tmp_path, callbacks=(_saver("raise"),))
    assert caught.value.errno == ERRORS[kind]
    assert len(_left(tmp_path)) == 1, "the one before is still there"


@pytest.mark.parametrize("kind", ERRORS)
def test_a_warning_lets_the_run_go_on(tmp_path: Path, monkeypatch: Any, kind: str) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    whole = run(plain)
    Refusing(monkeypatch, kind, good=2)
    root = tmp_path / "refused"
    root.mkdir()
    with pytest.warns(RuntimeWarning, match="a checkpoint was not saved") as told:
        again = run(root, callbacks=(_saver("warn"),))
    assert again["weights"] == whole["weights"]
    (newest,) = _left(root)
    assert all(newest.name in str(one.message) for one in told)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: Any) -> bytes:
    root: Path = tmp_path_factory.mktemp("good")
    run(root, callbacks=(ModelCheckpoint(),), max_epochs=1)
    return next(root.rglob("*.ckpt")).read_bytes()


def _bad(kind: str, good: bytes, tmp_path: Path) -> Path:
    path = tmp_path / f"{kind}.ckpt"
    content = bytearray(good)
    if kind == "flipped":
        content[len(content) // 2] ^= 4
    path.write_bytes({"empty": b"", "cut": good[:-1000]}.get(kind, bytes(content)))
    if kind == "bomb":
        torch.save({"state_dict": {}, "bomb": Bomb(tmp_path / "went off")}, path)
    if kind == "bare bomb":
        path.write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    return path


def _fit(path: Path) -> None:
    run(path.parent, resume=path, logger=False)


def _test(path: Path) -> None:
    trainer = leyden.Trainer(
        default_root_dir=str(path.parent), logger=False, max_epochs=1,
        checkpoint_callback=False, progress_bar_refresh_rate=0, weights_summary=None,
    )  # fmt: skip
    model = Judged()
    loader = DataLoader(Noisy(), batch_size=8)
    trainer.fit(model, loader, loader)
    trainer.test(test_dataloaders=loader, ckpt_path=str(path))


class Judged(Drawing):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test", self.loss(batch))


def _load(path: Path) -> None:
    Drawing.load_from_checkpoint(str(path))


@pytest.mark.parametrize("reader", [_fit, _test, _load])
@pytest.mark.parametrize("kind", ["empty", "cut", "flipped", "bomb", "bare bomb"])
def test_a_bad_file_is_refused(
    tmp_path: Path, good: bytes, kind: str, reader: Callable[[Path], None]
) -> None:
    path = _bad(kind, good, tmp_path)
    expected = UnsafeCheckpoint if "bomb" in kind else DamagedCheckpoint
    if kind == "bare bomb":
        expected = (UnsafeCheckpoint, DamagedCheckpoint)  # type: ignore[assignment]
    with pytest.raises(expected, match=path.name):
        reader(path)
    assert not (tmp_path / "went off").exists(), "code from the file was executed"

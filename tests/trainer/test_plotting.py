"""leyden.plot: what was logged, read back and drawn."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.exceptions import MisconfigurationException
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden.plotting import curves
from tests.trainer.tiny import BATCHES, Tiny, data, trainer


def logged(root: Path, kind: Any) -> Any:
    made = trainer(root, max_epochs=3, logger=kind(str(root), name="run"), log_every_n_steps=1)
    made.fit(Tiny(), data(), data(2))
    return made


def size(picture: Path) -> tuple[int, int]:
    """Width and height, from the header of a PNG."""
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_curves_of_a_run(tmp_path: Path, kind: Any) -> None:
    if kind is TensorBoardLogger:
        pytest.importorskip("tensorboard", reason="tensorboard is missing")
    made = logged(tmp_path, kind)
    found = curves(made.log_dir)
    assert set(found) == {"loss_step", "loss_epoch", "val_score"}
    assert found["loss_step"][0] == list(range(3 * BATCHES))
    assert found["val_score"][0] == [BATCHES * (i + 1) - 1 for i in range(3)]
    assert found["val_score"][1][-1] == pytest.approx(float(made.callback_metrics["val_score"]))


@pytest.mark.slow
def test_the_picture(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    pytest.importorskip("matplotlib", reason="matplotlib is missing")
    made = logged(tmp_path, CSVLogger)
    path = leyden.plot(made.log_dir)
    assert path == str(Path(made.log_dir) / "metrics.png")
    width, height = size(Path(path))
    assert width == 2 * 5 * 110, "two panels: the loss's two curves share one"
    one = Path(leyden.plot(Path(made.log_dir) / "metrics.csv", tmp_path / "a" / "one.png",
                           metrics=["val_score"]))  # fmt: skip
    assert size(one) == (5 * 110, height)
    assert ("matplotlib.pyplot" in sys.modules) is before, "it would choose a window system"


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MisconfigurationException, match="no such file"):
        leyden.plot(tmp_path / "nothing")
    with pytest.raises(MisconfigurationException, match="neither a metrics.csv nor"):
        leyden.plot(tmp_path)
    (tmp_path / "metrics.csv").write_text("step\n1\n")
    with pytest.raises(MisconfigurationException, match="no metric was logged"):
        leyden.plot(tmp_path)
    (tmp_path / "metrics.csv").write_text("loss,step\n0.5,1\n,2\n0.25,3\n")
    assert curves(tmp_path) == {"loss": ([1.0, 3.0], [0.5, 0.25])}
    with pytest.raises(MisconfigurationException, match="'acc', which was not logged: .* loss"):
        leyden.plot(tmp_path, metrics=["acc"])
    with pytest.raises(MisconfigurationException, match="columns=0"):
        leyden.plot(tmp_path, columns=0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MisconfigurationException, match="pip install matplotlib"):
        leyden.plot(tmp_path)


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_curves_of_a_run_that_is_elsewhere(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec", reason="the package fsspec is missing")
    pytest.importorskip("matplotlib", reason="matplotlib is missing")
    logger = kind(f"memory://plots/{kind.__name__}", version="v")
    for step in range(3):
        logger.log_metrics({"loss": step / 2}, step)
    logger.close()
    assert curves(logger.log_dir) == {"loss": ([0.0, 1.0, 2.0], [0.0, 0.5, 1.0])}
    monkeypatch.chdir(tmp_path)
    assert leyden.plot(logger.log_dir) == "metrics.png"
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MisconfigurationException, match="memory://plots/none.*no such"):
        leyden.plot("memory://plots/none")

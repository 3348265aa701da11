"""Scripts written for Lightning 1.1, in its own documented style, run unchanged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent / "compat_scripts"
#: script -> (arguments, what it prints in the end, what that has to be at least and at most).
SCRIPTS = {
    "autoencoder": (["--max_epochs", "4"], "loss", 0.0, 0.04),
    "gan": ([], "generated", 0.1, 2.0),
    "image_classifier": (["--max_epochs", "3", "--batch_size", "32"], "accuracy", 0.8, 1.0),
    "lstm": ([], "loss", 0.0, 0.02),
    "transfer": ([], "accuracy", 0.5, 1.0),
}


def test_every_script_is_run() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(SCRIPTS)
    for name in SCRIPTS:
        source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert "import pytorch_lightning as pl" in source and "leyden" not in source


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_for_lightning_1_1_runs_unchanged(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics", reason="pl.metrics needs the extra 'metrics'")
    arguments, word, least, most = SCRIPTS[name]
    done = subprocess.run(
        [sys.executable, "-m", "leyden", "run", str(FOLDER / f"{name}.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found = re.findall(rf"^{word} ([0-9.e-]+)$", done.stdout, re.MULTILINE)
    assert least <= float(found[-1]) <= most, done.stdout[-2000:]


@pytest.mark.slow
def test_the_logs_and_checkpoints_are_where_1_1_puts_them(tmp_path: Path) -> None:
    script = FOLDER / "image_classifier.py"
    command = [sys.executable, "-m", "leyden", "run", str(script), "--fast_dev_run", "False"]
    command += ["--max_epochs", "1"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=200, check=False)
    version = tmp_path / "logs" / "digits" / "version_0"
    assert (version / "hparams.yaml").read_text() == (
        "hidden_dim: 64\nlearning_rate: 0.001\nnum_classes: 10\n"
    )
    assert list(version.glob("events.out.tfevents*"))
    (checkpoint,) = (version / "checkpoints").glob("epoch=00-val_acc=0.*.ckpt")
    assert checkpoint.stat().st_size > 1000


@pytest.mark.slow
def test_a_test_suite_for_lightning_1_1_passes_unchanged(tmp_path: Path) -> None:
    for path in (FOLDER.parent / "compat_suite").glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    options = ["-p", "leyden.compat", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "--rootdir", ".", "suite.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert re.search(r"^[23]\d passed", done.stdout, re.MULTILINE), done.stdout[-500:]

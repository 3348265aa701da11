"""Every example runs, as a whole program, and reaches what it says."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
#: what an example needs beside what leyden and the tests need.
NEEDS = {"hf_transformer": ["transformers"], "hydra_config": ["hydra"]}
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import an example from its file."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def run(
    name: str, where: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, **settings: object
) -> Any:
    """Run an example's ``main`` in a folder of its own, with a command line."""
    monkeypatch.chdir(where)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    return load(name, monkeypatch).main(**settings)


@pytest.mark.slow
def test_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("digits", tmp_path, monkeypatch, out="out") > 0.95
    (checkpoint,) = (tmp_path / "out").rglob("*.ckpt")
    events = next((tmp_path / "out").rglob("events.out.tfevents*"))
    said = capsys.readouterr().out
    assert "test accuracy" in said
    assert checkpoint.name in said and str(events.parent.relative_to(tmp_path)) in said
    picture = events.parent / "metrics.png"
    assert picture.name in said and picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_char_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of about a hundred characters each as likely as the others it would be 4.6.
    loss = run("char_transformer", tmp_path, monkeypatch, max_epochs=2, out="out")
    assert loss < 3.5
    assert list((tmp_path / "out").rglob("*.ckpt"))


@pytest.mark.slow
def test_gan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Points that are drawn at random, before training, are 0.7 away and more.
    assert run("gan", tmp_path, monkeypatch) < 0.15


@pytest.mark.slow
def test_lstm_tbptt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("lstm_tbptt", tmp_path, monkeypatch, "--max_epochs", "2") < 0.02


@pytest.mark.slow
def test_manual_optimization(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("manual_optimization", tmp_path, monkeypatch, "--max_epochs", "5") > 0.95


@pytest.mark.slow
def test_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tune", tmp_path, monkeypatch) > 0.9
    assert "batch_size: 2 -> 32 (32 fits, 64 does not" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_power_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("power_user", tmp_path, monkeypatch) > 0.9
    assert "GradientClipping.clip" in capsys.readouterr().out


@pytest.mark.slow
def test_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moved, fresh = load("transfer", monkeypatch).main()
    assert moved > fresh + 0.05


@pytest.mark.slow
def test_tabular(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, line = run("tabular", tmp_path, monkeypatch)
    assert network < 1.5 < 2 < line
    assert list((tmp_path / "runs" / "tabular").rglob("*.ckpt"))


@pytest.mark.slow
def test_metric_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    logged = run("metric_objects", tmp_path, monkeypatch)
    assert logged["val_f1"] > 0.9 and logged["train_accuracy"] > 0.9
    assert abs(logged["val_f1"] - logged["mean_of_batches"]) > 0.01


@pytest.mark.slow
def test_distributed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    two = run("distributed", tmp_path, monkeypatch)
    one = run("distributed", tmp_path, monkeypatch, processes=1)
    # After 480 steps of Adam the order of additions shows.
    assert two < 2e-3 and abs(two - one) < 1e-4


@pytest.mark.slow
def test_hf_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    assert run("hf_transformer", tmp_path, monkeypatch) > 0.85
    (rows,) = (tmp_path / "runs").rglob("metrics.csv")
    assert "lr-AdamW/pg1" in rows.read_text().splitlines()[0]


@pytest.mark.slow
def test_hydra_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra", reason="hydra-core is not installed")
    chosen = ["trainer.max_epochs=3", "model.hidden=8"]
    assert run("hydra_config", tmp_path, monkeypatch, overrides=chosen) < 0.6
    (config,) = (tmp_path / "runs").rglob("config.yaml")
    assert "max_epochs: 3" in config.read_text() and "hidden: 8" in config.read_text()


@pytest.mark.slow
def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("command_line", tmp_path, monkeypatch, "--gradient_clip_val", "2") > 0.9
    said = capsys.readouterr().out
    assert said.index("training begins") < said.index("slowest: batch") < said.index("accuracy")
    run("command_line", tmp_path, monkeypatch, "--gradient_clip_val", "2", "--show_plan")
    assert "gradient_clip_val=2" in capsys.readouterr().out


def test_every_example_is_on_the_page() -> None:
    page = (FOLDER.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[`(\w+)\.py`\]", page, re.MULTILINE)
    assert sorted(listed) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_is_and_runs_as_a_program(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{package} is not installed")
    assert 'if __name__ == "__main__":' in source
    module = load(name, monkeypatch)
    assert len(module.__doc__ or "") > 40
    assert callable(module.main)


@pytest.mark.slow
def test_resume(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert load("resume", monkeypatch).main([])
    assert "the same bits" in capfd.readouterr().out


@pytest.mark.slow
def test_the_other_examples_run(tmp_path: Path) -> None:
    for name in [name for name in EXAMPLES if f"test_{name}" not in globals()]:
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.strip(), name


@pytest.mark.xla
@pytest.mark.slow
def test_tpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    assert run("tpu", tmp_path, monkeypatch, max_epochs=3) > 0.9

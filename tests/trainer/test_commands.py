"""The command line: scripts written for Lightning 1.x, plans, and what is here."""

import importlib.metadata
import json
import platform
import re
import sys
from pathlib import Path

import pytest

import leyden
from leyden import compat
from leyden.__main__ import main
from leyden.config import CHECKS
from leyden.doctor import doctor, findings
from leyden.trainer import Trainer

#: As it is installed: torch itself adds its build, which not every package has in its version.
TORCH = importlib.metadata.version("torch")

SCRIPT = """
import sys
import torch
import pytorch_lightning as pl


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    trainer = pl.Trainer(
        max_epochs=int(sys.argv[1]), gradient_clip_val=0.5, logger=False, checkpoint_callback=False,
        progress_bar_refresh_rate=0, weights_summary=None,
    )
    trainer.fit(Model(), [torch.ones(2, 1)] * 3)
    print("steps", trainer.global_step)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "old.py"
    path.write_text(SCRIPT)
    return str(path)


def test_run_takes_the_script_and_its_arguments(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(sys.argv), list(sys.path)
    try:
        assert main(["run", script, "2"]) == 0
    finally:
        compat.uninstall()
    assert "steps 6" in capsys.readouterr().out
    assert (sys.argv, sys.path) == before


def test_plan_prints_and_trains_nothing(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    fit = vars(Trainer)["fit"]
    try:
        assert main(["plan", script, "2"]) == 0
    finally:
        compat.uninstall()
    out = capsys.readouterr().out
    assert "GradientClipping.clip" in out and "gradient_clip_val=0.5" in out
    assert "steps 6" not in out
    assert vars(Trainer)["fit"] is fit


def test_a_script_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nowhere.py"]) == 2
    assert "nowhere.py" in capsys.readouterr().err


def test_doctor_names_versions_devices_extras_and_what_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"leyden {leyden.__version__}, Python {platform.python_version()}")
    assert re.search(rf"^  torch +{re.escape(TORCH)}$", out, re.MULTILINE)
    assert re.search(r"^  CPU +.*\d threads", out, re.MULTILINE)
    assert re.search(r"^  precision=.* works$", out, re.MULTILINE)
    assert max(len(line) for line in out.splitlines()[1:]) <= 100


def test_doctor_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["leyden"] == leyden.__version__
    assert found["devices"]["cpu"]["count"] == 1
    assert {row["argument"] for row in found["arguments"]} <= set(CHECKS)


def test_doctor_compares_extras_with_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        requires = [
            'torch; extra == "there"',
            'torch>=999; extra == "old"',
            'no-such-package>=1; extra == "missing"',
            "torch",
            'pytest; extra == "test"',
        ]

    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [Made()])
    extras = findings()["extras"]
    assert set(extras) == {"there", "old", "missing"}
    assert extras["there"] == {"packages": {"torch": TORCH}, "missing": []}
    assert "has to be >=999" in extras["old"]["missing"][0]
    assert extras["missing"]["missing"] == ["no-such-package is not installed"]
    text = doctor()
    assert "pip install 'leyden[missing]'" in text and f"torch {TORCH}" in text


def test_doctor_tells_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"id": 0, "name": "Big", "memory": 80 * 2**30, "used": 2**30, "capability": [9, 0]}
    kinds = {"cuda": {"count": 1, "why": "", "devices": [gpu]}}
    kinds["tpu"] = {"count": 0, "why": "torch_xla is missing", "devices": []}
    rows = [{"argument": "gpus", "value": "1", "usable": True, "why": ""}]
    monkeypatch.setattr(
        "leyden.backends.devices.report", lambda: {"kinds": kinds, "arguments": rows}
    )
    text = doctor()
    assert "0: Big, 80.0 GiB of memory, 1.0 GiB in use, compute capability 9.0" in text
    assert re.search(r"TPU +none: torch_xla is missing", text)
    assert re.search(r"gpus=1 +works", text)


def test_every_command_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"\{([\w,]+)\}", capsys.readouterr().out)[0]
    page = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
    row = re.compile(r"^\| `python -m leyden (\w+)", re.MULTILINE)
    told = row.findall(page.read_text(encoding="utf-8"))
    assert sorted(told) == sorted(listed.split(","))

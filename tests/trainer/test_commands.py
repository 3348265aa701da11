"""The command line: scripts written for Lightning 1.x, plans, and what is here."""

import sys
from pathlib import Path

import pytest

from leyden import compat
from leyden.__main__ import main
from leyden.trainer import Trainer

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


def test_doctor_names_versions_extras_and_what_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "torch 2." in out and "extras:" in out and "tpu_cores:" in out

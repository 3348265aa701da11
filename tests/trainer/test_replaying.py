"""Steps of an earlier run, run again: the same bits, or where they differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.handlers.journal import Journal
from tests.trainer.resume_runs import BATCH, Drawing, Noisy, run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: Any) -> Path:
    root: Path = tmp_path_factory.mktemp("run")
    saver = ModelCheckpoint(every_n_train_steps=2, save_top_k=-1, filename="{step}")
    run(root, callbacks=(saver, Journal(losses=True)), accumulate_grad_batches=2, max_epochs=3)
    return root


def make() -> tuple[Any, ...]:
    """What the run was made of, for the command line too."""
    torch.manual_seed(123)
    return (
        Drawing(),
        DataLoader(Noisy(), batch_size=BATCH, shuffle=True),
        DataLoader(Noisy(), batch_size=8),
    )


@pytest.mark.parametrize("steps", [(4, 6), (5, 5), (2, 8)])
def test_the_same_bits(recorded: Path, steps: tuple[int, int]) -> None:
    found = leyden.replay(recorded, steps, *make())
    assert found.exact, str(found)
    # Two batches a step.
    assert sorted(found.losses) == list(range(2 * steps[0] + 1, 2 * steps[1] + 3))
    assert found.checkpoint is not None and found.trainer.global_step == steps[1] + 1


def test_another_model_is_found_out(recorded: Path) -> None:
    model, *loaders = make()
    model.net[1].p = 0.5
    found = leyden.replay(recorded, (4, 5), model, *loaders)
    assert not found.exact and found.checked == 4 and len(found.differences) == 4
    assert "4 batches, 4 checked against the journal, 4 differ" in str(found)


def test_nothing_is_left_behind(recorded: Path) -> None:
    before = sorted(recorded.rglob("*"))
    leyden.replay(recorded, (4, 4), *make())
    assert sorted(recorded.rglob("*")) == before


def test_without_an_early_checkpoint(recorded: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the earliest holds 2 steps"):
        leyden.replay(recorded, (1, 3), *make())


def test_without_a_journal(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no journal.jsonl"):
        leyden.replay(tmp_path, (1, 3), *make())


def test_bad_steps(recorded: Path) -> None:
    with pytest.raises(ValueError, match="no range of steps"):
        leyden.replay(recorded, (3, 1), *make())


def test_the_command(recorded: Path, capsys: Any) -> None:
    from leyden.__main__ import main

    command = ["replay", str(recorded), "--make", "tests.trainer.test_replaying:make"]
    assert main([*command, "--steps", "4:6"]) == 0
    assert "6 checked against the journal, 0 differ" in capsys.readouterr().out
    assert main([*command, "--steps", "x"]) == 2


def test_inspect(recorded: Path, capsys: Any, tmp_path: Path) -> None:
    from leyden.__main__ import main

    path = next(recorded.rglob("*.ckpt"))
    assert main(["inspect", str(path)]) == 0
    told = capsys.readouterr().out
    assert "every checksum is right" in told and "net.0.weight: tensor(8x4, float32)" in told
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 49
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"nothing")
    assert main(["inspect", str(broken)]) == 1
    assert "cannot be looked into" in capsys.readouterr().err


@pytest.mark.slow
def test_inspect_needs_no_torch(recorded: Path) -> None:
    path = next(recorded.rglob("*.ckpt"))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from leyden.__main__ import main; sys.exit(main(['inspect', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "49 numbers in state_dict" in done.stdout

"""A SLURM job whose time is up: kept, put back in line, gone on with bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.requeueing import is_requeued, left_by_job, next_name


class Module(leyden.LightningModule):
    """Draws random numbers in each step; sends itself a signal in one of them."""

    def __init__(self, signal_at: int = 0, number: int = signal.SIGUSR1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = torch.nn.Linear(4, 2)
        self.signal_at = signal_at
        self.number = number
        self.steps: list[tuple[int, int]] = []
        self.loaded: Any = None

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.steps.append((self.trainer.current_epoch, batch_idx))
        if len(self.steps) == self.signal_at:
            os.kill(os.getpid(), self.number)
        return (self.layer(batch[0]) + torch.rand(1)).pow(2).mean()

    def on_hpc_save(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = 5

    def on_hpc_load(self, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint["mine"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.1)


def trained(
    root: Path, signal_at: int = 0, number: int = signal.SIGUSR1, **arguments: Any
) -> tuple[Module, int]:
    """Train for 3 epochs of 10 batches; returns the module, and how the process would end."""
    leyden.seed_everything(1)
    module = Module(signal_at, number)
    trainer = leyden.Trainer(
        max_epochs=3,
        default_root_dir=root,
        logger=False,
        checkpoint_callback=False,
        progress_bar_refresh_rate=0,
        weights_summary=None,
        **arguments,
    )
    samples = TensorDataset(torch.randn(40, 4, generator=torch.Generator().manual_seed(0)))
    try:
        trainer.fit(module, DataLoader(samples, batch_size=4, shuffle=True))
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return module, ended.code
    return module, 0


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM job with a scontrol that writes down what it is told."""
    told = tmp_path / "told"
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    return told


def test_a_job_goes_on_in_the_batch_where_its_time_was_up(job: Path, tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole")
    first, code = trained(tmp_path / "root", signal_at=14)
    assert (code, first.steps[-1]) == (138, (1, 3))
    assert job.read_text() == "requeue 77\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    second, code = trained(tmp_path / "root", resume_from_checkpoint=tmp_path / "no_such.ckpt")
    assert (code, second.loaded, second.steps[0], len(second.steps)) == (0, 5, (1, 4), 16)
    assert torch.equal(second.layer.weight, whole.layer.weight)
    assert torch.equal(second.layer.bias, whole.layer.bias)


def test_the_highest_number_counts(job: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert (left_by_job(str(root)), next_name(str(root))) == (None, "hpc_ckpt_1.ckpt")
    for number in (2, 10, 9):
        (root / f"hpc_ckpt_{number}.ckpt").touch()
    (root / "hpc_ckpt_11.ckpt.tmp").touch()
    assert left_by_job(str(root)) == str(root / "hpc_ckpt_10.ckpt")
    assert next_name(str(root)) == "hpc_ckpt_11.ckpt"
    assert is_requeued(root / "hpc_ckpt_9.ckpt") and not is_requeued("last.ckpt")


def test_outside_of_jobs_nothing_is_put_back_and_what_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / "hpc_ckpt_1.ckpt").touch()
    assert left_by_job(str(tmp_path)) == str(tmp_path / "hpc_ckpt_1.ckpt")
    trainer = leyden.Trainer(logger=False, checkpoint_callback=False)
    assert "SlurmRequeue" not in trainer.handlers


def test_other_signals_do_not_put_a_job_back(job: Path, tmp_path: Path) -> None:
    _, code = trained(tmp_path / "root", signal_at=3, number=signal.SIGTERM)
    assert code == 143 and not job.exists()
    assert not list((tmp_path / "root").glob("hpc_ckpt_*"))

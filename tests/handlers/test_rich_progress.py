"""The progress bar on rich: the block, its bars, plain lines without a terminal."""

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rich", reason="the package rich is missing")

from rich.console import Console

from leyden.handlers.rich_progress import RichProgressBar


def fake_trainer() -> Any:
    return SimpleNamespace(
        num_training_batches=4,
        num_val_batches=[2],
        num_sanity_val_batches=[1],
        num_test_batches=[3],
        val_check_interval=1.0,
        check_val_every_n_epoch=1,
        current_epoch=0,
        disable_validation=False,
        running_sanity_check=False,
        batch_idx=0,
        progress_bar_dict={"loss": "0.5", "acc": 0.12345},
    )


def fit(bar: RichProgressBar, trainer: Any) -> None:
    bar.on_sanity_check_start(trainer, None)
    trainer.running_sanity_check = True
    bar.on_validation_start(trainer, None)
    bar.on_validation_batch_end(trainer, None, None, None, 0, 0)
    bar.on_validation_end(trainer, None)
    trainer.running_sanity_check = False
    bar.on_sanity_check_end(trainer, None)
    bar.on_train_start(trainer, None)
    for epoch in range(2):
        trainer.current_epoch = epoch
        bar.on_epoch_start(trainer, None)
        for idx in range(4):
            bar.on_train_batch_end(trainer, None, None, None, idx, 0)
        bar.on_validation_start(trainer, None)
        for idx in range(2):
            bar.on_validation_batch_end(trainer, None, None, None, idx, 0)
        bar.on_validation_end(trainer, None)
    bar.print("[a] word")
    bar.on_train_end(trainer, None)


def test_a_fit_in_a_terminal() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, color_system=None)
    bar, trainer = RichProgressBar(console=console, redraw_seconds=1e-9), fake_trainer()
    fit(bar, trainer)
    text = output.getvalue()
    assert "Validation sanity check" in text and "Validating" in text and "[a] word" in text
    last = [line for line in text.splitlines() if line.strip("\x1b[?25h\r ")][-1]
    assert "Epoch 1" in last and "6/6" in last and "loss=0.5, acc=0.123" in last
    assert bar._block is None and bar._open == []


def test_many_metrics_leave_the_bar_whole() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, color_system=None)
    bar, trainer = RichProgressBar(console=console, redraw_seconds=1e-9), fake_trainer()
    trainer.progress_bar_dict = {f"metric_{i}": i / 7 for i in range(8)}
    fit(bar, trainer)
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", output.getvalue())
    lines = [line.split("\r")[-1] for line in plain.split("\n")]
    last = max(i for i, line in enumerate(lines) if "Epoch 1" in line)
    assert "━" * 20 in lines[last] and "6/6" in lines[last]
    shown = " ".join(lines[last:])
    assert all(f"metric_{i}={i / 7:.3g}" in shown for i in range(8))
    assert all(len(line) <= 80 for line in lines[last:])


def test_a_broken_run_ends_the_block() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, color_system=None)
    bar, trainer = RichProgressBar(console=console), fake_trainer()
    bar.on_train_start(trainer, None)
    bar.on_epoch_start(trainer, None)
    bar.on_train_batch_end(trainer, None, None, None, 0, 0)
    bar.on_validation_start(trainer, None)
    bar.on_exception(trainer, None, RuntimeError())
    assert bar._block is None and "1/6" in output.getvalue()
    assert output.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_redraws_wait_for_their_time() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, color_system=None)
    bar, trainer = RichProgressBar(console=console, redraw_seconds=1000.0), fake_trainer()
    trainer.num_training_batches = 1000
    bar.on_train_start(trainer, None)
    bar.on_epoch_start(trainer, None)
    bar.on_train_batch_end(trainer, None, None, None, 0, 0)
    drawn = len(output.getvalue())
    for idx in range(1, 999):
        bar.on_train_batch_end(trainer, None, None, None, idx, 0)
    assert len(output.getvalue()) == drawn
    bar.close()


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    bar, trainer = RichProgressBar(), fake_trainer()
    fit(bar, trainer)
    lines = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "[a] word" and lines[-1].startswith("Epoch 1: 100% 6/6")


def test_bad_arguments_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="redraw_seconds=0"):
        RichProgressBar(redraw_seconds=0)
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ModuleNotFoundError, match="pip install rich"):
        RichProgressBar()

"""Signals: the step is finished, a checkpoint written, the hooks of the end run; it goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.callbacks import ModelCheckpoint
from tests.trainer.resume_runs import run

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


class Send(leyden.Callback):
    """Sends this process a signal from one hook, once."""

    def __init__(self, hook: str, number: int, at: int) -> None:
        super().__init__()
        self.number, self.at, self.calls = number, at, 0
        self.ended: list[str] = []
        self.__class__ = type(f"Send_{hook}", (Send,), {hook: Send.send})

    def send(self, trainer: Any, *rest: Any) -> None:
        if not trainer.sanity_checking:
            self.calls += 1
            if self.calls == self.at:
                os.kill(os.getpid(), self.number)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.ended.append("on_train_end")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.ended.append("on_fit_end")


def _saver() -> ModelCheckpoint:
    return ModelCheckpoint(monitor="val", save_top_k=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "hook, at",
    [
        ("on_train_batch_start", 2),
        ("on_before_zero_grad", 3),
        ("on_train_batch_end", 4),
        ("on_validation_batch_end", 2),
        ("on_train_epoch_start", 2),
        ("on_train_epoch_end", 1),
    ],
)
def test_a_signal_anywhere(tmp_path: Path, number: int, hook: str, at: int) -> None:
    options: dict[str, Any] = dict(accumulate_grad_batches=2, val_check_interval=0.5)
    roots = [tmp_path / name for name in ("whole", "stopped")]
    for root in roots:
        root.mkdir()
    whole = run(roots[0], callbacks=(_saver(),), **options)
    send = Send(hook, number, at)
    if number == signal.SIGINT:
        run(roots[1], callbacks=(_saver(), send), **options)
    else:
        with pytest.raises(SystemExit) as end:
            run(roots[1], callbacks=(_saver(), send), **options)
        assert end.value.code == 128 + number
    assert send.ended == ["on_train_end", "on_fit_end"]
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    saved = list(roots[1].rglob("interrupted.ckpt"))
    assert len(saved) == 1
    again = run(roots[1], resume="last", callbacks=(_saver(),), **options)
    seen = again.pop("seen")
    assert seen == whole.pop("seen")[-len(seen) :]
    assert {k: (v, whole[k]) for k, v in again.items() if v != whole[k]} == {}


def test_exit_code_after_ctrl_c(tmp_path: Path) -> None:
    send = Send("on_train_batch_end", signal.SIGINT, 1)
    found: list[Any] = []
    run(tmp_path, callbacks=(send,), change=found.append)
    assert (found[0].interrupted, found[0].exit_code) == (True, 130)
    assert not list(tmp_path.rglob("*.ckpt")), "no ModelCheckpoint asked for one"


def test_without_a_signal_the_exit_code_is_0(tmp_path: Path) -> None:
    found: list[Any] = []
    run(tmp_path, change=found.append, max_epochs=1)
    assert found[0].exit_code == 0


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    class Impatient(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the second signal did not stop the run")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=(ModelCheckpoint(), Impatient()))
    assert not list(tmp_path.rglob("interrupted.ckpt"))


def test_the_end_of_the_grace_period_gives_the_step_up(tmp_path: Path) -> None:
    class Slow(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            trainer._run.interruption.grace = 0.01
            os.kill(os.getpid(), signal.SIGTERM)
            while True:  # a step that takes too long
                pass

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=(Slow(),))


def test_a_handler_of_the_users_own_stays(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        run(tmp_path, callbacks=(Send("on_train_batch_end", signal.SIGTERM, 1),), max_epochs=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]

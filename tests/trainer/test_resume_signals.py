"""Signals: the step is finished, a checkpoint written, the hooks of the end run; it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.callbacks import Interruption, ModelCheckpoint
from leyden.engine.errors import MisconfigurationException
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
            os.kill(os.getpid(), signal.SIGTERM)
            while True:  # a step that takes too long
                pass

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=(Slow(), Interruption(grace=0.01)))


def test_a_handler_of_the_users_own_stays(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        run(tmp_path, callbacks=(Send("on_train_batch_end", signal.SIGTERM, 1),), max_epochs=1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


PROGRAM = """
import os, signal, sys, time
import leyden
from leyden.callbacks import Interruption, ModelCheckpoint
from tests.trainer.tiny import Bare, data, trainer

class Long(leyden.Callback):
    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.batch_idx == 2:
            print("begun", flush=True)
            end = time.monotonic() + float(sys.argv[2])
            while time.monotonic() < end:
                pass
            print("step done", flush=True)

    def on_train_end(self, trainer, pl_module):
        print("train end", flush=True)

grace = [Interruption(grace=float(sys.argv[3]))] if sys.argv[3] else []
made = trainer(
    sys.argv[1], max_epochs=2, checkpoint_callback=True,
    callbacks=[Long(), ModelCheckpoint(dirpath=sys.argv[1]), *grace],
)
made.fit(Bare(), data())
print("went on")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "seconds, grace, told",
    [
        ("0.3", "", ["begun", "step done", "train end"]),
        ("0.3", "60", ["begun", "step done", "train end"]),
        ("60", "0.2", ["begun", "train end"]),
    ],
)
def test_a_real_sigterm_and_the_grace_period(
    tmp_path: Path, seconds: str, grace: str, told: list[str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), seconds, grace],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=50)  # the long step alone would take longer
    assert ["begun", *out.split("\n")[:-1]] == told
    saved = list(tmp_path.glob("interrupted.ckpt"))
    if "step done" in told:
        assert process.returncode == 128 + signal.SIGTERM and len(saved) == 1, errors
    else:
        assert process.returncode != 0 and not saved and "KeyboardInterrupt" in errors


def test_an_interruption_among_the_callbacks_takes_the_place_of_the_first(tmp_path: Path) -> None:
    mine = Interruption(grace=7.5)
    made = leyden.Trainer(default_root_dir=str(tmp_path), callbacks=[mine], logger=False)
    assert made._run.interruption is mine and set(mine.engines) == {
        made.engine, *made._run.evaluators.values()
    }  # fmt: skip
    made.callbacks.remove(mine)
    with made._running():
        assert made._run.interruption is not mine and not mine.engines
    with pytest.raises(MisconfigurationException, match="two Interruptions"):
        leyden.Trainer(callbacks=[Interruption(), Interruption()], logger=False)


@pytest.mark.parametrize("grace", [0, -1.0, float("inf"), float("nan")])
def test_a_grace_period_that_is_none(grace: float) -> None:
    with pytest.raises(ValueError, match=f"grace={grace!r} is not above 0 and finite"):
        Interruption(grace=grace)


def test_a_grace_period_that_is_no_number() -> None:
    with pytest.raises(TypeError, match="grace='20' is no number"):
        Interruption(grace="20")  # type: ignore[arg-type]

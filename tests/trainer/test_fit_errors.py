"""Exceptions and Ctrl-C: who is told, what is raised, what can be done afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from leyden import Callback
from leyden.callbacks import ModelCheckpoint
from leyden.engine import Events
from leyden.engine.errors import MisconfigurationException
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, trainer

HOOKS = (
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_validation_start",
    "on_validation_batch_end",
    "on_validation_end",
    "on_sanity_check_start",
)
#: Fit has not begun to train there: an error leaves at once.
BEFORE = {"on_fit_start"}


class Watch(Callback):
    """Raises ``error`` in the hook ``where``, and notes the hooks that end a run."""

    def __init__(self, where: str = "", error: BaseException | None = None) -> None:
        super().__init__()
        self.seen: list[Any] = []
        if where:
            setattr(self, where, lambda *args: self.fail(error))

    def fail(self, error: BaseException | None) -> None:
        assert error is not None
        raise error

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.seen.append(exception)

    def on_keyboard_interrupt(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append("keyboard")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append("train_end")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append("fit_end")


def run(root: Path, *callbacks: Callback) -> Any:
    return trainer(root, max_epochs=2, num_sanity_val_steps=1, callbacks=list(callbacks))


@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_reaches_the_caller_as_raised_after_every_hook(
    hook: str, tmp_path: Path
) -> None:
    error = LookupError("mine")
    first, second = Watch(hook, error), Watch()
    made = run(tmp_path, first, second)
    with pytest.raises(LookupError) as caught:
        made.fit(Tiny(), data(), data(2))
    assert caught.value is error
    told = [] if hook in BEFORE else [error, "train_end"]
    assert first.seen == second.seen == told
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("hook", HOOKS)
def test_after_it_the_same_trainer_trains(hook: str, tmp_path: Path) -> None:
    watch = Watch(hook, LookupError("mine"))
    made, model = run(tmp_path, watch), Tiny()
    with pytest.raises(LookupError):
        made.fit(model, data(), data(2))
    made.handlers.remove(watch)
    assert made.fit(model, data(), data(2)) == 1 and made.current_epoch == 1
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_a_hook_that_fails_on_the_way_out_hides_nothing(tmp_path: Path) -> None:
    class Bad(Watch):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            raise OSError("disk full")

    error, last = LookupError("mine"), Watch()
    made = run(tmp_path, Watch("on_train_batch_end", error), Bad(), last)
    with (
        pytest.warns(RuntimeWarning, match="disk full"),
        pytest.raises(LookupError, match="mine"),
    ):
        made.fit(Tiny(), data(), data(2))
    assert last.seen == [error, "train_end"]


def test_listeners_of_the_engine_are_told_as_well(tmp_path: Path) -> None:
    error, told = LookupError("mine"), []
    made = run(tmp_path, Watch("on_train_batch_end", error))
    for _ in range(2):
        made.engine.add_event_handler(
            Events.EXCEPTION_RAISED, lambda engine, raised: told.append(raised)
        )
    with pytest.raises(LookupError):
        made.fit(Tiny(), data(), data(2))
    assert told == [error, error]


@pytest.mark.parametrize("hook", [name for name in HOOKS if name not in BEFORE])
def test_a_keyboard_interrupt_ends_the_run_as_interrupted(hook: str, tmp_path: Path) -> None:
    watch, other = Watch(hook, KeyboardInterrupt()), Watch()
    made = run(tmp_path, watch, other)
    assert made.fit(Tiny(), data(), data(2)) == 1
    assert made.interrupted and made.state == "INTERRUPTED"
    kinds = ["keyboard", KeyboardInterrupt, "train_end", "fit_end"]
    seen = [one if isinstance(one, str) else type(one) for one in other.seen]
    assert seen == kinds
    made.handlers.remove(watch)
    made.fit(made.model, data(), data(2))
    assert not made.interrupted and made.state == "FINISHED" and made.current_epoch == 1


PROGRAM = """
import os, signal, sys
import torch
import leyden
from leyden.engine import TrainerEvents
from tests.trainer.tiny import Bare, Tiny, data, trainer

class Kill(leyden.Callback):
    seen = []
    def on_train_start(self, trainer, pl_module):
        self.before = signal.getsignal(signal.SIGINT)
    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.current_epoch == 1 and trainer.batch_idx == 2:
            for _ in range(TIMES):
                os.kill(os.getpid(), signal.SIGINT)
            self.seen.append("backward")
    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.current_epoch == 1 and trainer.batch_idx == 2:
            self.seen.append("batch_end")
    def on_train_end(self, trainer, pl_module):
        self.seen.append("train_end")
    def on_fit_end(self, trainer, pl_module):
        self.seen.append("fit_end")

kill = Kill()
made = trainer(sys.argv[1], max_epochs=4, callbacks=[kill])
outcome = "raised"
try:
    outcome = made.fit(Bare(), data())
except KeyboardInterrupt:
    pass
print(outcome, made.interrupted, made.state, made.engine.state.optimizer_steps, *kill.seen)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
made.handlers.remove(kill)
made.fit(made.model, data())
print(made.state, made.interrupted, made.current_epoch)
"""


def signalled(root: Path, times: int) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM).replace("TIMES", str(times)), str(root)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-2:]


@pytest.mark.slow
def test_the_first_ctrl_c_finishes_the_step(tmp_path: Path) -> None:
    steps = BATCHES + 3
    assert signalled(tmp_path, 1) == [
        f"1 True INTERRUPTED {steps} backward batch_end train_end fit_end",
        "FINISHED False 3",
    ]


@pytest.mark.slow
def test_the_second_ctrl_c_raises_where_the_program_is(tmp_path: Path) -> None:
    first, second = signalled(tmp_path, 2)
    assert first == f"raised True INTERRUPTED {BATCHES + 2} train_end"
    assert second == "FINISHED False 3"


def test_a_program_with_a_signal_handler_of_its_own_keeps_it(tmp_path: Path) -> None:
    def own(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, own)
    try:
        trainer(tmp_path, max_epochs=1).fit(Bare(), data())
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


class Failing(Watch):
    """Fails when the training ends."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        raise self.error


class Ends(Bare):
    """Notes the end as a module does."""

    ended = 0

    def on_train_end(self) -> None:
        self.ended += 1


def test_every_hook_of_the_end_is_called_though_one_fails(tmp_path: Path) -> None:
    error = LookupError("the first")
    watchers = [Watch(), Failing(error), Watch(), Failing(OSError("the second")), Watch()]
    made, model = run(tmp_path, *watchers), Ends()
    with (
        pytest.warns(RuntimeWarning, match="after LookupError: OSError: the second"),
        pytest.raises(LookupError) as caught,
    ):
        made.fit(model, data())
    assert caught.value is error
    assert [watch.seen for watch in watchers] == [["train_end"]] * 5 and model.ended == 1


def test_every_hook_of_the_end_is_called_after_an_error_too(tmp_path: Path) -> None:
    error = LookupError("mine")
    watchers = [Failing(OSError("the second")), Watch("on_train_batch_end", error), Watch()]
    made, model = run(tmp_path, *watchers), Ends()
    with (
        pytest.warns(RuntimeWarning, match="after LookupError: OSError: the second"),
        pytest.raises(LookupError) as caught,
    ):
        made.fit(model, data())
    assert caught.value is error
    assert [watch.seen for watch in watchers] == [[error, "train_end"]] * 3 and model.ended == 1


def test_the_end_is_watched_as_every_event_is(tmp_path: Path) -> None:
    from leyden.engine import TrainerEvents
    from leyden.engine.watching import Watcher, watch

    class Names(Watcher):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def event_started(self, engine: Any, channel: Any) -> None:
            self.seen.append("(")

        def handler_started(self, engine: Any, channel: Any, record: Any) -> None:
            self.seen.append(record.user.__qualname__.partition(".")[0])

        def event_ended(self, engine: Any, channel: Any) -> None:
            self.seen.append(")")

    made, names = run(tmp_path, Failing(LookupError("mine")), Watch()), Names()
    watch(made.engine, names, [TrainerEvents.TRAINING_ENDED])
    with pytest.raises(LookupError):
        made.fit(Bare(), data())
    assert names.seen == ["(", "Failing", "Watch", ")"]


class Broken:
    """Batches that end with an error, or too early."""

    def __init__(self, good: int) -> None:
        self.good = good

    def __iter__(self) -> Any:
        yield from list(data())[: self.good]
        raise ConnectionError("the storage is gone")


@pytest.mark.parametrize("good", [0, 1, 4])
def test_steps_are_counted_when_the_loader_raises(tmp_path: Path, good: int) -> None:
    class Counting(Callback):
        seen: list[int] = []

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.seen.append(trainer.global_step)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.seen.append(trainer.global_step)

    Counting.seen = []
    made, model = run(tmp_path, Counting()), Bare()
    with pytest.raises(ConnectionError):
        made.fit(model, Broken(good))
    assert [*Counting.seen, made.global_step] == [good] * 3
    made.fit(model, data())
    assert made.global_step == good + 2 * BATCHES


def test_an_epoch_without_batches_did_not_take_place(tmp_path: Path) -> None:
    class Seeing(Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
            self.seen.append(f"epoch {trainer.current_epoch}")

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.seen.append("validation")

    seeing = Seeing()
    saver = ModelCheckpoint(dirpath=tmp_path / "c", filename="{epoch}", save_top_k=-1)
    made = trainer(
        tmp_path, max_epochs=3, callbacks=[seeing, saver], checkpoint_callback=True,
    )  # fmt: skip
    model = Tiny()
    with pytest.raises(MisconfigurationException, match="no batch in epoch 1, though it did"):
        made.fit(model, iter(list(data())), data(2))
    assert seeing.seen == ["epoch 0", "validation"]
    savers = [ModelCheckpoint(dirpath=tmp_path / "c")]
    again = trainer(tmp_path, max_epochs=3, callbacks=savers, checkpoint_callback=True)
    again.fit(Tiny(), list(data()), data(2), ckpt_path="last")
    made.fit(model, data(), data(2))
    assert seeing.seen[2:] == ["epoch 1", "validation", "epoch 2", "validation"]
    assert made.global_step == again.global_step == 3 * BATCHES


def test_an_epoch_that_somebody_ended_is_no_mistake(tmp_path: Path) -> None:
    made = run(tmp_path)

    def end_the_first(engine: Any) -> None:
        if engine.state.epoch == 1:
            engine.terminate_epoch()

    made.engine.add_event_handler(Events.GET_BATCH_STARTED, end_the_first)
    made.fit(Bare(), data())
    assert (made.current_epoch, made.global_step) == (1, BATCHES)

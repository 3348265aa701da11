"""The progress bar: counters, what is drawn and when, plain lines, broken runs, cost."""

import io
import math
import os
import pickle
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tqdm

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.state import TrainState, give_state
from leyden.handlers import progress_bars
from leyden.handlers.progress import ProgressBar, ProgressBarBase
from leyden.handlers.progress_base import total_of


class Terminal(io.StringIO):
    """A terminal, as far as a bar can tell."""

    def isatty(self) -> bool:
        return True


class Clock:
    """The time that every bar reads; moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    import tqdm.std

    monkeypatch.setattr(tqdm.std, "time", made)
    yield made


def fake_trainer(**kwargs: Any) -> Any:
    reads: list[int] = []

    class Trainer(SimpleNamespace):
        @property
        def progress_bar_dict(self) -> dict[str, Any]:
            reads.append(1)
            return {"loss": "0.5", "acc": 0.25}

    values: dict[str, Any] = dict(
        num_training_batches=4,
        num_val_batches=[2],
        num_test_batches=[3, 2],
        num_predict_batches=[1],
        num_sanity_val_batches=[1],
        val_check_interval=1.0,
        check_val_every_n_epoch=1,
        current_epoch=0,
        disable_validation=False,
        running_sanity_check=False,
        batch_idx=0,
        reads=reads,
    )
    return Trainer(**{**values, **kwargs})


def validate(bar: ProgressBarBase, trainer: Any, batches: int = 2) -> None:
    bar.on_validation_start(trainer, None)
    for idx in range(batches):
        bar.on_validation_batch_end(trainer, None, None, None, idx, 0)
    if isinstance(bar, ProgressBar):
        bar.on_validation_end(trainer, None)


def train_epoch(bar: ProgressBarBase, trainer: Any, clock: Clock | None = None) -> None:
    bar.on_epoch_start(trainer, None)
    for idx in range(trainer.num_training_batches):
        if clock:
            clock.now += 0.06
        bar.on_train_batch_end(trainer, None, None, None, idx, 0)


def drawn(output: str) -> list[str]:
    return [part.strip() for part in output.replace("\n", "\r").split("\r") if part.strip()]


def test_counters_of_a_subclass() -> None:
    seen: list[Any] = []

    class Own(ProgressBarBase):
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            seen.append((self.train_batch_idx, self.total_train_batches, self.total_val_batches))

        def on_validation_batch_end(self, *args: Any) -> None:
            super().on_validation_batch_end(*args)
            seen.append((self.val_batch_idx, self.total_val_batches))

    bar, trainer = Own(), fake_trainer(num_training_batches=2, check_val_every_n_epoch=2)
    bar.on_train_start(trainer, None)
    train_epoch(bar, trainer)
    trainer.current_epoch = 1
    train_epoch(bar, trainer)
    validate(bar, trainer)
    # The recorded oddity: the epoch that is said to validate is not the one that does.
    assert seen == [(1, 2, 2), (2, 2, 2), (1, 2, 0), (2, 2, 0), (1, 0), (2, 0)]
    for method in (bar.enable, bar.disable):
        with pytest.raises(TypeError, match="Own does not say how"):
            method()


@pytest.mark.parametrize("interval", [50, 1.0])
def test_an_epoch_of_unknown_length_has_no_total(interval: float) -> None:
    bar = ProgressBar()
    bar.on_train_start(
        fake_trainer(num_training_batches=math.inf, val_check_interval=interval), None
    )
    assert bar.main_progress_bar.total is None
    bar.close()


def test_a_fit_in_a_terminal(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    bar, trainer = ProgressBar(), fake_trainer()
    bar.on_sanity_check_start(trainer, None)
    trainer.running_sanity_check = True
    clock.now += 1
    validate(bar, trainer, 1)
    bar.on_sanity_check_end(trainer, None)
    trainer.running_sanity_check = False
    assert "Validation sanity check: 100%" in sys.stdout.getvalue()  # type: ignore[attr-defined]
    bar.on_train_start(trainer, None)
    for epoch in range(2):
        trainer.current_epoch = epoch
        train_epoch(bar, trainer, clock)
        clock.now += 1
        validate(bar, trainer)
    assert (bar.main_progress_bar.n, bar.main_progress_bar.total) == (6, 6)
    bar.on_train_end(trainer, None)
    lines = drawn(sys.stdout.getvalue())  # type: ignore[attr-defined]
    assert any(line.startswith("Epoch 0:  ") and "loss=0.5, acc=0.25" in line for line in lines)
    assert any(line.startswith("Validating: ") for line in lines)
    assert lines[-1].startswith("Epoch 1: 100%") and "6/6" in lines[-1]
    # Closed, and still there to be read.
    assert bar.main_progress_bar.disable and bar.val_progress_bar.disable
    assert (bar.main_progress_bar.n, bar.main_progress_bar.total) == (6, 6)


def test_metrics_are_read_only_when_a_redraw_is_due(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    bar, trainer = ProgressBar(), fake_trainer(num_training_batches=1000)
    bar.on_train_start(trainer, None)
    bar.on_epoch_start(trainer, None)
    trainer.reads.clear()
    before = sys.stdout.getvalue()  # type: ignore[attr-defined]
    for idx in range(900):
        bar.on_train_batch_end(trainer, None, None, None, idx, 0)
    assert trainer.reads == [] and sys.stdout.getvalue() == before  # type: ignore[attr-defined]
    clock.now += 0.2
    bar.on_train_batch_end(trainer, None, None, None, 900, 0)
    assert trainer.reads == [1]
    assert "901/1002" in sys.stdout.getvalue()  # type: ignore[attr-defined]
    bar.on_train_end(trainer, None)


def test_many_tiny_epochs_draw_no_more_often(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    bar, trainer = ProgressBar(), fake_trainer(disable_validation=True)
    bar.on_train_start(trainer, None)
    before = len(trainer.reads)
    for epoch in range(100):
        trainer.current_epoch = epoch
        clock.now += 0.01
        train_epoch(bar, trainer)
    assert 8 <= len(trainer.reads) - before <= 12  # one second at ten a second
    bar.on_train_end(trainer, None)
    assert drawn(sys.stdout.getvalue())[-1].startswith("Epoch 99: 100%")  # type: ignore[attr-defined]


def test_refresh_rate_counts_batches_and_the_last_one_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())

    # A bar without a clock of its own is told of every third batch; ours waits for its time too.
    class Own(ProgressBar):
        def init_train_tqdm(self) -> Any:
            return plain

    from tqdm import tqdm

    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    plain = tqdm(file=sys.stdout)
    bar, trainer = Own(refresh_rate=3), fake_trainer(num_training_batches=8)
    bar.on_train_start(trainer, None)
    bar.on_epoch_start(trainer, None)
    seen = []
    for idx in range(8):
        bar.on_train_batch_end(trainer, None, None, None, idx, 0)
        seen.append(bar.main_progress_bar.n)
    assert seen == [0, 0, 3, 3, 3, 6, 6, 8]
    validate(bar, trainer)
    assert bar.main_progress_bar.n == 10
    bar.close()


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, 4 + 2),
        ({"val_check_interval": 0.5}, 4 + 2 * 2),
        ({"val_check_interval": 1}, 4 + 4 * 2),
        ({"val_check_interval": 3}, 4 + 2),
        ({"val_check_interval": 0.1}, 4 + 4 * 2),
        ({"check_val_every_n_epoch": 2}, 4),
        ({"check_val_every_n_epoch": 2, "current_epoch": 1}, 4 + 2),
        ({"disable_validation": True}, 4),
        ({"num_val_batches": [2, 3]}, 4 + 5),
        ({"num_training_batches": float("inf")}, None),
        ({"num_val_batches": [float("inf")]}, None),
    ],
)
def test_total_of_the_main_bar(
    settings: dict[str, Any], total: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    bar, trainer = ProgressBar(), fake_trainer(**settings)
    bar.on_train_start(trainer, None)
    bar.on_epoch_start(trainer, None)
    assert bar.main_progress_bar.total == total
    bar.close()


def test_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    bar, trainer = ProgressBar(), fake_trainer(num_training_batches=100)
    bar.on_train_start(trainer, None)
    for epoch in range(2):
        trainer.current_epoch = epoch
        bar.on_epoch_start(trainer, None)
        for idx in range(100):
            clock.now += 0.15
            bar.on_train_batch_end(trainer, None, None, None, idx, 0)
        validate(bar, trainer)
    bar.on_train_end(trainer, None)
    lines = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(" [")[0] for line in lines] == [
        "Epoch 0: 66% 67/102",
        "Epoch 0: 100% 102/102",
        "Epoch 1: 66% 67/102",
        "Epoch 1: 100% 102/102",
    ]
    assert all("\r" not in line and line.endswith("loss=0.5, acc=0.25]") for line in lines)


def test_a_terminal_without_columns_gets_lines() -> None:
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    ours, theirs = pty.openpty()
    try:
        with open(theirs, "w", closefd=False) as file:
            assert file.isatty()
            made = progress_bars.make_bar(total=2, file=file)
            assert type(made).__name__ == "Lines"
            made.close()
    finally:
        os.close(ours)
        os.close(theirs)


def test_lines_without_a_length(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    bar, trainer = ProgressBar(), fake_trainer(num_training_batches=float("inf"))
    bar.on_train_start(trainer, None)
    bar.on_epoch_start(trainer, None)
    clock.now += 2
    bar.on_train_batch_end(trainer, None, None, None, 0, 0)
    bar.on_train_end(trainer, None)
    assert sys.stdout.getvalue().startswith("Epoch 0: 1 batches [00:02<")  # type: ignore[attr-defined]


def test_test_and_predict_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    bar, trainer = ProgressBar(refresh_rate=2), fake_trainer()
    bar.on_test_start(trainer, None)
    for idx in range(5):
        bar.on_test_batch_end(trainer, None, None, None, idx, 0)
    assert (bar.test_progress_bar.n, bar.test_progress_bar.total) == (5, 5)
    bar.on_test_end(trainer, None)
    bar.on_predict_start(trainer, None)
    bar.on_predict_batch_end(trainer, None, None, None, 0, 0)
    bar.on_predict_end(trainer, None)
    lines = drawn(sys.stdout.getvalue())  # type: ignore[attr-defined]
    assert any(line.startswith("Testing: 100%") for line in lines)
    assert lines[-1].startswith("Predicting: 100%")


def engine_with(bar: ProgressBar, trainer: Any, step: Any) -> Engine:
    engine = Engine(step)
    engine.register_events(*TrainerEvents)
    give_state(engine, TrainState).trainer = trainer
    bar.attach(engine)
    return engine


def test_a_broken_run_closes_its_bar_at_the_last_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())

    def step(engine: Engine, batch: int) -> None:
        if batch == 2:
            type(trainer).progress_bar_dict = property(lambda self: 1 / 0)  # as a broken device
            raise RuntimeError("broken")

    bar, trainer = ProgressBar(refresh_rate=10), fake_trainer()
    engine = engine_with(bar, trainer, step)
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: None)
    engine.run(range(4), max_epochs=1)
    assert bar.main_progress_bar.disable
    last = drawn(sys.stdout.getvalue())[-1]  # type: ignore[attr-defined]
    assert last.startswith("Epoch 0:") and "2/6" in last
    assert sys.stdout.getvalue().endswith("\n")  # type: ignore[attr-defined]


def test_attached_to_an_engine_it_counts_without_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    seen = []
    bar, trainer = ProgressBar(), fake_trainer()
    engine = engine_with(bar, trainer, lambda engine, batch: seen.append(bar.train_batch_idx))
    engine.run(range(4), max_epochs=1)
    assert seen == [0, 1, 2, 3] and bar.train_batch_idx == 4
    called = []

    class Own(ProgressBar):
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            called.append(self.train_batch_idx)

    own = Own()
    engine_with(own, trainer, lambda engine, batch: None).run(range(4), max_epochs=1)
    assert called == [1, 2, 3, 4]


def test_switched_off_it_listens_nowhere_and_draws_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    off = ProgressBar(refresh_rate=0)
    engine_with(off, fake_trainer(), lambda engine, batch: None)
    assert not off.attached and off.is_disabled
    bar, trainer = ProgressBar(), fake_trainer()
    bar.disable()
    bar.on_train_start(trainer, None)
    train_epoch(bar, trainer)
    bar.on_train_end(trainer, None)
    bar.enable()
    assert bar.is_enabled and sys.stdout.getvalue() == ""  # type: ignore[attr-defined]
    monkeypatch.setenv("RANK", "3")
    bar.on_train_start(trainer, None)
    assert bar.main_progress_bar.disable and sys.stdout.getvalue() == ""  # type: ignore[attr-defined]


def test_bars_of_the_users_own_are_used(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    from tqdm import tqdm

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(tqdm, "monitor_interval", 0)

    class Own(ProgressBar):
        def init_train_tqdm(self) -> Any:
            return tqdm(file=sys.stdout, desc="mine", miniters=1)

    bar, trainer = Own(), fake_trainer()
    bar.on_train_start(trainer, None)
    train_epoch(bar, trainer, clock)
    validate(bar, trainer)
    bar.on_train_end(trainer, None)
    assert "6/6" in drawn(sys.stdout.getvalue())[-1]  # type: ignore[attr-defined]
    assert "loss=0.5" in sys.stdout.getvalue()  # type: ignore[attr-defined]


def test_print_goes_above_the_bar(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    bar, trainer = ProgressBar(), fake_trainer()
    bar.print("before", 1, end="|")
    bar.on_train_start(trainer, None)
    bar.print("during", 2, sep="-")
    bar.on_train_end(trainer, None)
    assert sys.stdout.getvalue().startswith("before 1|")  # type: ignore[attr-defined]
    assert "during-2\n" in sys.stdout.getvalue()  # type: ignore[attr-defined]


def test_it_travels_without_its_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    bar = ProgressBar(refresh_rate=5, process_position=1)
    bar.on_train_start(fake_trainer(), None)
    copy = pickle.loads(pickle.dumps(bar))
    assert (copy.refresh_rate, copy.process_position, copy.main_progress_bar) == (5, 1, None)
    bar.close()


def test_no_watching_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(tqdm.tqdm, "monitor", None)  # a bar of another test may have started it
    made = progress_bars.make_bar(total=2)
    assert type(made).monitor_interval == 0 and type(made).monitor is None
    made.close()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="refresh_rate=-1 is negative"):
        ProgressBar(refresh_rate=-1)
    with pytest.raises(ValueError, match="process_position=-2"):
        ProgressBar(process_position=-2)
    assert [total_of(x) for x in (None, 3, [1, 2], [1, float("inf")])] == [0, 3, 3, float("inf")]

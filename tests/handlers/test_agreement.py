"""Processes that decide together: the same plan, the same last batch, nobody waits in vain."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset

import leyden
from leyden.backends.strategies.processes import RankError
from leyden.engine import Events
from leyden.handlers.agreement import differences
from tests.ranks import ranks
from tests.trainer.ranks_runs import Bare, Net, loader, trainer


def rank() -> int:
    return int(dist.get_rank())


class At(leyden.Callback):
    """Does something after a batch of the run, counted from 1, on one rank."""

    def __init__(self, batch: int, on_rank: int, action: Callable[[Any], Any]) -> None:
        super().__init__()
        self.batch, self.on_rank, self.action = batch, on_rank, action

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if rank() == self.on_rank and trainer._run.state.iteration == self.batch:
            self.action(trainer)


def ask_for_stop(trainer: Any) -> None:
    trainer.should_stop = True


def never_slow(agreement: Any) -> None:
    """A busy machine does not change after which batches there are questions."""
    agreement.pace.within = float("inf")


class Quick(leyden.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        never_slow(trainer.handlers["Agreement"])


class SaveAfter(leyden.Callback):
    """Saves the run after a batch, when everything else of the batch is done."""

    order = 90.0

    def __init__(self, batch: int, path: str) -> None:
        super().__init__()
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer._run.state.iteration == self.batch:
            trainer.save_checkpoint(self.path)


def steps_of(callback: Any, **settings: Any) -> tuple[int, bool]:
    model = Bare()
    made = trainer(max_epochs=2, callbacks=[callback], **settings)
    made.fit(model, loader(24, 4))
    return made.global_step, made.should_stop


class TestStop:
    def test_a_stop_that_one_rank_asks_for_acts_on_all_after_the_next_batch(self) -> None:
        run = lambda: steps_of(At(2, 1, ask_for_stop))  # noqa: E731
        assert ranks(2).run(run) == [(3, True), (3, True)]

    def test_at_the_end_of_an_epoch_all_know_at_once(self) -> None:
        class Ask(leyden.Callback):
            def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
                if rank() == 1:
                    trainer.should_stop = True

        assert ranks(2).run(lambda: steps_of(Ask())) == [(6, True), (6, True)]

    def test_after_a_validation_all_know_at_once(self) -> None:
        class Ask(leyden.Callback):
            def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
                if rank() == 0:
                    trainer.should_stop = True

        def run() -> int:
            made = trainer(max_epochs=2, callbacks=[Ask()], val_check_interval=2)
            made.fit(Net(), loader(24, 4), loader(8, 4))
            return int(made.global_step)

        assert ranks(2).run(run) == [2, 2]

    @pytest.mark.parametrize(("options", "last"), [({}, 25), ({"ask_every": 1}, 21)])
    def test_after_many_batches_the_question_is_asked_less_often(
        self, options: dict[str, Any], last: int
    ) -> None:
        def run() -> tuple[list[int], int]:
            model = Bare(log=False)
            made = trainer(
                max_epochs=1,
                callbacks=[At(20, 1, ask_for_stop)],
                options={"ask_every": 8, **options},
            )
            asked: list[int] = []
            strategy = made._run.strategy
            ask = strategy.ask

            def counted(numbers: Any) -> Any:
                asked.append(made._run.state.iteration)
                return ask(numbers)

            strategy.ask = counted
            made._run.engine.add_event_handler(
                Events.EPOCH_STARTED, lambda engine: never_slow(made.handlers["Agreement"])
            )
            made.fit(model, loader(400, 4))
            return asked, made.global_step

        # The last one is that of the end of the epoch.
        asked = [1, 2, 4, 8, 16, 24, 25] if not options else [*range(1, 22), 21]
        assert ranks(2).run(run) == [(asked, last)] * 2

    @pytest.mark.parametrize("saved_at", [18, 20, 24])
    def test_a_wish_for_a_stop_is_kept_in_a_checkpoint(self, saved_at: int, tmp_path: Path) -> None:
        path = str(tmp_path / "run.ckpt")

        def run(resumed: bool) -> int:
            callbacks: list[Any] = [At(17, 1, ask_for_stop), Quick()]
            if not resumed:
                saver = SaveAfter(saved_at, path)
                callbacks.append(saver)
            made = trainer(
                max_epochs=1,
                callbacks=callbacks,
                options={"ask_every": 8},
                resume_from_checkpoint=path if resumed else None,
            )
            made.fit(Bare(log=False), loader(400, 4))
            return int(made.global_step)

        assert ranks(2).run(run, False) == [25, 25]
        assert ranks(2).run(run, True) == [25, 25]

    def test_it_is_not_given_up_for_the_least_that_must_run(self) -> None:
        run = lambda: steps_of(At(2, 0, ask_for_stop), min_steps=5)  # noqa: E731
        assert ranks(2).run(run) == [(5, True), (5, True)]

    def test_a_second_fit_begins_anew(self) -> None:
        def run() -> list[int]:
            callback = At(2, 1, ask_for_stop)
            made = trainer(max_epochs=1, callbacks=[callback])
            made.fit(Bare(), loader(24, 4))
            first = int(made.global_step)
            callback.batch = -1
            made.fit(Bare(), loader(24, 4))
            return [first, int(made.global_step)]

        assert ranks(2).run(run) == [[3, 6], [3, 6]]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_to_one_rank_interrupts_all_at_the_same_batch(
        self, number: signal.Signals, tmp_path: Path
    ) -> None:
        def run() -> tuple[int, bool, int]:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            callback = At(2, 1, lambda trainer: os.kill(os.getpid(), number))
            made = trainer(tmp_path, max_epochs=2, callbacks=[callback], checkpoint_callback=True)
            code = 0
            try:
                made.fit(Bare(), loader(24, 4))
            except SystemExit as end:
                code = int(end.code or 0)
            return int(made._run.state.iteration), made.interrupted, code

        code = 0 if number is signal.SIGINT else 128 + number
        assert ranks(2).run(run) == [(3, True, code), (3, True, code)]
        saved = next(tmp_path.rglob("interrupted.ckpt"))
        assert torch.load(saved)["leyden"]["position"]["iteration"] == 3

    def test_a_nan_on_one_rank_ends_all_at_the_same_step(self) -> None:
        class Bad(Bare):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                loss = super().training_step(batch, batch_idx)
                # Only the number that is looked at: the gradients are those of all ranks.
                return loss + (float("nan") if rank() == 1 and batch_idx == 2 else 0.0)

        def run() -> tuple[int, str]:
            made = trainer(max_epochs=1, terminate_on_nan=True)
            with pytest.raises(ValueError) as raised:
                made.fit(Bad(), loader(24, 4))
            return int(made._run.state.iteration), str(raised.value)

        first, second = ranks(2).run(run)
        assert (first[0], second[0]) == (3, 3)
        assert "another process is NaN" in first[1] or "the loss is nan" in first[1]
        assert "the loss is nan" in second[1]


class Unsure(IterableDataset[Any]):
    """Rows without a length; the ranks have different numbers of them."""

    def __iter__(self) -> Any:
        for number in range((5, 3, 7)[rank()]):
            yield torch.full((5,), float(number)), torch.zeros(1)


def test_data_of_unknown_length_ends_with_the_shortest_rank() -> None:
    def run() -> tuple[int, int]:
        made = trainer(max_epochs=2)
        made.fit(Bare(log=False), DataLoader(Unsure(), batch_size=1))
        return int(made.global_step), int(made.current_epoch)

    assert ranks(2).run(run) == [(6, 1), (6, 1)]
    assert ranks(3).run(run) == [(6, 1)] * 3


class Extra(leyden.Callback):
    def on_train_batch_start(self, *args: Any) -> None: ...


class TestPlan:
    def fails(self, run: Callable[[], Any]) -> list[str]:
        def failing() -> str:
            with pytest.raises(RankError) as raised:
                run()
            return str(raised.value)

        return ranks(2).run(failing)

    def test_a_handler_of_one_rank_is_named_on_all(self) -> None:
        def run() -> None:
            callbacks = [Extra()] if rank() == 1 else []
            trainer(max_epochs=1, callbacks=callbacks).fit(Bare(), loader(24, 4))

        for message in self.fails(run):
            assert "Extra.on_train_batch_start on ITERATION_STARTED (train): on rank 1 only" in (
                message
            )

    def test_a_handler_that_talks_to_nobody_may_be_on_one_rank(self) -> None:
        class Quiet(Extra):
            one_rank = True

        def run() -> int:
            callbacks = [Quiet()] if rank() == 1 else []
            made = trainer(max_epochs=1, callbacks=callbacks)
            made.fit(Bare(), loader(24, 4))
            return int(made.global_step)

        assert ranks(2).run(run) == [6, 6]

    def test_a_bar_that_is_drawn_on_one_rank_is_no_other_plan(self) -> None:
        def run() -> int:
            ask = At(2, 0, lambda trainer: trainer.running_loss)
            made = trainer(max_epochs=2, callbacks=[ask])
            made.fit(Bare(), loader(24, 4))
            assert ("RunningLoss" in made.handlers) == (rank() == 0)
            return int(made.global_step)

        assert ranks(2).run(run) == [12, 12]

    def test_on_the_way_out_nobody_waits_for_what_only_one_does(self, tmp_path: Path) -> None:
        def run() -> None:
            saver = leyden.callbacks.ModelCheckpoint(dirpath=tmp_path / f"rank{rank()}")
            callbacks = [saver] if rank() == 0 else []
            made = trainer(max_epochs=1, callbacks=callbacks, checkpoint_callback=not rank())
            made.fit(Bare(), loader(24, 4))

        for message in self.fails(run):
            assert "ModelCheckpoint" in message and "on rank 0 only" in message

    def test_an_argument_of_one_rank_is_named(self) -> None:
        def run() -> None:
            trainer(max_epochs=1 + rank()).fit(Bare(), loader(24, 4))

        for message in self.fails(run):
            assert "max_epochs=1: on rank 0 only" in message
            assert "max_epochs=2: on rank 1 only" in message

    def test_different_numbers_of_batches_are_told(self) -> None:
        def run() -> None:
            data = loader(24 - 8 * rank(), 4)
            trainer(max_epochs=1, replace_sampler_ddp=False).fit(Bare(), data)

        for message in self.fails(run):
            assert "rank 0 has 12, rank 1 has 8" in message
            assert "limit_train_batches=8" in message

    def test_shares_by_different_seeds_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run() -> None:
            os.environ["PL_GLOBAL_SEED"] = str(rank())
            try:
                trainer(max_epochs=1).fit(Bare(), loader(24, 4, shuffle=True))
            finally:
                del os.environ["PL_GLOBAL_SEED"]

        for message in self.fails(run):
            assert "seed of the training loader's sampler: 1: on rank 1 only" in message

    def test_differences_name_lines_and_ranks(self) -> None:
        assert differences([["a"], ["a"]]) == []
        assert differences([["a", "b"], ["b", "a"]]) == [
            "the same handlers are attached in another order"
        ]
        assert differences([["a", "a"], ["a"]]) == ["a: on rank 0 only"]


class TestMonitored:
    def test_what_decisions_depend_on_is_reduced_over_the_ranks(self) -> None:
        class Local(Net):
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val", self.loss(batch))  # nobody said sync_dist

        def run() -> tuple[float, float]:
            stopping = leyden.callbacks.EarlyStopping("val", patience=9)
            made = trainer(max_epochs=2, callbacks=[stopping])
            made.fit(Local(), loader(24, 4), loader(10, 4))
            return float(made.callback_metrics["val"]), float(stopping.best_score)

        one = ranks(1).run(run)[0]
        for found in ranks(2).run(run):
            assert found == pytest.approx(one, rel=1e-6)

    def test_other_values_are_averaged_too(self) -> None:
        class Own(Net):
            def validation_epoch_end(self, outputs: Any) -> Any:
                return {"score": torch.tensor(float(rank()))}

        def run() -> float:
            stopping = leyden.callbacks.EarlyStopping("score", patience=9)
            made = trainer(max_epochs=1, callbacks=[stopping])
            with pytest.warns(UserWarning, match="should not return anything"):
                made.fit(Own(), loader(8, 4), loader(8, 4))
            return float(stopping.best_score)

        assert ranks(2).run(run) == [0.5, 0.5]


def test_nothing_of_it_is_there_in_one_process() -> None:
    made = leyden.Trainer(logger=False, checkpoint_callback=False)
    assert not {"Agreement", "FillerBatches"} & set(made.handlers.names())

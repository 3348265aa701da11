"""Profilers on a run: the actions of Lightning 1.1 by name, and where the report goes."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.engine import Events
from leyden.engine.dispatch import Channel
from leyden.handlers.profilers import SimpleProfiler
from leyden.handlers.profiling import Profiling
from leyden.loggers import CSVLogger
from tests.handlers.small_runs import Small
from tests.trainer.tiny import BATCHES, QUIET, Tiny, data, trainer


def counts(profiler: SimpleProfiler) -> dict[str, int]:
    return {name: len(times) for name, times in profiler.recorded_durations.items()}


@pytest.mark.slow
def test_actions_by_name_and_how_often(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer(tmp_path, profiler="simple", max_epochs=2, accumulate_grad_batches=4)
    made.fit(Tiny(), data(), data(3))
    seen = counts(made.profiler)
    expected = {
        "run_training_epoch": 2,
        "get_train_batch": 2 * (BATCHES + 1),  # the end of the data is asked for too
        "run_training_batch": 2 * BATCHES,
        "training_step_and_backward": 2 * BATCHES,
        "model_forward": 2 * BATCHES,
        "model_backward": 2 * BATCHES,
        "optimizer_step_and_closure_0": 2 * 2,
        "run_evaluation": 2,
        "evaluation_step_and_end": 2 * 3,
        "on_fit_start": 1,
        "on_train_start": 1,
        "on_train_batch_end": 2 * BATCHES,
        "on_validation_end": 2,
        "on_train_end": 1,
    }
    assert {name: seen.get(name) for name in expected} == expected
    report = capsys.readouterr().out
    assert report.count("Profiler Report") == 1
    assert all(name in report for name in expected if name != "on_fit_end")
    assert not made.profiler.current_actions, "all that began has ended"


class Hooked(Tiny):
    """Overrides hooks that the callback has too."""

    def on_train_batch_end(self, *args: Any) -> None: ...


class Also(leyden.Callback):
    def on_train_batch_end(self, *args: Any) -> None: ...


def test_a_hook_is_one_action_of_callbacks_and_module(tmp_path: Path) -> None:
    made = trainer(
        tmp_path,
        profiler=SimpleProfiler(tmp_path / "report.txt"),
        max_epochs=1,
        callbacks=[Also(), Also()],
        gradient_clip_val=1.0,
    )
    made.fit(Hooked(), data(), data(2))
    seen = counts(made.profiler)
    assert seen["on_train_batch_end"] == BATCHES
    assert seen["GradientClipping.clip"] == BATCHES, "other handlers under their own names"


def test_several_optimizers_and_manual(tmp_path: Path) -> None:
    class Two(Tiny):
        def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> torch.Tensor:
            return self.net(batch[0]).sum()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.0) for _ in range(2)]

    class Manual(Tiny):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.manual_backward(self.net(batch[0]).sum())
            optimizer.step()
            optimizer.zero_grad()

    for model, each in ((Two(), 2), (Manual(), 1)):
        profiler = SimpleProfiler(tmp_path / "report.txt")
        made = trainer(tmp_path, profiler=profiler, max_epochs=1)
        made.fit(model, data(), data(1))
        seen = counts(profiler)
        for action in ("model_forward", "model_backward", "training_step_and_backward"):
            assert seen[action] == each * BATCHES, action
        for index in range(each):
            assert seen[f"optimizer_step_and_closure_{index}"] == BATCHES


def test_the_report_goes_below_the_folder_of_the_logs(tmp_path: Path) -> None:
    profiler = SimpleProfiler("profile.txt")
    made = trainer(
        tmp_path, profiler=profiler, max_epochs=1, logger=CSVLogger(str(tmp_path), name="run")
    )
    made.fit(Tiny(), data(), data(2))
    file = tmp_path / "run" / "version_0" / "profile.txt"
    assert "run_training_batch" in file.read_text()


def test_test_alone_is_reported_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer(tmp_path, profiler="simple")
    made.validate(Tiny(), data(2), verbose=False)
    assert "evaluation_step_and_end" in capsys.readouterr().out
    assert counts(made.profiler)["evaluation_step_and_end"] == 2


def test_after_a_failure_the_report_is_there_and_the_next_run_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fails(Tiny):
        broken = True

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if batch_idx == 2 and self.broken:
                raise ZeroDivisionError("here")
            return super().training_step(batch, batch_idx)

    made, model = trainer(tmp_path, profiler="simple", max_epochs=1), Fails()
    with pytest.raises(ZeroDivisionError, match="here"):
        made.fit(model, data(), data(2))
    assert "model_forward" in capsys.readouterr().out
    assert not made.profiler.current_actions
    Fails.broken = False
    made = trainer(tmp_path, profiler=made.profiler, max_epochs=1)
    made.fit(Fails(), data(), data(2))
    assert counts(made.profiler)["model_forward"] == 3 + BATCHES


class Contexts:
    """A profiler of the kind that has ``profile`` only."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def profile(self, action: str) -> Any:
        self.seen.append(f"+{action}")
        yield
        self.seen.append(f"-{action}")


def test_a_profiler_with_profile_only(tmp_path: Path) -> None:
    profiler = Contexts()
    made = trainer(tmp_path, profiler=profiler, max_epochs=1)
    made.fit(Tiny(), data(1), data(1))
    made.save_checkpoint(tmp_path / "a.ckpt")
    seen = profiler.seen
    inner = [
        "+run_training_batch", "+optimizer_step_and_closure_0", "+training_step_and_backward",
        "+model_forward", "-model_forward", "+model_backward", "-model_backward",
        "-training_step_and_backward", "-optimizer_step_and_closure_0", "-run_training_batch",
    ]  # fmt: skip
    assert [one for one in seen if one in inner] == inner, "they lie inside one another"
    assert seen[-2:] == ["+save_checkpoint", "-save_checkpoint"]


@pytest.mark.slow
def test_the_advanced_and_the_pytorch_profiler(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for asked, word in (("advanced", "Profile stats for: model_forward"), ("pytorch", "aten::")):
        made = trainer(tmp_path, profiler=asked, max_epochs=1)
        made.fit(Tiny(), data(), data(1))
        assert word in capfd.readouterr().out


def test_nothing_is_watched_where_nobody_asked(tmp_path: Path) -> None:
    made = leyden.Trainer(**QUIET, max_epochs=1)
    assert "Profiling" not in made.handlers
    hot = [made.engine.channel(event) for event in (Events.ITERATION_STARTED, Events.STARTED)]
    made.fit(Tiny(), data(), data(2))
    assert {type(channel) for channel in hot} == {Channel}
    made.profiler = "simple"
    assert "profiler=" in made.handlers["Profiling"].origin
    made.profiler = None
    assert "Profiling" not in made.handlers
    assert all(type(made.engine.channel(e)) is Channel for e in made.engine._allowed_events)


@pytest.mark.slow
def test_it_lets_go_of_the_model(tmp_path: Path) -> None:
    made = trainer(tmp_path, profiler=SimpleProfiler(tmp_path / "a.txt"), max_epochs=1)
    model = Hooked()
    made.fit(model, data(), data(2))
    made.fit(Tiny(), data(), data(2))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_on_an_engine_of_ones_own() -> None:
    profiler = SimpleProfiler()
    Small(Profiling(profiler)).run(epochs=1)
    seen = counts(profiler)
    assert seen["run_training_batch"] == 4
    assert seen["optimizer_step_and_closure_0"] == 4
    assert seen["model_backward"] == 4

"""ignite's own handlers and metrics, on our engine and on a Trainer's, and what they did."""

from __future__ import annotations

import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.handlers import (
    BasicTimeProfiler,
    Checkpoint,
    DiskSaver,
    EarlyStopping,
    EMAHandler,
    LinearCyclicalScheduler,
    ProgressBar,
    global_step_from_engine,
)
from ignite.metrics import Accuracy, RunningAverage

from leyden.engine import Engine, Events
from leyden.handlers import OptimizerStep
from tests.trainer.tiny import Bare, data, trainer

EPOCHS, BATCHES = 3, 4


class Both:
    """One engine that trains one model: bare, or a Trainer's.

    Attributes:
        engine: what ignite's parts are attached to.
        train: runs it.
    """

    engine: Engine
    train: Callable[[], Any]

    def __init__(self, kind: str, root: Path) -> None:
        made, model = trainer(root, max_epochs=EPOCHS), Bare()
        self.model: Any = model
        if kind == "trainer":
            self.engine = made.engine
            self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model.make = lambda parameters: self.optimizer
            self.train = lambda: made.fit(model, data(BATCHES))
            return
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(engine: Engine, batch: Any) -> torch.Tensor:
            return torch.nn.functional.mse_loss(model.net(batch[0]), batch[1])

        self.engine = Engine(step)
        OptimizerStep(self.optimizer, model).attach(self.engine)
        self.train = lambda: self.engine.run(data(BATCHES), max_epochs=EPOCHS)


@pytest.fixture(params=["bare", "trainer"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Both:
    return Both(request.param, tmp_path)


def test_checkpoint_saves_the_last_ones_and_they_load(run: Both, tmp_path: Path) -> None:
    saver = Checkpoint(
        {"model": run.model, "optimizer": run.optimizer, "engine": run.engine},
        DiskSaver(str(tmp_path / "ignite"), create_dir=True),
        n_saved=2,
        global_step_transform=global_step_from_engine(run.engine),
    )
    run.engine.add_event_handler(Events.EPOCH_COMPLETED, saver)
    run.train()
    names = sorted(path.name for path in (tmp_path / "ignite").iterdir())
    assert names == ["checkpoint_2.pt", "checkpoint_3.pt"]
    found = torch.load(tmp_path / "ignite" / "checkpoint_3.pt", weights_only=False)
    other = Bare(seed=9)
    Checkpoint.load_objects({"model": other}, found)
    mine = run.model.state_dict()
    assert all(torch.equal(mine[key], value) for key, value in other.state_dict().items())
    assert found["engine"]["iteration"] == EPOCHS * BATCHES


def test_early_stopping_ends_the_run(run: Both) -> None:
    evaluator = Engine(lambda engine, batch: None)
    scores = iter([0.5, 0.4, 0.3, 0.2])
    stop = EarlyStopping(1, lambda engine: next(scores), run.engine)
    evaluator.add_event_handler(Events.COMPLETED, stop)
    run.engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: evaluator.run([0], max_epochs=1)
    )
    run.train()
    assert run.engine.state.epoch == 2


def test_the_progress_bar_counts_every_batch(run: Both) -> None:
    # Under a Trainer nobody knows the length beforehand but the loader.
    text = io.StringIO()
    RunningAverage(output_transform=lambda loss: loss).attach(run.engine, "loss")
    ProgressBar(file=text, mininterval=0).attach(run.engine, ["loss"])
    run.train()
    assert "loss=" in text.getvalue() and f"Epoch [{EPOCHS}" in text.getvalue()


def test_ema_follows_the_weights(run: Both) -> None:
    ema = EMAHandler(run.model, momentum=0.25)
    ema.attach(run.engine, name="momentum", event=Events.ITERATION_COMPLETED)
    expected = [p.detach().clone() for p in run.model.parameters()]

    def follow(engine: Engine) -> None:
        for mean, parameter in zip(expected, run.model.parameters(), strict=True):
            mean.mul_(0.75).add_(parameter.detach(), alpha=0.25)

    run.engine.listen(Events.ITERATION_COMPLETED, follow, order=60)
    run.train()
    assert len(expected) == 4
    for mean, found in zip(expected, ema.ema_model.parameters(), strict=True):
        # The same arithmetic, fused differently.
        torch.testing.assert_close(found.detach(), mean, rtol=1e-6, atol=1e-7)


def test_a_parameter_scheduler_moves_the_rate(run: Both) -> None:
    scheduler = LinearCyclicalScheduler(run.optimizer, "lr", 0.0, 1.0, 2 * BATCHES)
    run.engine.add_event_handler(Events.ITERATION_STARTED, scheduler)
    rates: list[float] = []
    run.engine.listen(
        Events.ITERATION_COMPLETED, lambda e: rates.append(run.optimizer.param_groups[0]["lr"])
    )
    run.train()
    assert rates[: BATCHES + 1] == [0.0, 0.25, 0.5, 0.75, 1.0] and len(rates) == EPOCHS * BATCHES


def test_the_time_profiler_sees_every_part(run: Both) -> None:
    profiler = BasicTimeProfiler()
    profiler.attach(run.engine)
    run.train()
    results = profiler.get_results()
    assert results["processing_stats"]["total"] > 0
    assert results["event_handlers_stats"]["total_time"] > 0
    assert len(profiler.processing_times) >= EPOCHS * BATCHES


def test_running_average_is_the_exponential_mean_of_the_outputs(run: Both) -> None:
    losses: list[torch.Tensor] = []
    RunningAverage(alpha=0.5, output_transform=lambda loss: loss).attach(run.engine, "loss")
    run.engine.listen(
        Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output.detach().clone())
    )
    run.train()
    mean = losses[0]
    for loss in losses[1:]:
        mean = mean * 0.5 + loss * 0.5
    assert len(losses) == EPOCHS * BATCHES
    # Same numbers in another order of operations.
    torch.testing.assert_close(torch.as_tensor(run.engine.state.metrics["loss"]), mean)


@pytest.mark.parametrize("stage", ["bare", "validate"])
def test_accuracy_counts_over_all_batches(stage: str, tmp_path: Path) -> None:
    batches = [(torch.eye(3), torch.tensor([0, 1, 1])), (torch.eye(3), torch.tensor([0, 1, 2]))]
    if stage == "bare":
        engine = Engine(lambda engine, batch: batch)
        Accuracy().attach(engine, "accuracy")
        engine.run(batches)
    else:

        class Scores(Bare):
            def validation_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
                return batch

        made = trainer(tmp_path, max_epochs=1)
        engine = made.evaluators["validate"]
        Accuracy().attach(engine, "accuracy")
        made.fit(Scores(), data(), [batches])
    assert engine.state.metrics["accuracy"] == pytest.approx(5 / 6)


def test_handlers_are_added_and_removed_through_the_trainer(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1)
    profiler = made.handlers.add(BasicTimeProfiler())
    made.fit(Bare(), data())
    assert profiler in made.handlers and len(profiler.processing_times)


@pytest.mark.slow
def test_the_example_without_a_trainer_learns_the_digits() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is missing")
    path = Path(__file__).parents[1] / "examples" / "power_user.py"
    assert runpy.run_path(str(path))["main"](max_epochs=6, show=False) > 0.85

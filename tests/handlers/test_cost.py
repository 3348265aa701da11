"""What a run costs: the sum is the wall time, the shares are right, and nothing stays behind."""

from __future__ import annotations

import gc
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.dispatch import Channel
from leyden.engine.step import register_training_events
from leyden.handlers.base import Handler
from leyden.handlers.cost import CostMeter
from leyden.handlers.cost_report import Cost, CostLine
from tests.trainer.tiny import BATCHES, QUIET, Tiny, data, trainer


class Clock:
    """Time that passes only where somebody says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Costly(Handler):
    """Takes some time at an event."""

    def __init__(self, clock: Clock, event: Any, seconds: float, origin: str) -> None:
        super().__init__()
        self.clock, self.event, self.seconds = clock, event, seconds
        self.origin = origin
        self.calls = 0

    def attach(self, engine: Engine) -> None:
        self.listen(engine, self.event, self.work)

    def work(self, engine: Engine) -> None:
        self.calls += 1
        self.clock.now += self.seconds


def measured(iterations: int, *handlers: Costly, clock: Clock, step: float = 0.001) -> CostMeter:
    def process(engine: Engine, batch: Any) -> None:
        clock.now += step

    class Batches:
        def __iter__(self) -> Any:
            for batch in range(iterations):
                clock.now += step / 2
                yield batch

    engine = Engine(process, data_ends_epoch=True, reraise=True)
    register_training_events(engine)
    for handler in handlers:
        handler.attach(engine)
    meter = CostMeter(engine, clock=clock)
    # A sample is not free, or every iteration would be one.
    meter_clock = meter._clock

    def costs() -> float:
        clock.now += 5e-6
        return meter_clock()

    meter._clock = costs
    meter.start()
    engine.run(Batches(), max_epochs=2)
    meter.stop()
    return meter


@pytest.mark.slow
def test_the_shares_are_those_of_the_time_spent() -> None:
    clock = Clock()
    each = Costly(clock, Events.ITERATION_COMPLETED, 0.0005, "each")
    some = Costly(clock, Events.ITERATION_COMPLETED(every=50), 0.01, "some")
    rare = Costly(clock, Events.EPOCH_COMPLETED, 0.3, "rare")
    meter = measured(5000, each, some, rare, clock=clock)
    cost = meter.report()
    assert cost.wall == pytest.approx(clock.now, abs=1e-4)
    assert cost.total == pytest.approx(cost.wall, rel=1e-9), "it adds up"
    assert cost.iterations == {"train": 10_000}
    assert 50 < cost.samples["train"] < 5000, "a sample, not all"
    by = cost.by("argument")
    assert by["rare"] == pytest.approx(0.6, rel=1e-3), "epochs are timed each time"
    assert by["each"] == pytest.approx(5.0, rel=0.05)
    assert by["some"] == pytest.approx(2.0, rel=0.5), "one in fifty: met by chance"
    by = cost.by("event")
    assert by["the step"] == pytest.approx(10.0, rel=0.1)
    assert by["train_dataloader" if "train_dataloader" in by else "data wait"] > 4.0
    calls = {line.origin: line.calls for line in cost.lines}
    assert calls["rare"] == rare.calls == 2
    assert calls["each"] == pytest.approx(each.calls, rel=0.01)


@pytest.mark.slow
def test_it_adds_up_on_a_real_run(tmp_path: Path) -> None:
    class Scheduled(Tiny):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    made = trainer(
        tmp_path,
        max_epochs=3,
        gradient_clip_val=0.5,
        val_check_interval=0.5,
        checkpoint_callback=True,
        num_sanity_val_steps=1,
    )
    begun = time.perf_counter()
    made.fit(Scheduled(), data(60), data(5))
    wall = time.perf_counter() - begun
    cost = made.cost()
    assert cost.total == pytest.approx(wall, rel=0.05)
    assert cost.iterations == {"train": 180, "validate": 31}
    lines = {(line.engine, line.handler): line for line in cost.lines}
    origin = "gradient_clip_val=0.5"
    assert lines["train", "GradientClipping.clip"].origin == origin
    assert lines["train", "GradientClipping.clip"].event == "GRADIENTS_READY"
    assert lines["train", "Scheduled.training_step"].seconds > 0
    assert lines["train", "SGD.step"].origin == "configure_optimizers"
    assert lines["validate", "Scheduled.validation_step"].seconds > 0
    assert lines["validate", "ModelCheckpoint.on_validation_end"].calls == 7, "and the check"
    assert {"train_dataloader", "val_dataloaders", origin} <= set(cost.by("argument"))
    assert sum(cost.by("engine").values()) == pytest.approx(cost.total)


@pytest.mark.slow
def test_only_one_iteration_in_some_is_watched(tmp_path: Path) -> None:
    made = leyden.Trainer(**QUIET, max_epochs=1)
    channel = made.engine.channel(Events.ITERATION_COMPLETED)
    watched = []

    class Model(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            watched.append(type(channel) is not Channel)
            return super().training_step(batch, batch_idx)

    made.fit(Model(), data(2000), data(1))
    assert watched[0], "the first one is met, which is unlike the others"
    assert 0 < sum(watched) < 400
    assert sum(watched) == made.cost().samples["train"]


@pytest.mark.slow
def test_nothing_stays_behind(tmp_path: Path) -> None:
    made, model = trainer(tmp_path, max_epochs=1), Tiny()
    assert "nothing was measured" in str(made.cost())
    made.fit(model, data(), data(2))
    engines = [made.engine, *made.evaluators.values()]
    channels = [engine.channel(event) for engine in engines for event in engine._allowed_events]
    assert {type(channel) for channel in channels} == {Channel}
    assert not any(channel.watchers for channel in channels)
    made.fit(Tiny(), data(), data(2))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None, "the measurement holds no model"


def test_after_a_failure_and_during_a_run(tmp_path: Path) -> None:
    seen: list[Cost] = []

    class Model(Tiny):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            seen.append(self.trainer.cost())
            raise OSError("gone")

    made = trainer(tmp_path, max_epochs=1)
    with pytest.raises(OSError, match="gone"):
        made.fit(Model(), data(), data(2))
    assert 0 < seen[0].total == pytest.approx(seen[0].wall, rel=0.01)
    assert seen[0].iterations["train"] == BATCHES
    cost = made.cost()
    assert cost.total == pytest.approx(cost.wall, rel=1e-6) and cost.wall > seen[0].wall
    made.validate(Tiny(), data(2), verbose=False)
    assert made.cost().iterations == {"validate": 2}, "of the last run alone"


def test_numbers_are_those_of_a_run_that_nobody_measures(tmp_path: Path) -> None:
    from tests.trainer.tiny import weights

    def run(measure: bool) -> torch.Tensor:
        torch.manual_seed(2)
        made, model = trainer(tmp_path, max_epochs=2), Tiny()
        if not measure:
            made._run.cost.start = lambda: None  # type: ignore[method-assign]
        made.fit(model, data(shuffle=True), data(2))
        return weights(model)

    assert torch.equal(run(True), run(False))


def test_several_optimizers(tmp_path: Path) -> None:
    class Two(Tiny):
        def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> torch.Tensor:
            return self.net(batch[0]).sum()

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.SGD(self.parameters(), lr=0.0),
                torch.optim.Adam(self.parameters(), lr=0.0),
            ]

    made = trainer(tmp_path, max_epochs=1)
    made.fit(Two(), data(), data(1))
    lines = {line.handler: line for line in made.cost().lines}
    assert lines["Two.training_step"].calls == 2 * BATCHES
    assert "SGD.step" in lines and "Adam.step" in lines


def test_the_table() -> None:
    lines = [
        CostLine("train", "the step", "Model.training_step", "model=Model", 6.0, 1000),
        CostLine("train", "data wait", "", "train_dataloader", 3.0, 1000),
        CostLine("validate", "COMPLETED", "A" * 50, "checkpoint_callback=True (default)", 0.999, 3),
        CostLine("train", "STARTED", "Tiny.tiny", "always", 0.001, 1),
    ]
    cost = Cost(reversed(lines), wall=10.0, iterations={"train": 1000}, samples={"train": 20})
    assert cost.lines[0] is lines[0] and cost.share(lines[0]) == 0.6
    text = str(cost)
    assert max(map(len, text.splitlines())) <= 100
    assert "60.0%        6    6000.0  the step   Model.training_step" in text
    assert "1 others" in text and "Tiny.tiny" not in text
    assert text.count("A") >= 50, "nothing is cut off"
    assert text.endswith("10 s in all; timed: 20 of 1000 iterations of training")
    assert cost.to_dict()["lines"][0]["share"] == 0.6
    assert cost.by("handler")["Model"] == 6.0
    with pytest.raises(ValueError, match="by='colour'.*'handler'"):
        cost.by("colour")


def test_rare_events_are_those_that_are_not_of_an_iteration() -> None:
    from leyden.handlers.cost_sampling import HOT, RARE

    assert TrainerEvents.FIT_STARTED in RARE["train"]
    assert not set(HOT["train"]) & set(RARE["train"])

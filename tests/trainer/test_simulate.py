"""The simulated sequence of events is the one that a run really fires."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import leyden
from leyden.engine.dispatch import Channel
from leyden.engine.watching import Watcher, watch
from leyden.exceptions import MisconfigurationException
from leyden.simulate import Moment, Schedule
from tests.trainer.tiny import QUIET, Tiny, data, trainer


class Recorder(Watcher):
    """Writes down every event of training and validation as it is fired."""

    def __init__(self, made: leyden.Trainer) -> None:
        self.seen: list[Moment] = []
        self.made = made
        self.epoch = self.batch = self.val_batch = 0
        for engine in (made.engine, made.evaluators["validate"]):
            watch(engine, self)

    def event_started(self, engine: Any, channel: Channel) -> None:
        name, stage = channel.event.name, engine.state.stage
        if stage == "train":
            if name == "EPOCH_STARTED":
                self.epoch, self.batch = engine.state.epoch - 1, 0
            elif name == "ITERATION_STARTED":
                self.batch += 1
                assert self.batch == engine.state.batch_idx + 1
            batch = self.batch
        else:
            batch = engine.state.iteration
        self.seen.append(Moment(stage, name, self.epoch, batch))


class Steps(leyden.LightningModule):
    """Nearly nothing, with some optimizers."""

    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        self.count = optimizers
        self.layer = torch.nn.Linear(1, 1)
        if optimizers > 1:
            self.training_step = self.with_index  # type: ignore[method-assign]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(torch.ones(1, 1)).sum()

    def with_index(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.0) for _ in range(self.count)]


def check(train: int, val: list[int], optimizers: int = 1, **arguments: Any) -> None:
    made = leyden.Trainer(**{**QUIET, **arguments})
    loaders: Any = [list(range(count)) for count in val]
    model = Steps(optimizers)
    plan = made.plan()
    if optimizers > 1:
        import dataclasses

        plan.schedule = dataclasses.replace(plan.schedule, optimizers=optimizers)
    try:
        expected = list(plan.simulate(train_batches=train, val_batches=val))
    except MisconfigurationException as refused:
        with pytest.raises(type(refused)) as also:
            made.fit(model, list(range(train)), loaders or None)
        assert str(also.value) == str(refused)
        return
    recorder = Recorder(made)
    made.fit(model, list(range(train)), loaders or None)
    assert recorder.seen == expected
    validations = made.plan().simulate().validations
    assert validations == [(m.epoch, m.batch) for m in expected if m.event == "VALIDATION_STARTED"]


LIMITS = st.one_of(st.integers(0, 5), st.sampled_from([0.3, 0.5, 1.0]))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    train=st.integers(1, 6),
    val=st.lists(st.integers(0, 3), max_size=2),
    optimizers=st.integers(1, 2),
    max_epochs=st.integers(0, 4),
    max_steps=st.none() | st.integers(1, 12),
    limit_train_batches=LIMITS,
    limit_val_batches=LIMITS,
    val_check_interval=st.one_of(st.integers(1, 6), st.sampled_from([0.25, 0.5, 1.0])),
    check_val_every_n_epoch=st.integers(1, 3),
    num_sanity_val_steps=st.sampled_from([0, 1, 2, -1]),
    accumulate_grad_batches=st.integers(1, 4)
    | st.dictionaries(st.integers(0, 3), st.integers(1, 3), min_size=1),
)
@example(
    train=4, val=[2], optimizers=1, max_epochs=2, max_steps=4, limit_train_batches=1.0,
    limit_val_batches=1.0, val_check_interval=1.0, check_val_every_n_epoch=1,
    num_sanity_val_steps=2, accumulate_grad_batches=1,
)  # fmt: skip
@pytest.mark.slow
def test_predicted_is_what_runs(
    train: int, val: list[int], optimizers: int, **arguments: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(train, val, optimizers, min_epochs=0, **arguments)


def test_one_of_each() -> None:
    check(6, [2], max_epochs=3, val_check_interval=2, accumulate_grad_batches=4)
    check(6, [2, 1], max_epochs=3, max_steps=5, check_val_every_n_epoch=2, num_sanity_val_steps=1)
    with pytest.warns(UserWarning, match="no validation loader"):
        check(5, [], max_epochs=2)


@pytest.mark.slow
def test_ten_thousand_epochs_take_no_time() -> None:
    import time

    made = trainer(max_epochs=10_000, val_check_interval=250)
    run = made.plan().simulate(train_batches=1000, val_batches=50)
    begun = time.process_time()
    validations = run.validations
    assert time.process_time() - begun < 2.0  # 0.1 s; a loaded machine is slower
    assert len(validations) == 40_000
    assert validations[:5] == [(0, 250), (0, 500), (0, 750), (0, 1000), (1, 250)]


def test_a_plan_knows_the_loaders_it_has_seen() -> None:
    made = trainer(max_epochs=2, val_check_interval=0.5)
    with pytest.raises(MisconfigurationException, match="pass train_batches="):
        made.plan().simulate()
    made.fit(Tiny(), data(), data(2))
    assert made.plan().simulate().validations == [(0, 3), (0, 6), (1, 3), (1, 6)]
    assert made.plan().simulate(train_batches=4).validations == [(0, 2), (0, 4), (1, 2), (1, 4)]


def test_bad_input() -> None:
    schedule = Schedule(max_epochs=1)
    with pytest.raises(MisconfigurationException, match=r"train_batches=-1"):
        schedule.simulate(-1)
    with pytest.raises(MisconfigurationException, match=r"val_batches=0.5"):
        schedule.simulate(1, [0.5])  # type: ignore[list-item]
    with pytest.raises(MisconfigurationException, match="'EPOCH' is no event"):
        schedule.simulate(1).only("EPOCH")
    with pytest.raises(MisconfigurationException, match="longer than the epoch"):
        Schedule(val_check_interval=7).simulate(6, 1)

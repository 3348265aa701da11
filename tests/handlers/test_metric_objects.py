"""Metric objects by protocol: torchmetrics, ignite and a class of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.metrics import Accuracy as IgniteAccuracy

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.metric_objects import is_metric, load_metric_state, metric_paths, metric_state
from tests.handlers.metrics_fakes import Run

PREDS = [torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([0])]
TARGET = [torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([1])]
PER_BATCH, ALL = [0.5, 1.0, 0.0], 3 / 5


class Share:
    """The share of right answers, without any library."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.seen = 0

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        self.right += int((preds == target).sum())
        self.seen += len(target)

    def compute(self) -> float:
        return self.right / self.seen

    def state_dict(self) -> dict[str, int]:
        return {"right": self.right, "seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.right, self.seen = state["right"], state["seen"]


class IgniteShare(IgniteAccuracy):
    def update(self, preds: Any, target: Any = None) -> None:
        super().update((preds, target))


def torchmetric() -> Any:
    return pytest.importorskip("torchmetrics").classification.BinaryAccuracy()


MAKERS = [Share, IgniteShare, torchmetric]


def epoch(run: Run, metric: Any, feed: Any, steps: Any = range(3), **flags: Any) -> None:
    for i in steps:
        run.batch(i)
        feed(metric, PREDS[i], TARGET[i])
        run.log("acc", metric, **flags)
        run.recorder.train_batch_ended(write=True)


def update(metric: Any, preds: Any, target: Any) -> None:
    metric.update(preds, target)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("flags", [{}, {"on_step": False, "on_epoch": True}])
def test_the_epoch_value_is_computed_at_the_end_and_the_object_reset(make: Any, flags: Any) -> None:
    run, metric = Run(), make()
    for e in range(2):
        run.state.epoch = 1 + e
        epoch(run, metric, update, **flags)
        assert run.rows[e:] == []
        run.recorder.train_epoch_ended(None)
        assert run.rows[e:] == [({"acc": pytest.approx(ALL), "epoch": e}, 2)]


def test_the_step_value_is_the_batchs_own() -> None:
    run, metric = Run(), torchmetric()
    epoch(run, metric, lambda m, p, t: m(p, t), on_step=True, on_epoch=True)
    run.recorder.train_epoch_ended(None)
    assert [row["acc_step"] for row, _ in run.rows[:-1]] == PER_BATCH
    assert run.rows[-1] == ({"acc_epoch": pytest.approx(ALL), "epoch": 0}, 2)
    # What monitors "acc" decides by the epoch, not by its last batch.
    assert run.metrics()["callback"]["acc"] == pytest.approx(ALL)


def test_an_epoch_end_hook_may_reset_what_was_shown() -> None:
    run, metric = Run(), torchmetric()
    for e in range(2):
        epoch(run, metric, update, on_step=False, on_epoch=True)
        run.recorder.show_epoch()
        metric.reset()
        run.recorder.train_epoch_ended(None)
        assert run.metrics()["callback"]["acc"] == pytest.approx(ALL)
        assert [row["acc"] for row, _ in run.rows] == [pytest.approx(ALL)] * (e + 1)


@pytest.mark.parametrize("make", MAKERS)
def test_a_step_value_that_is_not_there_is_an_error(make: Any) -> None:
    run, metric = Run(), make()
    metric.update(PREDS[0], TARGET[0])
    with pytest.raises(MisconfigurationException, match="'acc', on_step=True.*training_step.*call"):
        run.log("acc", metric, on_step=True)


@pytest.mark.parametrize("make", MAKERS)
def test_evaluation_runs_compute_and_reset_too(make: Any) -> None:
    run, metric = Run(), make()

    def step(i: int, d: int) -> None:
        metric.update(PREDS[i], TARGET[i])
        run.log("acc", metric, "validation_step", prog_bar=True)

    for _ in range(2):
        assert run.evaluate("validate", [PREDS], step) == [{"acc": pytest.approx(ALL)}]
    assert run.recorder.progress_bar_metrics == {"acc": pytest.approx(ALL)}


def test_a_metric_that_computes_no_single_number_is_refused_by_name() -> None:
    class Two(Share):
        def compute(self) -> Any:
            return torch.zeros(2)

    run = Run()
    run.log("acc", Two())
    with pytest.raises(MisconfigurationException, match=r"'acc'.*Two.compute\(\).*shape \(2,\)"):
        run.recorder.train_epoch_ended(None)


def test_what_is_a_metric() -> None:
    assert is_metric(Share()) and is_metric(IgniteShare()) and is_metric(torchmetric())
    assert not is_metric({}) and not is_metric(Share) and not is_metric(torch.zeros(()))


class Holder(torch.nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.inner = torch.nn.Module()
        self.inner.acc = make()


@pytest.mark.parametrize("make", MAKERS)
def test_objects_are_found_on_a_module(make: Any) -> None:
    module = Holder(make)
    assert dict(metric_paths(module)) == {"inner.acc": module.inner.acc}
    assert dict(metric_paths(None)) == {}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("first", ["bind", "load"])
def test_a_resumed_epoch_ends_with_the_same_value(make: Any, first: str, tmp_path: Any) -> None:
    module = Holder(make)
    before = Run()
    before.recorder.bind(before.state, module)
    before.recorder.train_epoch_started()
    epoch(before, module.inner.acc, update, range(2))
    torch.save(before.recorder.state_dict(), tmp_path / "state")

    module, after = Holder(make), Run()
    state = torch.load(tmp_path / "state", weights_only=True)
    if first == "bind":
        after.recorder.bind(after.state, module)
        after.recorder.load_state_dict(state)
    else:
        after.recorder.load_state_dict(state)
        with pytest.raises(RuntimeError, match="inner.acc.*bind"):
            after.recorder.train_epoch_started()
        after.recorder.bind(after.state, module)
    after.recorder.train_epoch_started()
    epoch(after, module.inner.acc, update, range(2, 3))
    after.recorder.train_epoch_ended(None)
    assert after.rows[-1][0]["acc"] == pytest.approx(ALL)


def test_a_restored_object_shows_even_if_it_is_not_logged_again() -> None:
    module, run, again = Holder(Share), Run(), Run()
    run.recorder.bind(run.state, module)
    epoch(run, module.inner.acc, update)
    again.recorder.bind(again.state, Holder(Share))
    again.recorder.load_state_dict(run.recorder.state_dict())
    again.recorder.train_epoch_started()
    again.recorder.train_epoch_ended(None)
    assert again.rows == [({"acc": pytest.approx(ALL), "epoch": 0}, 0)]


def test_another_module_is_refused() -> None:
    module, run, again = Holder(Share), Run(), Run()
    run.recorder.bind(run.state, module)
    epoch(run, module.inner.acc, update)
    again.recorder.bind(again.state, torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="inner.acc"):
        again.recorder.load_state_dict(run.recorder.state_dict())


def test_an_object_without_state_is_reported() -> None:
    class Closed:
        update = reset = compute = Share.reset

    with pytest.warns(UserWarning, match="Closed cannot be saved"):
        assert metric_state(Closed()) is None


def test_other_parts_are_refused() -> None:
    tm = pytest.importorskip("torchmetrics")
    state = metric_state(tm.MetricCollection([torchmetric()]))
    assert state is not None
    with pytest.raises(ValueError, match="BinaryAccuracy"):
        load_metric_state(torchmetric(), state)


def test_members_of_a_collection_that_share_their_state_are_all_saved() -> None:
    tm = pytest.importorskip("torchmetrics").classification
    collection = pytest.importorskip("torchmetrics").MetricCollection

    def make() -> Any:
        return collection({"p": tm.BinaryPrecision(), "r": tm.BinaryRecall()})

    def values(holders: list[Any], split: int) -> dict[str, float]:
        run = Run()
        for i in range(3):
            holder = holders[0 if i < split else 1]
            if i == split:
                state = run.recorder.state_dict()
                run = Run()
                run.recorder.bind(run.state, holder)
                run.recorder.load_state_dict(state)
            run.recorder.bind(run.state, holder)
            run.recorder.train_epoch_started(resumed=True)
            run.batch(i)
            holder.inner.acc.update(PREDS[i], TARGET[i])
            for name, member in holder.inner.acc.items():
                run.log(name, member)
            run.recorder.train_batch_ended(write=True)
        run.recorder.train_epoch_ended(None)
        return {k: v.item() for k, v in run.recorder.callback_metrics.items()}

    whole = values([Holder(make)], 9)
    assert set(whole) == {"p", "r"}
    assert values([Holder(make), Holder(make)], 2) == whole

"""The search for a learning rate on a bare engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.engine.step import TrainingStep
from leyden.handlers import GradientAccumulation, Handler, LRFinder, Position
from leyden.handlers.lr_finder import rate_at
from tests.handlers.small_runs import BATCHES, batches

Parts = tuple[Engine, torch.nn.Linear, torch.optim.Optimizer]


def by_hand(give: Callable[[torch.Tensor], Any] = lambda loss: loss, lr: float = 0.3) -> Parts:
    """An engine with a step of the user's own."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step(engine: Engine, batch: torch.Tensor) -> Any:
        optimizer.zero_grad()
        loss = (model(batch) - 3).pow(2).mean()
        loss.backward()
        optimizer.step()
        return give(loss)

    return Engine(step, data_ends_epoch=True, reraise=True), model, optimizer


def search(finder: LRFinder, engine: Engine, epochs: int = 20) -> LRFinder:
    finder.attach(engine)
    engine.run(batches(), max_epochs=epochs)
    return finder


def expected(num: int, low: float, high: float) -> tuple[list[float], list[float]]:
    """The same search as a plain loop."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=low)
    rates, losses, average = [], [], 0.0
    data = batches()
    for i in range(num):
        rate = low if i == 0 else low * (high / low) ** ((i + 1) / num)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = (model(data[i % BATCHES]) - 3).pow(2).mean()
        loss.backward()
        optimizer.step()
        average = 0.98 * average + (1 - 0.98) * loss.item()
        rates.append(rate)
        losses.append(average / (1 - 0.98 ** (i + 1)))
    return rates, losses


@pytest.mark.parametrize(
    ("give", "loss_of"),
    [
        (lambda loss: loss, None),
        (lambda loss: loss.item(), None),
        (lambda loss: {"loss": loss}, None),
        (lambda loss: ("anything", loss), lambda output: output[1]),
    ],
)
def test_it_measures_what_a_plain_loop_measures(give: Any, loss_of: Any) -> None:
    engine, _, optimizer = by_hand(give)
    finder = LRFinder(optimizer, min_lr=1e-3, max_lr=0.1, num_training=18, loss_of=loss_of)
    results = search(finder, engine).curve.results
    rates, losses = expected(18, 1e-3, 0.1)
    assert results == {"lr": rates, "loss": losses}
    assert finder.finished and engine.state.iteration == 18


def test_the_groups_have_their_own_rates_again() -> None:
    engine, model, _ = by_hand()
    groups = [{"params": [model.weight], "lr": 0.7}, {"params": [model.bias]}]
    optimizer = torch.optim.SGD(groups, lr=0.2)
    seen = []
    engine.listen(
        Events.ITERATION_COMPLETED, lambda e: seen.append([g["lr"] for g in optimizer.param_groups])
    )
    search(LRFinder(optimizer, num_training=5), engine)
    assert len(seen) == 5 and all(a == b for a, b in seen)
    assert [group["lr"] for group in optimizer.param_groups] == [0.7, 0.2]


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    engine, model, _ = by_hand()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.5), foreach=True)
    rate = optimizer.param_groups[0]["lr"]
    seen = []
    engine.listen(Events.ITERATION_COMPLETED, lambda engine: seen.append(float(rate)))
    search(LRFinder(optimizer, min_lr=0.25, max_lr=0.5, num_training=2, mode="linear"), engine)
    assert seen == [0.25, 0.5]
    assert optimizer.param_groups[0]["lr"] is rate and float(rate) == 0.5


def test_detaching_in_the_middle_puts_the_rate_back() -> None:
    engine, _, optimizer = by_hand()
    finder = LRFinder(optimizer)
    engine.listen(Events.ITERATION_COMPLETED(once=3), lambda engine: finder.detach())
    search(finder, engine, epochs=2)
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert len(finder.curve.results["lr"]) == 3 and not finder.attached


def test_it_stops_where_the_loss_diverges() -> None:
    engine, _, optimizer = by_hand()
    finder = search(LRFinder(optimizer, min_lr=1e-3, max_lr=1e3, num_training=60), engine)
    losses = finder.curve.results["loss"]
    assert finder.finished and len(losses) < 60
    assert losses[-1] > 4 * min(losses) and max(losses[:-1]) <= 4 * min(losses)


def test_without_a_threshold_it_stops_where_the_loss_is_not_finite() -> None:
    engine, _, optimizer = by_hand()
    finder = LRFinder(
        optimizer, min_lr=1e-3, max_lr=1e30, num_training=60, early_stop_threshold=None
    )
    losses = search(finder, engine).curve.results["loss"]
    assert not math.isfinite(losses[-1]) and all(map(math.isfinite, losses[:-1]))
    assert len(losses) < 60


def test_a_loss_below_nought_has_not_diverged() -> None:
    engine, _, optimizer = by_hand(lambda loss: loss - 1000)
    finder = search(LRFinder(optimizer, max_lr=1e-3, num_training=20), engine)
    assert len(finder.curve.results["loss"]) == 20


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_never_finite_is_an_error(value: float) -> None:
    engine, _, optimizer = by_hand(lambda loss: loss * value)
    finder = LRFinder(optimizer)
    with pytest.raises(MisconfigurationException, match="at the first step of the search already"):
        search(finder, engine)
    finder.detach()
    assert optimizer.param_groups[0]["lr"] == 0.3 and finder.losses == []


def test_a_step_that_returns_no_loss_is_an_error() -> None:
    engine, _, optimizer = by_hand(lambda loss: [loss])
    with pytest.raises(MisconfigurationException, match="returned a list"):
        search(LRFinder(optimizer), engine)


def test_batches_without_a_loss_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = iter([True, False] * 40)
    engine, _, optimizer = by_hand(lambda loss: None if next(skipped) else loss)
    finder = search(LRFinder(optimizer, num_training=6), engine)
    assert len(finder.rates) == 6 and engine.state.iteration == 12
    monkeypatch.setattr("leyden.handlers.lr_finder._PATIENCE", 5)
    engine, _, optimizer = by_hand(lambda loss: None)
    with pytest.raises(MisconfigurationException, match="5 batches in a row"):
        search(LRFinder(optimizer), engine)


def test_data_without_batches_is_an_error() -> None:
    engine, _, optimizer = by_hand()
    LRFinder(optimizer).attach(engine)
    with pytest.raises(MisconfigurationException, match="no batch in epoch 1"):
        engine.run([], max_epochs=5)


def test_a_second_run_searches_anew() -> None:
    engine, model, optimizer = by_hand()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    finder = search(LRFinder(optimizer, num_training=7), engine)
    first = finder.curve.results
    model.load_state_dict(before)
    engine.state.max_epochs = None
    engine.run(batches(), max_epochs=20)
    assert finder.curve.results == first and len(first["lr"]) == 7


def test_a_search_that_was_saved_goes_on() -> None:
    engine, _, optimizer = by_hand()
    finder = LRFinder(optimizer, num_training=20)
    finder.attach(engine)
    saved: dict[str, Any] = {}

    def save(engine: Engine) -> None:
        saved.update(
            {k: list(v) if isinstance(v, list) else v for k, v in finder.state_dict().items()}
        )

    engine.listen(Events.ITERATION_COMPLETED(once=8), save, order=90)
    engine.run(batches(), max_epochs=20)
    other = LRFinder(optimizer, num_training=20)
    other.load_state_dict(saved)
    assert other.curve.results["loss"] == finder.curve.results["loss"][:8]
    assert other.own_rates == [[0.3]]


# ---------------------------------------------------------------- with a TrainingStep


def trained(*, several: bool = False, **arguments: Any) -> tuple[Engine, list[Any], Any]:
    """An engine with this package's step: its events tell of the losses."""
    torch.manual_seed(0)
    models = [torch.nn.Linear(2, 1) for _ in range(2 if several else 1)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.3) for model in models]

    def forward(batch: torch.Tensor, batch_idx: int, index: int = 0) -> torch.Tensor:
        return (models[index](batch) - 3 - 100 * index).pow(2).mean()

    step = TrainingStep(forward, optimizers, takes_optimizer_idx=several, **arguments)
    engine = Engine(step, data_ends_epoch=True, reraise=True)
    Position().attach(engine)
    return engine, optimizers, step


def test_with_several_optimizers_those_of_the_index_are_searched() -> None:
    engine, optimizers, _ = trained(several=True)
    seen = []
    finder = LRFinder(optimizers, optimizer_idx=1, num_training=4, max_lr=1e-3)
    engine.listen(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.append([o.param_groups[0]["lr"] for o in optimizers]),
    )
    search(finder, engine)
    assert [rates[0] for rates in seen] == [0.3] * 4
    assert [rates[1] for rates in seen] == finder.rates
    assert min(finder.losses) > 1000  # of the second one alone

    engine, optimizers, _ = trained(several=True)
    both = search(LRFinder(optimizers, optimizer_idx=[0, 1], num_training=4, max_lr=1e-3), engine)
    assert 1000 < both.losses[0] < finder.losses[0]  # the mean of both


def test_turns_of_other_optimizers_do_not_count() -> None:
    engine, optimizers, _ = trained(several=True, frequencies=[1, 1])
    finder = LRFinder(optimizers, optimizer_idx=1, num_training=4, max_lr=1e-3)
    search(finder, engine)
    assert len(finder.losses) == 4 and engine.state.iteration == 8


@pytest.mark.parametrize("index", [2, -1, [0, 5]])
def test_an_index_that_does_not_exist_is_refused(index: Any) -> None:
    engine, optimizers, _ = trained(several=True)
    with pytest.raises(MisconfigurationException, match=r"there are 2 optimizers, 0 to 1"):
        search(LRFinder(optimizers, optimizer_idx=index), engine)


def test_several_optimizers_need_an_index() -> None:
    engine, optimizers, _ = trained(several=True)
    with pytest.raises(MisconfigurationException, match="pass optimizer_idx"):
        search(LRFinder(optimizers), engine)


def test_no_optimizer_and_one_without_a_rate_are_refused() -> None:
    engine, _, _ = by_hand()
    with pytest.raises(MisconfigurationException, match="has no optimizer"):
        search(LRFinder(), engine)

    class Ratless(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__([torch.nn.Parameter(torch.zeros(1))], {})

    engine, _, _ = by_hand()
    with pytest.raises(MisconfigurationException, match="Ratless has no 'lr'"):
        search(LRFinder(Ratless()), engine)


def test_a_step_counts_where_its_group_is_complete() -> None:
    engine, optimizers, _ = trained()
    GradientAccumulation(2).attach(engine)
    plain: list[float] = []
    Handler().listen(
        engine,
        TrainerEvents.BACKWARD_STARTED,
        lambda engine: plain.append(2 * engine.state.loss.item()),
    )
    finder = search(LRFinder(optimizers, num_training=6, max_lr=1e-3), engine)
    assert engine.state.iteration == 12 and len(finder.losses) == 6
    assert finder.losses[0] == pytest.approx((plain[0] + plain[1]) / 2, rel=1e-6)  # float32 / 2 * 2


def test_the_bar_counts_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    engine, _, optimizer = by_hand()
    search(LRFinder(optimizer, num_training=6, progress=True), engine)
    assert "Search for the learning rate: 100% 6/6" in capsys.readouterr().out
    engine, _, optimizer = by_hand(lambda loss: loss * math.nan)
    finder = LRFinder(optimizer, num_training=6, progress=True)
    with pytest.raises(MisconfigurationException):
        search(finder, engine)
    finder.detach()
    assert finder._bar is None and "1/6" not in capsys.readouterr().out


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(min_lr=0.1, max_lr=0.1), "min_lr=0.1 and max_lr=0.1 are no range"),
        (dict(min_lr=1.0, max_lr=0.1), "min_lr below max_lr"),
        (dict(min_lr=0), "must be above 0"),
        (dict(min_lr=-1.0), "must be above 0"),
        (dict(min_lr=math.nan), "min_lr=nan"),
        (dict(max_lr=math.inf), "finite"),
        (dict(max_lr="1"), "max_lr='1' is no number"),
        (dict(num_training=0), "num_training=0 is below 1"),
        (dict(num_training=True), "num_training=True is no number of steps"),
        (dict(num_training=1.5), "num_training=1.5"),
        (dict(mode="power"), "mode='power' is unknown"),
        (dict(early_stop_threshold=1.0), "early_stop_threshold=1.0 is not above 1"),
        (dict(early_stop_threshold=math.nan), "early_stop_threshold=nan is not above 1"),
        (dict(early_stop_threshold="4"), "early_stop_threshold='4' is no number"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(MisconfigurationException, match=words):
        LRFinder(**arguments)


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_the_rates_grow_from_the_first_to_the_last(mode: str) -> None:
    rates = [rate_at(i, 1e-3, 0.1, 50, mode) for i in range(50)]
    assert rates[0] == 1e-3 and rates[-1] == pytest.approx(0.1, rel=1e-12)  # a power rounds
    assert rates == sorted(set(rates))
    assert rate_at(0, 1e-3, 0.1, 1, mode) == 1e-3

"""Evaluation engines: positions over several loaders, outputs, and surroundings put back."""

from typing import Any

import pytest
import torch

from leyden.engine import Events
from leyden.handlers.evaluation import (
    EvalFeed,
    EvaluationStep,
    Outputs,
    Surroundings,
    evaluate,
    evaluator,
)

INF = float("inf")


def passes(loaders: list[Any], limits: list[float], **arguments: Any) -> tuple[Any, list[Any]]:
    seen: list[Any] = []

    def forward(batch: Any, batch_idx: int, loader: int = 0) -> Any:
        seen.append((loader, batch_idx, batch))
        return batch

    engine = evaluator(EvaluationStep(forward, **arguments), "validate")
    state: Any = engine.state
    state.num_loaders = len(loaders)
    outputs = Outputs()
    outputs.attach(engine)
    engine.listen(
        Events.EPOCH_COMPLETED, lambda e: setattr(state, "results", list(state.loader_outputs))
    )
    return evaluate(engine, EvalFeed(state, loaders, limits)), seen


def test_one_loader_after_the_other_each_from_batch_0() -> None:
    results, seen = passes([[10, 11], [], [12]], [INF, INF, INF])
    assert seen == [(0, 0, 10), (0, 1, 11), (2, 0, 12)] and results == [[10, 11], [], [12]]


def test_limits_and_nothing_is_asked_for_beyond_them() -> None:
    def endless() -> Any:
        yield from (1, 2)
        raise AssertionError("asked for more")

    results, _ = passes([endless(), [3, 4]], [2, 1])
    assert results == [[1, 2], [3]]


def test_a_batch_of_none_uses_up_its_number() -> None:
    _, seen = passes([[5, None, 6]], [INF])
    assert seen == [(0, 0, 5), (0, 2, 6)]


def test_step_end_decides_what_counts_and_none_is_not_kept() -> None:
    results, _ = passes([[1, 2, 3]], [INF], step_end=lambda out: None if out == 2 else out * 10)
    assert results == [[10, 30]]


def test_a_second_pass_begins_anew_and_holds_no_batch() -> None:
    engine = evaluator(lambda engine, batch: batch, "test")
    state: Any = engine.state
    for _ in range(2):
        evaluate(engine, EvalFeed(state, [[torch.zeros(2)] * 3], [INF]))
        assert (state.iteration, state.epoch, state.stage) == (3, 1, "test")
        assert state.batch is None and state.output is None


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
    model[1].eval()  # frozen by the user
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    try:
        with Surroundings(model).entered():
            assert not torch.is_grad_enabled() and not model.training and not model[0].training
            torch.rand(100)
            if fails:
                raise LookupError
    except LookupError:
        assert fails
    assert torch.is_grad_enabled() and model.training and model[0].training
    assert not model[1].training and torch.equal(torch.rand(3), expected)


def test_the_mode_is_left_to_hooks_where_they_switch_it() -> None:
    model = torch.nn.Linear(1, 1)
    with Surroundings(model, set_mode=False).entered():
        assert model.training

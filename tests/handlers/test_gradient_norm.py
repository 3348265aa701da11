"""Gradient norms: their names, their values, and when they are measured at all."""

from typing import Any

import pytest
import torch

from leyden.handlers import GradientAccumulation, GradientNorm
from leyden.handlers.gradient_norm import gradient_norms
from tests.handlers.small_runs import Small


@pytest.mark.parametrize("p", [1, 2, 2.5, "inf"])
def test_names_and_values(p: Any) -> None:
    model = torch.nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[3.0, -4.0]])
    found = gradient_norms(model.named_parameters(), p)
    expected = torch.linalg.vector_norm(model.weight.grad, float(p))
    assert list(found) == [f"grad_{p}_norm_weight", f"grad_{p}_norm_total"]  # no gradient, no norm
    assert all(torch.equal(norm, expected) for norm in found.values())


def test_without_gradients_there_are_no_norms() -> None:
    assert gradient_norms(torch.nn.Linear(2, 1).named_parameters(), 2) == {}


def test_once_an_optimizer_step_and_only_where_it_is_due() -> None:
    norms: list[dict[str, Any]] = []
    run = Small(GradientAccumulation(2))
    GradientNorm(2, norms.append, due=lambda: run.state.optimizer_steps % 2 == 0).attach(run.engine)
    run.run(epochs=3)
    assert run.state.optimizer_steps == 6 and len(norms) == 3
    assert all(isinstance(value, torch.Tensor) for value in norms[0].values())


def test_a_measure_of_ones_own_is_asked_instead() -> None:
    norms: list[dict[str, Any]] = []
    Small(GradientNorm(3, norms.append, measure=lambda p: {"mine": p})).run(epochs=1)
    assert norms == [{"mine": 3}] * 4

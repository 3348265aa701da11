"""Clipping: by norm over everything, by value, of chosen parameters, by somebody else."""

from typing import Any

import pytest
import torch

from leyden.engine import TrainerEvents
from leyden.handlers import GradientAccumulation, GradientClipping, GradientNorm
from leyden.handlers.gradient_clipping import clip_gradients
from tests.handlers.small_runs import Small, by_hand


def gradients(run: Small) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
def test_the_joint_norm_is_limited_before_each_step(norm_type: float) -> None:
    norms: list[float] = []
    run = Small(GradientClipping(0.01, norm_type=norm_type), scale=50.0)
    run.engine.listen(
        TrainerEvents.OPTIMIZER_STEP_STARTED,
        lambda engine: norms.append(float(gradients(run).norm(norm_type))),
    )
    run.run()
    # clip_grad_norm_ divides by the norm plus 1e-6.
    assert len(norms) == 8 and norms == pytest.approx([0.01] * 8, rel=1e-3)


def test_each_value_is_limited() -> None:
    largest: list[float] = []
    run = Small(GradientClipping(0.01, algorithm="value"), scale=50.0)
    run.engine.listen(
        TrainerEvents.OPTIMIZER_STEP_STARTED,
        lambda engine: largest.append(float(gradients(run).abs().max())),
    )
    run.run()
    assert largest == [pytest.approx(0.01)] * 8


def test_the_sum_of_a_group_is_clipped_not_its_parts() -> None:
    run = Small(GradientAccumulation(2), GradientClipping(0.05)).run()
    assert torch.equal(run.weights, by_hand(factor=2, limit=0.05))


def test_only_the_parameters_that_were_given() -> None:
    run = Small()
    clipping = GradientClipping(1e-9, parameters=[run.model.bias])
    clipping.attach(run.engine)
    before = [p.detach().clone() for p in run.model.parameters()]
    run.run()
    moved = [
        float((p.detach() - b).abs().max())
        for p, b in zip(run.model.parameters(), before, strict=True)
    ]
    assert moved[0] > 1e-3 and moved[1] < 1e-6


def test_the_raw_norm_is_tracked_whatever_was_attached_first() -> None:
    for flip in (False, True):
        norms: list[dict[str, Any]] = []
        handlers: list[Any] = [GradientClipping(1e-3), GradientNorm(2, norms.append)]
        Small(*(reversed(handlers) if flip else handlers), scale=50.0).run(epochs=1)
        assert len(norms) == 4 and all(float(one["grad_2_norm_total"]) > 0.1 for one in norms)


def test_clip_by_takes_over() -> None:
    calls: list[tuple[Any, ...]] = []
    clipping = GradientClipping(0.5)
    clipping.clip_by = lambda *arguments: calls.append(arguments)
    run = Small(clipping).run(epochs=1)
    assert calls == [(run.optimizer, 0, 0.5, "norm")] * 4
    assert torch.equal(run.weights, by_hand(epochs=1))


def test_clip_gradients_is_a_function_of_tensors() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    clip_gradients([weight], 10.0)
    assert weight.grad.tolist() == [3.0, 4.0]
    clip_gradients([weight], 3.5, "value")
    assert weight.grad.tolist() == [3.0, 3.5]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limit": 0}, ValueError, "is not above 0"),
        ({"limit": -1.0}, ValueError, "is not above 0"),
        ({"limit": float("nan")}, ValueError, "is not above 0"),
        ({"limit": "1"}, TypeError, "is not a number"),
        ({"limit": True}, TypeError, "is not a number"),
        ({"limit": 1.0, "algorithm": "l2"}, ValueError, "choose 'norm' or 'value'"),
    ],
)
def test_bad_limits_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradientClipping(**arguments)

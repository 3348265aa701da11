"""The streamed reductions agree with torch over all values at once, wherever a flush comes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.handlers.metric_reduce import Accumulator, reduction_of

FUNCTIONS: dict[str, Any] = {"sum": torch.sum, "min": torch.min, "max": torch.max}

one = st.tuples(
    st.floats(-1e6, 1e6, width=32),
    st.integers(1, 64),  # the batch size
    st.sampled_from(["number", "float32", "float64", "int64"]),
    st.booleans(),  # whether a flush follows
)


def fill(acc: Accumulator, items: list[Any]) -> None:
    for value, weight, kind, flush in items:
        number = int(value) if kind == "int64" else value
        acc.values.append(
            number if kind == "number" else torch.tensor(number, dtype=getattr(torch, kind))
        )
        acc.weights.append(weight)
        if flush:
            acc.flush()


@settings(max_examples=30, deadline=None)
@given(st.lists(one, min_size=1, max_size=20), st.sampled_from(["mean", "sum", "min", "max"]))
def test_it_equals_the_reduction_of_everything(items: list[Any], op: str) -> None:
    acc = Accumulator(op)
    fill(acc, items)
    values = torch.tensor(
        [int(v) if kind == "int64" else v for v, _, kind, _ in items], dtype=torch.float64
    )
    weights = torch.tensor([w for _, w, _, _ in items], dtype=torch.float64)
    expected = (values * weights).sum() / weights.sum() if op == "mean" else FUNCTIONS[op](values)
    result = acc.result()
    assert result is not None and result.dim() == 0
    scale = values.abs().max().item() * len(items)
    # float32 is what comes out unless float64 went in
    assert math.isclose(result.item(), expected.item(), rel_tol=1e-6, abs_tol=1e-6 * scale)
    assert result.dtype == (
        torch.float64 if any(k == "float64" for *_, k, _ in items) else torch.float32
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(one, max_size=20),
    st.lists(one, min_size=1, max_size=20),
    st.sampled_from(["mean", "sum", "min", "max", torch.median]),
)
def test_a_saved_one_goes_on_to_the_same_last_digit(first: Any, second: Any, op: Any) -> None:
    whole, saved, restored = Accumulator(op), Accumulator(op), Accumulator(op)
    fill(whole, first + second)
    fill(saved, first)
    restored.load_state_dict(saved.state_dict())
    fill(restored, second)
    a, b = whole.result(), restored.result()
    assert a is not None and b is not None and torch.equal(a, b)


def test_nothing_gives_nothing() -> None:
    acc = Accumulator("mean")
    assert acc.result() is None and not acc and acc.weight == 0


def test_weights_of_zero_give_nan_and_not_a_crash() -> None:
    for value in (1.0, torch.tensor(1.0)):
        acc = Accumulator("mean")
        acc.values.append(value)
        acc.weights.append(0)
        result = acc.result()
        assert result is not None and result.isnan()


@pytest.mark.parametrize("op", ["min", "max"])
@pytest.mark.parametrize("make", [float, torch.tensor])
def test_a_nan_is_not_lost_by_its_place(op: str, make: Any) -> None:
    for order in ([math.nan, 1.0], [1.0, math.nan]):
        acc = Accumulator(op)
        acc.values.extend(make(v) for v in order)
        acc.weights.extend([1, 1])
        result = acc.result()
        assert result is not None and result.isnan()


def test_half_precision_is_summed_wide() -> None:
    acc = Accumulator("mean")
    acc.values = [torch.tensor(1000.0, dtype=torch.float16) for _ in range(100)]
    acc.weights = [1] * 100
    result = acc.result()
    assert result is not None and result.item() == 1000.0


def test_another_reduction_cannot_go_on() -> None:
    with pytest.raises(ValueError, match="'sum'.*'mean'.*same reduce_fx"):
        Accumulator("mean").load_state_dict(Accumulator("sum").state_dict())


def test_a_restored_custom_reduction_says_when_its_function_never_came_back() -> None:
    acc = Accumulator(torch.median)
    acc.values, acc.weights = [1.0], [1]
    restored = Accumulator("keep")
    restored.load_state_dict(acc.state_dict())
    with pytest.warns(UserWarning, match="reduce_fx of its own"):
        assert restored.result() is None
    assert restored.reduces(torch.median)
    assert restored.result() == 1.0


def test_an_unhashable_function_is_kept() -> None:
    class Last:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, values: torch.Tensor) -> float:
            return values[-1].item()

    reduction = reduction_of(Last(), "a", "training_step")
    acc = Accumulator(reduction)
    acc.values, acc.weights = [1.0, 5.0], [1, 1]
    assert acc.result() == 5.0

"""The suggestion of a search for the learning rate, and its picture."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.handlers.lr_curve import LRCurve, steepest

RATES = [10.0**-k for k in range(8, 0, -1)]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_the_steepest_descent_is_that_of_numpys_gradient(losses: list[float]) -> None:
    assert steepest(losses, 0, 0) == int(numpy.gradient(numpy.array(losses)).argmin())


def test_the_ends_are_left_out() -> None:
    losses = [9.0, 8.0, 0.9, 0.5, 0.4, -50.0]
    assert steepest(losses, 0, 0) == 5
    assert steepest(losses, 2, 1) == 2
    assert steepest(losses, 0, 1) == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_do_not_shift_the_index(broken: float) -> None:
    losses = [5.0, broken, broken, 5.0, 4.9, 4.0, 3.9, 3.9]
    curve = LRCurve(RATES, losses)
    assert curve.suggestion(skip_begin=0, skip_end=0) == RATES[5]


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, math.nan], [math.nan] * 20, [1.0] * 12])
def test_too_few_losses_give_no_suggestion_and_say_so(losses: list[float]) -> None:
    curve = LRCurve([0.1] * len(losses), losses)
    with pytest.warns(UserWarning, match="raise num_training"):
        assert curve.suggestion() is None


@pytest.mark.parametrize("skip", [-1, 1.5, True, "2"])
def test_what_is_no_number_of_losses_is_refused(skip: Any) -> None:
    with pytest.raises(ValueError, match=f"skip_begin={skip!r} is no number of losses"):
        LRCurve(RATES, RATES).suggestion(skip_begin=skip)


def test_each_rate_has_a_loss() -> None:
    with pytest.raises(ValueError, match="8 rates and 1 losses"):
        LRCurve(RATES, [1.0])
    assert repr(LRCurve(RATES, RATES)) == ("LRCurve(8 rates from 1e-08 to 0.1, mode='exponential')")
    assert "no rates" in repr(LRCurve([], []))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_the_picture_marks_the_suggestion(mode: str) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is missing")
    matplotlib.use("agg")
    from matplotlib import pyplot

    rates = [10 ** (-8 + k / 4) for k in range(30)]
    losses = [2.0 - math.tanh((k - 18) / 3) for k in range(30)]
    curve = LRCurve(rates, losses, mode)
    figure = curve.plot(suggest=True)
    try:
        axes = figure.axes[0]
        line, mark = axes.lines
        assert axes.get_xscale() == ("log" if mode == "exponential" else "linear")
        assert list(line.get_xdata()) == rates and list(line.get_ydata()) == losses
        assert list(mark.get_xdata()) == [curve.suggestion()]
        assert f"{curve.suggestion():.3g}" in axes.get_legend().get_texts()[0].get_text()
        assert axes.get_xlabel() and axes.get_ylabel()
    finally:
        pyplot.close(figure)
    plain = LRCurve(rates[:5], losses[:5], mode).plot(suggest=True)  # nothing to mark
    assert len(plain.axes[0].lines) == 1
    pyplot.close(plain)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'leyden\[plot\]'"):
        LRCurve(RATES, RATES).plot()


def test_a_curve_knows_what_was_searched_and_where_its_suggestion_is() -> None:
    curve = LRCurve(RATES, [5.0, 4.0, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5], lr_max=1.0)
    assert (curve.lr_min, curve.lr_max, curve.num_training) == (RATES[0], 1.0, len(RATES))
    assert curve._optimal_idx is None
    curve.suggestion(skip_begin=0)
    assert curve._optimal_idx == 1

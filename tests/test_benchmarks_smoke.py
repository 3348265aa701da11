"""The benchmarks' own parts: the stopwatches, the table and the bounds."""

import pytest
import torch

from benchmarks.conftest import _missed
from benchmarks.contenders import LEYDEN_OFF, HandWritten, leyden_fit, small_batch, small_net
from benchmarks.harness import Batches, Epochs, Report, Rounds, Row


def test_both_loops_see_all_batches_and_slices_are_paired() -> None:
    seen: list[int] = []
    batches = Batches("batch", lambda data: seen.append(len(list(data))), 10, 3, warmup=5)
    assert list(batches) == ["batch"] * len(batches) == ["batch"] * 36
    assert seen == [5, 10, 10, 10]
    assert len(batches.pairs) == 3
    batches.pairs = [(0.004, 0.001), (0.003, 0.002), (0.009, 0.008)]
    assert batches.over == pytest.approx((0.003 - 0.001) / 10 * 1e6)


def test_epochs_leave_out_the_first_and_the_last() -> None:
    epochs = Epochs([1, 2], lambda loader: None)
    for _ in range(4):
        assert list(epochs) == [1, 2]
    epochs.mine, epochs.theirs = [0.0, 9.0, 2.2, 3.3], [1.0, 1.0, 2.0, 3.0]
    assert epochs.ratio == pytest.approx(1.1)


def test_the_trainer_does_what_the_hand_written_loop_does() -> None:
    torch.manual_seed(3)
    mine, other = small_net(), small_net()
    other.load_state_dict(mine.state_dict())
    leyden_fit(mine, [small_batch()] * 5, **LEYDEN_OFF)
    HandWritten(other)([small_batch()] * 5)
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_bound_is_scaled_by_what_ignite_takes_and_missed_above() -> None:
    row = Row("a loop", {"leyden": 3.0}, must=2.0, ignite=10.0)
    slow = Rounds({"leyden": [3.0], "ignite": [20.0]})
    quick = Rounds({"leyden": [3.0], "ignite": [5.0]})
    assert _missed(row, slow, 1.0) is None
    assert _missed(row, quick, 1.6) is None
    said = _missed(row, quick, 1.0)
    assert said is not None
    assert said.startswith("a loop: 3.00 us is above 2.0 us x 1.00")


def test_the_table_shows_bounds_and_leaves_out_who_is_missing() -> None:
    report = Report()
    report.rows.append(Row("an epoch", {"leyden": 1.04, "ignite": 1.1}, "x", 1.1, 1.03, digits=2))
    report.note("once")
    report.note("once")
    text = report.markdown("make bench")
    assert "| an epoch | 1.04 x | 1.10 x | 1.03 x | 1.10 x | - | - |" in text
    assert text.count("once") == 1
    assert text.endswith("Repeat it: `make bench`")

"""The running window of numbers."""

import torch

from leyden.accumulators import TensorRunningAccum


def test_the_window_and_its_places() -> None:
    kept = TensorRunningAccum(2)
    assert kept.memory is None and kept.last_idx is None and kept.current_idx == 0
    rows = []
    for value in (1.0, 2.0, 5.0):
        kept.append(torch.tensor(value))
        assert kept.memory is not None
        rows.append((kept.memory.tolist(), kept.last_idx, kept.current_idx, kept.rotated))
    assert rows == [([1, 0], 0, 1, False), ([1, 2], 1, 0, True), ([5, 2], 0, 1, True)]
    assert kept.mean() == 3.5 and kept.max() == 5 and kept.min() == 2
    kept.reset()
    assert kept.memory is None and kept.mean() is None and not kept.rotated


def test_a_window_of_one() -> None:
    kept = TensorRunningAccum(1)
    for value in (1.0, 2.0):
        kept.append(torch.tensor(value))
    assert kept.mean() == 2

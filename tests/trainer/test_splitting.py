"""Splitting a batch along time."""

from typing import Any

import pytest
import torch

from leyden.exceptions import MisconfigurationException
from leyden.splitting import split_batch


def test_splitting_along_time() -> None:
    batch = (torch.arange(10).reshape(2, 5), [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], torch.ones(2), 7)
    parts = split_batch(batch, 2)
    assert [part[0].shape[1] for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part[0] for part in parts], 1), batch[0])
    assert parts[1][1] == [[3, 4], [8, 9]]
    assert all(torch.equal(part[2], batch[2]) and part[3] == 7 for part in parts)


@pytest.mark.parametrize(
    ("batch", "size", "message"),
    [
        ((torch.zeros(2, 5), torch.zeros(2, 4)), 2, r"\[4, 5\]"),
        ((torch.zeros(2), 3), 2, "nothing with a time dimension"),
        (torch.zeros(2, 5), 2, "type Tensor"),
        ({"x": torch.zeros(2, 5)}, 2, "type dict"),
        ((torch.zeros(2, 5),), 0, "split_size=0"),
        ((torch.zeros(2, 5),), 1.5, "split_size=1.5"),
    ],
)
def test_what_cannot_be_split_is_refused(batch: Any, size: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        split_batch(batch, size)

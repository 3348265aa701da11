"""LazyScalars is a dict to everybody who reads it; batch sizes are found and never consumed."""

from __future__ import annotations

import copy
import json
import pickle
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leyden.handlers.metric_values import LazyScalars, batch_size_of, host_scalars


def lazy() -> LazyScalars:
    return LazyScalars(
        {"a": torch.tensor(1.5), "n": 2, "b": torch.tensor(2.5), "i": torch.tensor(3)}
    )


PLAIN = {"a": 1.5, "n": 2, "b": 2.5, "i": 3}


@pytest.mark.parametrize(
    "read",
    [
        dict, lambda d: {**d}, lambda d: d.copy(), copy.copy, copy.deepcopy,
        lambda d: dict(d.items()),
        lambda d: {k: d[k] for k in d}, lambda d: {k: d.get(k) for k in d.keys()}, lambda d: d | {},
        lambda d: {} | d, lambda d: dict(zip(d, d.values(), strict=True)),
        lambda d: {k: d.pop(k) for k in list(d)},
        lambda d: dict([d.popitem() for _ in range(4)][::-1]),
        lambda d: {k: d.setdefault(k, 9) for k in list(d)}, lambda d: json.loads(json.dumps(d)),
        lambda d: pickle.loads(pickle.dumps(d)), lambda d: eval(repr(d)), lambda d: d,
    ],
)  # fmt: skip
def test_every_way_to_read_gives_plain_numbers(read: Any) -> None:
    found = read(lazy())
    assert found == PLAIN and PLAIN == found
    assert not (found != PLAIN)
    assert [type(v) for v in found.values()] == [float, int, float, int]


def test_it_is_a_dict_with_its_length_and_membership() -> None:
    d = lazy()
    assert (
        isinstance(d, dict) and len(d) == 4 and "a" in d and "z" not in d and list(d) == list(PLAIN)
    )
    assert d == lazy() and d != {"a": 1.5} and d.get("z", 7) == 7
    with pytest.raises(KeyError):
        d["z"]


def test_host_scalars_keeps_order_kinds_and_precision() -> None:
    values = [torch.tensor(0.1), 3, torch.tensor(0.1, dtype=torch.float64), torch.tensor([7]), "x"]
    out = host_scalars([*values, torch.tensor(0.1), torch.zeros(2)])
    assert out[:6] == [torch.tensor(0.1).item(), 3, 0.1, 7, "x", torch.tensor(0.1).item()]
    assert isinstance(out[6], torch.Tensor)


@pytest.mark.parametrize(
    "batch, size",
    [
        (torch.zeros(5, 2), 5), (torch.tensor(1.0), 1), ([torch.zeros(3), torch.zeros(7)], 3),
        ((torch.zeros(4, 1), 1), 4), ({"x": torch.zeros(6)}, 6),
        ({"x": {"y": [torch.zeros(2)]}}, 2),
        ("word", 4), (["ab", "c"], 2), (None, 1), (3.5, 1), ([], 1), ({}, 1), ((), 1),
        (OrderedDict(x=torch.zeros(8)), 8), (SimpleNamespace(num_graphs=9), 9),
        (SimpleNamespace(batch_size=3), 3), (SimpleNamespace(batch_size="3"), 1),
    ],
)  # fmt: skip
def test_batch_sizes(batch: Any, size: int) -> None:
    assert batch_size_of(batch) == size


def test_an_iterator_is_not_consumed() -> None:
    batch = iter([torch.zeros(3)])
    assert batch_size_of(batch) == 1
    assert len(list(batch)) == 1


def test_a_batch_that_holds_itself_counts_one() -> None:
    batch: list[Any] = []
    batch.append(batch)
    assert batch_size_of(batch) == 1

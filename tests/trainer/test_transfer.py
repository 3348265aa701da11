"""Moving batches."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from leyden.transfer import apply_to_tensors, move_to_device

Pair = namedtuple("Pair", "x y")


class Own:
    """Moves itself, as batches of graphs do."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def to(self, device: Any) -> "Own":
        return Own(str(device))


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    name: str


@dataclass
class Checked:
    x: torch.Tensor

    def __post_init__(self) -> None:
        self.made_by = "init"


def meta(data: Any) -> Any:
    return move_to_device(data, torch.device("meta"))


def test_a_tensor() -> None:
    tensor = torch.ones(2)
    assert meta(tensor).device.type == "meta"
    assert move_to_device(tensor, "cpu") is tensor


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict])
def test_mappings_keep_their_type(kind: Any) -> None:
    moved = meta(kind(x=torch.ones(2), n=3))
    assert type(moved) is kind and moved["x"].device.type == "meta" and moved["n"] == 3


def test_a_defaultdict_keeps_its_factory() -> None:
    given: defaultdict[str, Any] = defaultdict(list, x=torch.ones(2))
    moved = meta(given)
    assert moved["x"].device.type == "meta" and moved["new"] == []


@pytest.mark.parametrize("kind", [list, tuple])
def test_sequences_keep_their_type(kind: Any) -> None:
    moved = meta(kind([torch.ones(2), [torch.ones(1)], "text", None]))
    assert type(moved) is kind
    assert moved[0].device.type == moved[1][0].device.type == "meta"
    assert moved[2:] == kind(["text", None])


def test_named_tuples() -> None:
    moved = meta(Pair(torch.ones(1), 2))
    assert isinstance(moved, Pair) and moved.x.device.type == "meta" and moved.y == 2


def test_objects_that_move_themselves() -> None:
    assert meta([Own()])[0].device == "meta"
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = move_to_device(packed, "cpu")
    assert isinstance(moved, PackedSequence)


def test_dataclasses() -> None:
    frozen = Frozen(torch.ones(1), "a")
    moved = meta(frozen)
    assert moved.x.device.type == "meta" and moved.name == "a" and frozen.x.device.type == "cpu"
    checked = Checked(torch.ones(1))
    checked.made_by = "hand"
    assert meta(checked).made_by == "hand"


def test_everything_else_stays() -> None:
    for value in (3, 2.5, "text", b"bytes", None, range(3), {1, 2}, Own):
        assert meta(value) is value


def test_a_function_of_every_tensor() -> None:
    data = {"a": torch.ones(2), "b": [torch.zeros(1), Own()]}
    doubled = apply_to_tensors(data, lambda t: t * 2)
    assert torch.equal(doubled["a"], torch.full((2,), 2.0))
    assert doubled["b"][1] is data["b"][1]

"""What a snapshot holds, kind by kind."""

from __future__ import annotations

import copy
import random
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from leyden.exceptions import MisconfigurationException
from leyden.snapshot import Snapshot


def test_values_come_back_into_the_same_objects() -> None:
    module = nn.Linear(2, 1)
    weight, data = module.weight, module.weight.data
    before = weight.detach().clone()
    kept = Snapshot(module)
    for _ in range(2):  # as often as wanted
        module.weight.data.fill_(float("nan"))
        module.bias = nn.Parameter(torch.ones(3))
        module.weight.grad = torch.ones(1, 2)
        kept.restore()
        assert module.weight is weight and torch.equal(weight, before)
        assert weight.data_ptr() == data.data_ptr() and weight.grad is None
        assert module.bias.shape == (1,)


def test_weights_that_were_moved_or_cast_come_back() -> None:
    module = nn.Linear(2, 1)
    before, pointer = module.weight.detach().clone(), module.weight.data_ptr()
    with Snapshot(module):
        module.double()
    assert module.weight.dtype == torch.float32 and torch.equal(module.weight, before)
    assert module.weight.data_ptr() == pointer


def test_bits_come_back_also_those_of_nan() -> None:
    module = nn.Linear(1, 1)
    bits = torch.tensor([[0x7FC00123]], dtype=torch.int32)
    module.weight.data = bits.view(torch.float32)
    with Snapshot(module):
        module.weight.data.zero_()
    assert torch.equal(module.weight.data.view(torch.int32), bits)


def test_tied_overlapping_and_shared_memory_is_one() -> None:
    module = nn.Module()
    base = torch.arange(6.0)
    module.register_buffer("wide", torch.zeros(1).expand(4))
    module.register_buffer("all", base)
    module.register_buffer("part", base[2:4])
    module.first = nn.Linear(2, 2, bias=False)
    module.second = module.first
    weight = module.first.weight.detach().clone()
    with Snapshot(module):
        base.mul_(3)
        module.wide[0] = 5
        module.first.weight.data.zero_()
    assert torch.equal(base, torch.arange(6.0)) and module.part.tolist() == [2.0, 3.0]
    assert module.wide.tolist() == [0.0] * 4 and torch.equal(module.first.weight, weight)


def test_a_small_view_seen_first_does_not_hide_the_rest() -> None:
    base = torch.arange(6.0)
    module = nn.Module()
    module.register_buffer("part", base[2:4])
    module.register_buffer("all", base)
    with Snapshot(module):
        base.zero_()
    assert torch.equal(base, torch.arange(6.0))


@pytest.mark.parametrize("layout", ["sparse", "meta", "empty"])
def test_unusual_tensors(layout: str) -> None:
    module = nn.Module()
    value = {
        "sparse": torch.eye(2).to_sparse(),
        "meta": torch.empty(2, device="meta"),
        "empty": torch.empty(0),
    }[layout]
    module.register_buffer("value", value)
    before = None if layout == "meta" else value.clone()
    with Snapshot(module):
        if layout == "sparse":
            value.mul_(2)
        module.value = None
    assert module.value is value
    if before is not None:
        assert torch.equal(value.to_dense(), before.to_dense())


def test_gradients_and_flags_come_back() -> None:
    module = nn.Linear(2, 1)
    module.weight.grad = gradient = torch.ones(1, 2)
    module.bias.requires_grad_(False)
    with Snapshot(module):
        module.weight.grad.mul_(7)
        module.weight.grad = None
        module.bias.requires_grad_(True)
        module.weight.requires_grad_(False)
        module.eval()
    assert module.weight.grad is gradient and gradient.tolist() == [[1.0, 1.0]]
    assert module.weight.requires_grad and not module.bias.requires_grad and module.training


def test_containers_come_back_as_they_were() -> None:
    module = nn.Module()
    inner: list[int] = [1]
    values: dict[str, Any] = {
        "list": [inner, 2],
        "dict": {"b": inner, "a": (inner,)},
        "ordered": OrderedDict(x=1, y=2),
        "default": defaultdict(list, a=[1]),
        "counter": Counter(a=3),
        "set": {1, 2},
        "deque": deque([1, 2], maxlen=2),
        "tensors": [torch.zeros(1)],
    }
    for name, value in values.items():
        setattr(module, name, value)
    expected = copy.deepcopy(values)
    with Snapshot(module):
        inner.append(9)
        module.list.clear()
        module.dict["c"] = 1
        del module.dict["b"]
        module.ordered.move_to_end("x")
        module.default["a"].append(2)
        module.default["z"].append(2)
        module.counter.update("aab")
        module.set.add(3)
        module.deque.append(7)
        module.tensors[0] += 1
        module.new = 1
    assert values == expected and list(module.dict) == ["b", "a"]
    assert list(module.ordered) == ["x", "y"] and module.deque.maxlen == 2
    assert all(getattr(module, name) is value for name, value in values.items())
    assert module.list[0] is inner and not hasattr(module, "new")


def test_optimizers_and_schedulers() -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def step() -> None:
        module(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    step()
    before = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict(), module.state_dict()))
    with Snapshot(module, [optimizer], [{"scheduler": scheduler}]):
        step()
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    step_first = copy.deepcopy(module.state_dict())
    assert str(before) == str((optimizer.state_dict(), scheduler.state_dict(), step_first))
    assert len(optimizer.param_groups) == 1 and optimizer.param_groups[0]["lr"] == 0.05


def test_an_optimizer_that_has_not_stepped_has_no_state_again() -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(module.parameters())
    with Snapshot(optimizer):
        module(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert not optimizer.state and module.weight.grad is None


def test_random_streams_of_all_kinds() -> None:
    class Holder:
        def __init__(self) -> None:
            self.inner = {"numpy": numpy.random.default_rng(1)}

    module = nn.Module()
    module.generator = torch.Generator().manual_seed(1)
    module.holder = Holder()
    module.legacy = numpy.random.RandomState(3)

    def draw() -> list[Any]:
        return [
            random.random(),
            float(numpy.random.rand()),
            torch.rand(1).item(),
            torch.rand(1, generator=module.generator).item(),
            module.holder.inner["numpy"].random(),
            module.legacy.rand(),
        ]

    with Snapshot(module):
        first = draw()
    assert draw() == first


def test_objects_with_a_state_of_their_own_are_asked() -> None:
    class Scale:
        def __init__(self) -> None:
            self.history = [1.0]

        def state_dict(self) -> dict[str, Any]:
            return {"history": self.history}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.history = state["history"]

    module = nn.Module()
    module.scale = Scale()
    kept = Snapshot(module)
    for _ in range(2):
        module.scale.history.append(2.0)
        kept.restore()
        assert module.scale.history == [1.0]


def test_one_state_that_cannot_be_put_back_keeps_no_other_from_it() -> None:
    class Broken:
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise RuntimeError("no")

    module = nn.Linear(1, 1)
    module.one, module.two = Broken(), [1]
    before, drawn = module.weight.detach().clone(), torch.get_rng_state()
    kept = Snapshot(module)
    module.weight.data.zero_()
    module.two.append(2)
    torch.rand(1)
    with pytest.raises(RuntimeError, match="no"):
        kept.restore()
    assert torch.equal(module.weight, before) and module.two == [1]
    assert torch.equal(torch.get_rng_state(), drawn)


def test_what_is_skipped_and_what_is_added_later() -> None:
    module, other = nn.Module(), nn.Module()
    module.kept, module.skipped, other.value = [1], [1], [1]
    module.itself = module
    kept = Snapshot(module, skip=[module.skipped])
    kept.add(other)
    for value in (module.kept, module.skipped, other.value):
        value.append(2)
    kept.restore()
    assert (module.kept, module.skipped, other.value) == ([1], [1, 2], [1])


def test_without_tensors_their_contents_stay() -> None:
    module = nn.Linear(1, 1)
    weight = module.weight
    with Snapshot(module, tensors=False):
        weight.data.zero_()
        module.weight = nn.Parameter(torch.ones(1, 1))
    assert module.weight is weight and weight.item() == 0


def test_gradients_are_switched_on_again() -> None:
    with Snapshot():
        torch.set_grad_enabled(False)
    assert torch.is_grad_enabled()


def test_weights_that_are_not_made_yet_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="run a batch through it first"):
        Snapshot(nn.LazyLinear(2))

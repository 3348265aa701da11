"""Toggling, clipping, norms and gathering."""

import pytest
import torch
from torch import nn

from leyden.exceptions import MisconfigurationException
from leyden.module_tools import Toggles, all_gather, clip_gradients, grad_norm


class Three:
    """Three parameters, the last one frozen by the user; one optimizer for each."""

    def __init__(self) -> None:
        self.parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
        self.parameters[2].requires_grad = False
        self.optimizers = [torch.optim.SGD([p], lr=0.1) for p in self.parameters]
        self.toggles = Toggles()

    def toggle(self, index: int) -> None:
        self.toggles.push(self.optimizers[index], self.optimizers)

    @property
    def training(self) -> list[bool]:
        return [p.requires_grad for p in self.parameters]


BEFORE = [True, True, False]


def test_toggling_leaves_one_and_comes_back() -> None:
    three = Three()
    three.toggle(0)
    assert three.training == [True, False, False]
    three.toggles.pop()
    assert three.training == BEFORE
    three.toggle(2)
    assert three.training == [False, False, False]  # Its parameter was frozen before.
    three.toggles.pop(three.optimizers[2])
    assert three.training == BEFORE


def test_toggles_nest() -> None:
    three = Three()
    three.toggle(0)
    three.toggle(1)
    assert three.training == [False, True, False]
    three.toggle(1)
    three.toggles.pop()
    assert three.training == [False, True, False]
    three.toggles.pop()
    assert three.training == [True, False, False]
    three.toggles.pop()
    assert three.training == BEFORE


def test_popping_an_outer_toggle_undoes_the_inner_ones() -> None:
    three = Three()
    three.toggle(0)
    three.toggle(1)
    three.toggles.pop(three.optimizers[0])
    assert three.training == BEFORE


def test_popping_what_is_not_toggled_changes_nothing() -> None:
    three = Three()
    three.toggles.pop()
    three.toggles.pop(three.optimizers[1])
    assert three.training == BEFORE
    three.toggle(0)
    three.toggles.pop(three.optimizers[1])
    assert three.training == [True, False, False]


def test_clearing_undoes_everything() -> None:
    three = Three()
    for index in (0, 1, 0, 2):
        three.toggle(index)
    three.toggles.clear()
    assert three.training == BEFORE


def test_a_parameter_of_two_optimizers_stays_with_the_toggled_one() -> None:
    shared, own = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    first = torch.optim.SGD([shared, own], lr=0.1)
    second = torch.optim.SGD([shared], lr=0.1)
    toggles = Toggles()
    toggles.push(second, [first, second])
    assert (shared.requires_grad, own.requires_grad) == (True, False)
    toggles.clear()
    assert shared.requires_grad and own.requires_grad


def gradients(*values: float) -> list[nn.Parameter]:
    parameters = []
    for value in values:
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.tensor([value])
        parameters.append(parameter)
    return parameters


def grads(parameters: list[nn.Parameter]) -> list[float]:
    return [float(p.grad) for p in parameters if p.grad is not None]


def test_clipping() -> None:
    parameters = [*gradients(3.0, 4.0), nn.Parameter(torch.zeros(1))]
    clip_gradients(parameters, 0.0, "norm")
    assert grads(parameters) == [3.0, 4.0]
    clip_gradients(parameters, 3.5, "value")
    assert grads(parameters) == [3.0, 3.5]
    clip_gradients(parameters, 1.0, "norm")
    assert sum(g**2 for g in grads(parameters)) == pytest.approx(1.0, rel=1e-5)  # torch adds 1e-6.


@pytest.mark.parametrize(
    ("value", "algorithm", "message"), [(-1.0, "norm", "-1.0 is negative"), (1.0, "size", "'size'")]
)
def test_bad_clipping_is_refused(value: float, algorithm: str, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        clip_gradients([], value, algorithm)


def test_norms_are_rounded_and_named() -> None:
    named = list(zip(["a", "b"], gradients(-3.00001, 4.0), strict=True))
    assert grad_norm(named, 2.0) == {
        "grad_2.0_norm_a": 3.0,
        "grad_2.0_norm_b": 4.0,
        "grad_2.0_norm_total": 5.0,
    }
    assert grad_norm(named, float("inf"))["grad_inf_norm_total"] == 4.0
    assert grad_norm([("c", nn.Parameter(torch.zeros(1)))], 1.0) == {"grad_1.0_norm_total": 0.0}


@pytest.mark.parametrize("norm_type", [0.0, -1.0, float("nan")])
def test_what_is_no_norm_is_refused(norm_type: float) -> None:
    with pytest.raises(MisconfigurationException, match="is no norm"):
        grad_norm([], norm_type)


def test_one_process_gathers_what_it_has() -> None:
    data = {"a": torch.ones(2), "b": "text"}
    assert all_gather(data, None, False) is data

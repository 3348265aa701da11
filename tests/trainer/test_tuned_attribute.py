"""Where a tuned value is kept."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import pytest

from leyden.exceptions import MisconfigurationException
from leyden.tuned_attribute import TunedAttribute


def test_it_is_written_wherever_it_is_kept() -> None:
    model, data = SimpleNamespace(size=1, hparams={"size": 2}), SimpleNamespace(size=3)
    found = TunedAttribute.find(model, data, "nope", "size")
    assert found is not None and found.value == 1 and found.doubled
    found.set(7)
    assert (model.size, model.hparams, data.size) == (7, {"size": 7}, 7) and not found.doubled
    assert found.in_hparams_too


def test_hparams_may_be_a_namespace() -> None:
    model = SimpleNamespace(hparams=argparse.Namespace(lr=0.1))
    found = TunedAttribute.find(model, None, "lr")
    assert found is not None
    found.set(0.2)
    assert model.hparams.lr == found.value == 0.2


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("hparams.optim.lr", lambda m: m.hparams["optim"]["lr"]),
        ("part.rate", lambda m: m.part.rate),
    ],
)
def test_dots_show_the_way(name: str, read: Any) -> None:
    model = SimpleNamespace(hparams={"optim": {"lr": 0.1}}, part=SimpleNamespace(rate=0.1))
    found = TunedAttribute.find(model, None, name)
    assert found is not None and found.value == 0.1
    found.set(0.5)
    assert read(model) == 0.5


@pytest.mark.parametrize("name", ["lr", "hparams.lr", "hparams.optim.lr", "a.b.c"])
def test_what_does_not_exist_is_not_found(name: str) -> None:
    assert TunedAttribute.find(SimpleNamespace(hparams={"x": 1}), None, name) is None


def test_what_cannot_be_set_is_refused() -> None:
    class Fixed:
        lr = property(lambda self: 0.1)

    with pytest.raises(MisconfigurationException, match=r"Fixed\.lr is a property without"):
        TunedAttribute.find(Fixed(), None, "lr")

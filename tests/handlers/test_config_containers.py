"""OmegaConf's containers among hyper-parameters."""

import sys
import types
from typing import Any

import pytest

from leyden.handlers import config_containers
from leyden.handlers.config_containers import is_container, packed, unpacked


class Container:
    def __init__(self, data: Any) -> None:
        self.data = data

    def items(self) -> Any:
        return self.data.items()


class Conf:
    """The two functions of OmegaConf that are called."""

    create = Container

    @staticmethod
    def to_container(container: Container, *, resolve: bool) -> Any:
        assert not resolve
        return container.data


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name: the real one is not needed by anything else here."""
    stand_in: Any = types.ModuleType("omegaconf")
    stand_in.Container, stand_in.OmegaConf = Container, Conf
    monkeypatch.setitem(sys.modules, "omegaconf", stand_in)


def test_one_that_holds_all_comes_back_as_one() -> None:
    data, names = unpacked(Container({"rate": 0.1}))  # type: ignore[arg-type]
    assert data == {"rate": 0.1} and names == [config_containers.WHOLE]
    again = packed(data, names)
    assert is_container(again) and again.data == data


def test_values_come_back_as_what_they_were() -> None:
    hparams = {"model": Container({"width": 3}), "sizes": Container([1]), "seed": 1}
    data, names = unpacked(hparams)
    assert data == {"model": {"width": 3}, "sizes": [1], "seed": 1} and names == ["model", "sizes"]
    again = packed(data, names)
    assert again["model"].data == {"width": 3} and again["sizes"].data == [1]
    assert again["seed"] == 1


def test_plain_ones_stay_and_nothing_is_noted() -> None:
    assert unpacked({"a": {"b": 1}}) == ({"a": {"b": 1}}, [])


def test_without_the_package_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    assert not is_container({}) and packed({"a": {}}, ["a"]) == {"a": {}}


def test_the_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "omegaconf")
    omegaconf = pytest.importorskip("omegaconf")
    conf = omegaconf.OmegaConf.create({"a": {"b": 1}, "c": "${a.b}", "d": "???"})
    data, names = unpacked(conf)
    assert data == {"a": {"b": 1}, "c": "${a.b}", "d": "???"}
    assert packed(data, names) == conf and packed(data, names).c == 1

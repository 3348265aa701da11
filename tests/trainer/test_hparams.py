"""save_hyperparameters and hparams."""

import argparse
import copy
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from leyden.datamodule import LightningDataModule
from leyden.hparams import AttributeDict
from leyden.module import LightningModule


class All(LightningModule):
    def __init__(self, a: Any, b: Any = 2, *args: Any, c: Any = "x", **kw: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


class One(LightningModule):
    def __init__(self, conf: Any, other: Any = 1) -> None:
        super().__init__()
        self.save_hyperparameters(conf)


def test_all_arguments() -> None:
    model = All(1, 2, "dropped", c="z", extra=5)
    assert dict(model.hparams) == {"a": 1, "b": 2, "c": "z", "extra": 5}
    assert model._hparams_name == "kwargs"
    assert model.hparams.a == 1  # type: ignore[attr-defined]


def test_some_arguments_and_ignored_ones() -> None:
    class Some(LightningModule):
        def __init__(self, a: Any, b: Any = 2, c: Any = 3) -> None:
            super().__init__()
            self.save_hyperparameters("a", "c")

    class Without(LightningModule):
        def __init__(self, a: Any, b: Any = 2, c: Any = 3) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=a)

    assert dict(Some(1).hparams) == {"a": 1, "c": 3}
    assert dict(Without("b").hparams) == {"a": "b", "c": 3}
    assert dict(Without(["a", "b"]).hparams) == {"c": 3}


@dataclass
class Conf:
    x: int = 1
    y: list[int] = field(default_factory=lambda: [2])


@pytest.mark.parametrize(
    "conf", [{"x": 1, "y": [2]}, argparse.Namespace(x=1, y=[2]), AttributeDict(x=1, y=[2]), Conf()]
)
def test_one_object_holds_them_all(conf: Any) -> None:
    model = One(conf)
    assert dict(model.hparams) == {"x": 1, "y": [2]}
    assert model._hparams_name == "conf"


def test_an_object_that_the_constructor_made() -> None:
    class Made(LightningModule):
        def __init__(self, conf: Any) -> None:
            super().__init__()
            self.save_hyperparameters(dict(conf))
            self.save_hyperparameters({"more": 1})

    model = Made({"x": 1})
    assert dict(model.hparams) == {"x": 1, "more": 1}
    assert model._hparams_name is None


def test_values_are_those_at_the_moment_of_the_call() -> None:
    class Changed(LightningModule):
        def __init__(self, a: int) -> None:
            a = a * 10
            super().__init__()
            self.save_hyperparameters()
            self.hparams.a += 1  # type: ignore[attr-defined]

    model = Changed(1)
    assert (dict(model.hparams), dict(model.hparams_initial)) == ({"a": 11}, {"a": 10})


def test_a_subclass_adds_its_own() -> None:
    class Child(All):
        def __init__(self, *args: Any, own: int = 7, **kw: Any) -> None:
            super().__init__(*args, **kw)
            self.save_hyperparameters()

    assert dict(Child(1, b=3).hparams) == {"a": 1, "b": 3, "c": "x", "own": 7}


def test_parents_named_without_super_and_other_names_for_self() -> None:
    class Old(LightningModule):
        def __init__(this, a: int) -> None:
            LightningModule.__init__(this)
            this.save_hyperparameters()

    assert dict(Old(3).hparams) == {"a": 3}


def test_a_dataclass_saves_its_fields() -> None:
    @dataclass(eq=False)
    class Data(LightningDataModule):
        width: int = 3

        def __post_init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()

    assert dict(Data(4).hparams) == {"width": 4}


def test_nothing_to_save() -> None:
    class Bare(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()

    assert dict(Bare().hparams) == dict(Bare().hparams_initial) == {}
    assert Bare()._hparams_name is None
    assert dict(LightningModule().hparams) == {}


def test_assigning_hparams_finds_the_argument() -> None:
    class Assigns(LightningModule):
        def __init__(self, hp: Any) -> None:
            super().__init__()
            self.hparams = hp

    with pytest.warns(DeprecationWarning, match=r"self.hparams = .*save_hyperparameters\(\)"):
        model = Assigns(argparse.Namespace(x=1))
    assert dict(model.hparams) == {"x": 1} and model._hparams_name == "hp"
    # Later on it adds; what the module was made with stays what loggers get.
    with pytest.warns(DeprecationWarning, match="self.hparams = "):
        model.hparams = {"y": 2}
    assert dict(model.hparams) == {"x": 1, "y": 2} and model._hparams_name == "hp"
    assert dict(model.hparams_initial) == {"x": 1}


def test_what_is_done_to_the_initial_ones_changes_nothing() -> None:
    class Keeps(LightningModule):
        def __init__(self, sizes: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    model = Keeps([1, 2])
    model.hparams_initial["sizes"].append(3)
    assert dict(model.hparams_initial) == {"sizes": [1, 2]}


@pytest.mark.parametrize("value", [3, 2.5, True, [1], None, object()])
def test_values_without_names_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="have no names: pass a dict"):
        One(value)


def test_bad_calls_are_refused() -> None:
    class Names(LightningModule):
        def __init__(self, a: int, *names: Any) -> None:
            super().__init__()
            self.save_hyperparameters(*names)

    with pytest.raises(ValueError, match=r"'b'\): .*Names has no such argument, it has \['a'\]"):
        Names(1, "b")
    with pytest.raises(ValueError, match="got 2 objects"):
        Names(1, {"x": 1}, {"y": 2})


def test_values_that_cannot_be_copied_or_compared() -> None:
    generator = (i for i in range(3))
    model = All(generator, b=lambda: 1, c=torch.ones(2))
    assert model.hparams_initial["a"] is generator
    assert torch.equal(model.hparams_initial["c"], torch.ones(2))
    assert dict(One({"w": torch.ones(2)}).hparams).keys() == {"w"}


def test_attribute_dict() -> None:
    hparams = AttributeDict(width=3, rate=0.1)
    hparams.depth = 2
    del hparams.rate
    assert hparams == {"width": 3, "depth": 2}
    assert repr(hparams) == '"depth": 2\n"width": 3' and repr(AttributeDict()) == ""
    for name, message in (
        ("widht", "did you mean 'width'"),
        ("zzz", r"there are \['depth', 'width'\]"),
    ):
        with pytest.raises(AttributeError, match=message):
            getattr(hparams, name)
    with pytest.raises(AttributeError, match="no hyper-parameter 'rate'"):
        del hparams.rate
    for other in (copy.deepcopy(hparams), pickle.loads(pickle.dumps(hparams)), hparams.copy()):
        assert isinstance(other, AttributeDict) and other == hparams

"""What counts as an overridden hook."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any
from unittest import mock

import pytest

from leyden.handlers.overrides import overrides


class Base:
    def hook(self) -> Any:
        """Do nothing."""

    def other(self) -> Any:
        """Do nothing."""


class Child(Base):
    def hook(self) -> Any:
        return "child"


class Grandchild(Child):
    pass


class Mixin:
    def hook(self) -> Any:
        return "mixin"


class Mixed(Mixin, Base):
    pass


def test_only_what_a_class_defines_counts() -> None:
    assert not overrides(Base(), "hook", Base)
    assert overrides(Child(), "hook", Base) and not overrides(Child(), "other", Base)
    assert overrides(Grandchild(), "hook", Base)
    assert overrides(Mixed(), "hook", Base)


def test_a_copy_of_the_default_is_no_override() -> None:
    class Restored(Child):
        hook = Base.hook

    assert not overrides(Restored(), "hook", Base)


def test_attributes_of_the_instance_count() -> None:
    obj: Any = Base()
    obj.hook = lambda: 1
    assert overrides(obj, "hook", Base)
    obj.hook = Base().hook
    assert not overrides(obj, "hook", Base)
    obj.hook = partial(Base.hook, obj)
    assert not overrides(obj, "hook", Base)
    obj.hook = partial(Child.hook, obj)
    assert overrides(obj, "hook", Base)


@pytest.mark.parametrize("name", ["hook", "missing"])
def test_none_and_missing_take_a_hook_away(name: str) -> None:
    obj: Any = Child()
    if name == "hook":
        obj.hook = None
    assert not overrides(obj, name, Base)


def test_a_name_that_the_base_lacks_counts() -> None:
    obj: Any = Base()
    obj.extra = lambda: 1
    assert overrides(obj, "extra", Base)
    obj.extra = 3
    assert not overrides(obj, "extra", Base)


def test_mocks_and_patches_count_while_they_last() -> None:
    obj: Any = Base()
    with mock.patch.object(obj, "hook"):
        assert overrides(obj, "hook", Base)
    with mock.patch.object(obj, "hook", wraps=obj.hook):
        assert overrides(obj, "hook", Base)
    assert not overrides(obj, "hook", Base)
    for spec in (False, True):
        with mock.patch.object(Child, "hook", autospec=spec):
            assert overrides(Grandchild(), "hook", Base)
        # A patched default has to be called, or the patch would see nothing.
        with mock.patch.object(Base, "hook", autospec=spec):
            assert overrides(Base(), "hook", Base)
            assert not overrides(Base(), "other", Base)
    assert not overrides(Base(), "hook", Base)


def test_a_function_put_on_the_base_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "hook", lambda self: "patched")
    assert overrides(Base(), "hook", Base)
    assert overrides(Grandchild(), "hook", Base)


def test_a_wrapper_of_the_default_counts() -> None:
    def spy(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any) -> Any:
            return function(*args)

        return call

    class Spied(Base):
        hook = spy(Base.hook)

    assert overrides(Spied(), "hook", Base)


def test_static_and_class_methods() -> None:
    class Static(Base):
        @staticmethod
        def hook() -> Any:  # type: ignore[override]
            return 1

        @classmethod
        def other(cls) -> Any:
            return 2

    assert overrides(Static(), "hook", Base) and overrides(Static(), "other", Base)


def test_the_default_may_be_inherited_by_the_base() -> None:
    class Lower(Base):
        pass

    assert not overrides(Lower(), "hook", Lower)
    assert overrides(Child(), "hook", Lower)

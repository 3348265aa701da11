"""The tree of argument errors is the one its docstring draws."""

import builtins
import pickle
import re

import pytest

from leyden.engine import errors

KINDS = {
    name: getattr(errors, name) for name in errors.__all__ if name != "MisconfigurationException"
}
DRAWN = dict(re.findall(r"^ {6}(\w+) +(\w+Error)\b", errors.__doc__ or "", re.M))


def test_every_error_is_drawn() -> None:
    assert set(DRAWN) == set(KINDS)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_an_error_is_also_the_builtin_drawn(name: str) -> None:
    kind, builtin = KINDS[name], getattr(builtins, DRAWN[name])
    assert issubclass(kind, errors.MisconfigurationException) and issubclass(kind, builtin)
    reported = name.startswith("Reported")
    assert kind.__name__ == (DRAWN[name] if reported else "MisconfigurationException")
    assert kind.__qualname__ == name


@pytest.mark.parametrize("name", sorted(KINDS))
def test_an_error_crosses_processes(name: str) -> None:
    found = pickle.loads(pickle.dumps(KINDS[name]("gpus=2 is too many")))
    assert type(found) is KINDS[name] and str(found) == "gpus=2 is too many"

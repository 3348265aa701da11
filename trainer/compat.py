"""Run code written for ``pytorch_lightning`` 1.x on leyden, unchanged.

After :func:`install`, ``import pytorch_lightning`` and its public modules give leyden's own
objects. For a script there is ``python -m leyden run script.py``, for a test suite
``pytest -p leyden.compat``. An installed pytorch_lightning is never shadowed unless ``force=True``
says so.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from leyden.compat_names import GONE, MODULES

__all__ = ["install", "uninstall"]

PACKAGE = "pytorch_lightning"
#: what the package says its version is.
VERSION = "1.1.8"


def install(*, force: bool = False) -> None:
    """Make ``import pytorch_lightning`` resolve to leyden. Calling it again changes nothing.

    Args:
        force: also where pytorch_lightning is installed; modules of it that are loaded already
            are forgotten.

    Raises:
        ImportError: when pytorch_lightning is installed, and ``force`` is not set.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if not force and (PACKAGE in sys.modules or importlib.util.find_spec(PACKAGE) is not None):
        raise ImportError(
            "pytorch_lightning is installed here: uninstall it, or call "
            "leyden.compat.install(force=True) to put leyden in its place"
        )
    _forget()
    sys.meta_path.insert(0, _Finder())


def uninstall() -> None:
    """Undo :func:`install`."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]


class _Finder(MetaPathFinder):
    """Finds the modules of the table."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PACKAGE and not fullname.startswith(f"{PACKAGE}."):
            return None
        below = fullname[len(PACKAGE) + 1 :]
        if below not in MODULES:
            raise ModuleNotFoundError(
                f"{fullname} is not there in leyden: of Lightning 1.1 there are "
                f"{', '.join(_near(below))}",
                name=fullname,
            )
        package = any(
            other.startswith(f"{below}." if below else "") and other != below for other in MODULES
        )
        return ModuleSpec(fullname, _Maker(below), origin="leyden.compat", is_package=package)


def _near(below: str) -> list[str]:
    top = below.split(".")[0]
    found = [f"{PACKAGE}.{name}" for name in MODULES if name.split(".")[0] == top and name]
    return found or sorted({f"{PACKAGE}.{name.split('.')[0]}" for name in MODULES if name})


class _Maker(Loader):
    """Makes one module of the table; its names are looked up when they are first used."""

    def __init__(self, below: str) -> None:
        self.below = below

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name, self.below)

    def exec_module(self, module: ModuleType) -> None:
        if not self.below:
            module.__version__ = VERSION  # type: ignore[attr-defined]


class _Module(ModuleType):
    """A module of pytorch_lightning whose names are leyden's."""

    def __init__(self, name: str, below: str) -> None:
        super().__init__(name, f"What {name} of Lightning 1.1 is in leyden.")
        self.__dict__["_names"] = MODULES[below]
        self.__dict__["_below"] = below
        self.__dict__["__all__"] = sorted(
            name for name in MODULES[below] if not name.startswith("_")
        )

    def __getattr__(self, name: str) -> Any:
        names, below = self.__dict__["_names"], self.__dict__["_below"]
        if name in names:
            module, attribute = names[name].split(":")
            value = getattr(importlib.import_module(module), attribute)
            self.__dict__[name] = value
            return value
        child = f"{below}.{name}" if below else name
        if child in MODULES:
            return importlib.import_module(f"{PACKAGE}.{child}")
        if name.startswith("__"):
            raise AttributeError(name)
        if below.split(".")[0] == "metrics":
            return _metric(below, name)
        if name in GONE:
            raise ImportError(f"{self.__name__}.{name} is not there in leyden: {GONE[name]}")
        raise AttributeError(f"module {self.__name__!r} of leyden.compat has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__["_names"]})


def _metric(below: str, name: str) -> Any:
    """A metric of pytorch_lightning.metrics: torchmetrics took them over."""
    try:
        torchmetrics = importlib.import_module("torchmetrics" + below[len("metrics") :])
    except ImportError as error:
        raise ImportError(
            f"pytorch_lightning.{below}.{name} became a part of torchmetrics: "
            "pip install 'leyden[metrics]'"
        ) from error
    try:
        return getattr(torchmetrics, name)
    except AttributeError:
        raise ImportError(
            f"pytorch_lightning.{below}.{name} is not in torchmetrics {torchmetrics.__version__}: "
            "look for its successor there"
        ) from None


def pytest_configure(config: Any) -> None:
    """Be a pytest plugin: ``pytest -p leyden.compat`` runs a suite for Lightning 1.x."""
    install(force=True)


def pytest_load_initial_conftests(early_config: Any, parser: Any, args: Any) -> None:
    """Be there before the first conftest.py is imported."""
    install(force=True)

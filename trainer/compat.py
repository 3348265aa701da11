"""Run code written for ``pytorch_lightning`` 1.x on leyden, unchanged.

After :func:`install`, ``import pytorch_lightning`` and its public modules give leyden's own
objects. For a script there is ``python -m leyden run script.py``, for a test suite
``pytest -p leyden.compat``. An installed pytorch_lightning is never shadowed unless ``force=True``
says so.
"""

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from leyden.compat_gone import REFUSED, STAND_INS
from leyden.compat_names import MODULES, REPLACEABLE

__all__ = ["install", "is_installed", "uninstall"]

PACKAGE = "pytorch_lightning"
#: what the package says its version is.
VERSION = "1.1.8"
#: the folder of a package of that name, which child processes import.
STAND_IN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stand_in")
#: every module that there is, in the order of their names.
KNOWN = sorted({*MODULES, *STAND_INS})


def install(*, force: bool = False) -> None:
    """Make ``import pytorch_lightning`` resolve to leyden. Calling it again changes nothing.

    Args:
        force: also where pytorch_lightning is installed; modules of it that are loaded already
            are forgotten.

    Raises:
        ImportError: when pytorch_lightning is installed, and ``force`` is not set.
    """
    if is_installed():
        return
    _leave_path()
    another = PACKAGE in sys.modules or importlib.util.find_spec(PACKAGE) is not None
    if another and not force:
        raise ImportError(
            "pytorch_lightning is installed here: uninstall it, or call "
            "leyden.compat.install(force=True) to put leyden in its place"
        )
    _forget()
    sys.meta_path.insert(0, _Finder())
    # A child process that is not forked gets this path, and not the finder.
    sys.path.insert(0 if another else len(sys.path), STAND_IN)


def is_installed() -> bool:
    """Whether ``import pytorch_lightning`` gives leyden in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def uninstall() -> None:
    """Undo :func:`install`."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    _leave_path()
    _forget()


def _leave_path() -> None:
    sys.path[:] = [path for path in sys.path if path != STAND_IN]


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
        if below not in KNOWN:
            raise ModuleNotFoundError(
                f"{fullname} is not there in leyden: of Lightning 1.1 there are "
                f"{', '.join(_near(below))}",
                name=fullname,
            )
        package = any(
            other.startswith(f"{below}." if below else "") and other != below for other in KNOWN
        )
        return ModuleSpec(fullname, _Maker(below), origin="leyden.compat", is_package=package)


def _near(below: str) -> list[str]:
    top = below.split(".")[0]
    found = [f"{PACKAGE}.{name}" for name in KNOWN if name.split(".")[0] == top and name]
    return found or sorted({f"{PACKAGE}.{name.split('.')[0]}" for name in KNOWN if name})


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
        names = MODULES.get(below, {})
        self.__dict__["_names"] = names
        self.__dict__["_below"] = below
        self.__dict__["__all__"] = sorted(name for name in names if not name.startswith("_"))

    def __getattr__(self, name: str) -> Any:
        names, below = self.__dict__["_names"], self.__dict__["_below"]
        if name in names:
            return self._kept(name, _found(names[name], f"{self.__name__}.{name}"))
        child = f"{below}.{name}" if below else name
        if child in KNOWN:
            return importlib.import_module(f"{PACKAGE}.{child}")
        if name.startswith("__"):
            raise AttributeError(name)
        instead = STAND_INS.get(below, {}).get(name)
        if instead is not None:
            return self._kept(name, _stand_in(name, self.__name__, instead))
        if name in REFUSED:
            raise ImportError(f"{self.__name__}.{name} is not there in leyden: {REFUSED[name]}")
        if below.split(".")[0] == "metrics":
            return _metric(below, name)
        near = difflib.get_close_matches(name, [*names, *STAND_INS.get(below, ())], n=2)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise AttributeError(
            f"module {self.__name__!r} of leyden.compat has no attribute {name!r}{hint}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        home = self._home(name)
        if home is None:
            super().__setattr__(name, value)
        else:
            setattr(importlib.import_module(home[0]), home[1], value)

    def __delattr__(self, name: str) -> None:
        home = self._home(name)
        if home is None:
            super().__delattr__(name)
        else:
            delattr(importlib.import_module(home[0]), home[1])

    def _home(self, name: str) -> tuple[str, str] | None:
        """Where a name belongs that code may put something of its own under."""
        place = REPLACEABLE.get(name)
        if place is None or self.__dict__.get("_names", {}).get(name) != place:
            return None
        module, attribute = place.split(":")
        return module, attribute

    def _kept(self, name: str, value: Any) -> Any:
        # But not where it is found out each time, as whether a package is there.
        if not name.isupper() and self._home(name) is None:
            self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__["_names"]})


def _found(place: str, name: str) -> Any:
    module, attribute = place.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        if "torchmetrics" not in str(error):
            raise
        raise ImportError(
            f"{name} became a part of torchmetrics: pip install 'leyden[metrics]'"
        ) from error


class _StandIn(type):
    """The type of names that can be imported and not used."""

    _instead: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(cls._instead)

    def __getattr__(cls, name: str) -> Any:
        # Not an ImportError: who looks classes through (pytest, mock) asks for what may be there.
        raise AttributeError(f"{cls.__name__}.{name}: {cls._instead}")


def _stand_in(name: str, module: str, instead: str) -> Any:
    said = f"{module}.{name} is not there in leyden: {instead}"

    def derived(cls: Any, /, **kwargs: Any) -> None:
        raise ImportError(f"{cls.__name__} derives from {said}")

    return _StandIn(
        name,
        (),
        {
            "__doc__": said,
            "__init_subclass__": classmethod(derived),
            "__module__": module,
            "__test__": False,  # TestTubeLogger is no test to pytest
            "_instead": said,
        },
    )


#: names of metrics -> what torchmetrics calls them.
_TODAY = {
    "bleu_score": "torchmetrics.functional.text.bleu_score, which takes sentences",
    "dice_score": "torchmetrics.functional.segmentation.dice_score",
    "embedding_similarity": "torchmetrics.functional.pairwise_cosine_similarity",
    "iou": "torchmetrics.functional.jaccard_index",
    "multiclass_auroc": "torchmetrics.functional.classification.multiclass_auroc",
    "stat_scores_multiple_classes": "torchmetrics.functional.stat_scores",
}


def _metric(below: str, name: str) -> Any:
    """A metric that is not in the table: torchmetrics took them over."""
    full = f"{PACKAGE}.{below}.{name}"
    try:
        import torchmetrics
    except ImportError as error:
        raise ImportError(
            f"{full} became a part of torchmetrics: pip install 'leyden[metrics]'"
        ) from error
    part: Any = torchmetrics.functional if below.startswith("metrics.functional") else torchmetrics
    if name not in _TODAY and hasattr(part, name):
        return getattr(part, name)
    instead = _TODAY.get(name, "look for its successor there")
    raise ImportError(f"{full} is not in torchmetrics {torchmetrics.__version__}: {instead}")


def pytest_configure(config: Any) -> None:
    """Be a pytest plugin: ``pytest -p leyden.compat`` runs a suite for Lightning 1.x."""
    install(force=True)


def pytest_load_initial_conftests(early_config: Any, parser: Any, args: Any) -> None:
    """Be there before the first conftest.py is imported."""
    install(force=True)

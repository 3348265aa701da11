"""How the code is laid out: which folder may import which, and what every module has."""

import ast
import functools
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: Each package and those of ours that it may import.
MAY_IMPORT = {
    "leyden.engine": {"leyden.engine"},
    "leyden.backends": {"leyden.backends", "leyden.engine"},
    "leyden.handlers": {"leyden.handlers", "leyden.backends", "leyden.engine"},
    "leyden": {"leyden", "leyden.handlers", "leyden.backends", "leyden.engine"},
}
#: What else a package may import when it is imported. Anything heavier waits until it is used.
ALWAYS_THERE = {
    "leyden.engine": {"torch", "ignite"},
    "leyden.backends": {"torch", "ignite", "numpy"},
    "leyden.handlers": {"torch", "ignite", "numpy", "packaging"},
    "leyden": {"torch", "ignite", "numpy", "packaging"},
}
#: Packages that pip knows by another name, where that cannot be looked up because they are missing.
IMPORTED_AS = {"ignite": "pytorch-ignite", "pynvml": "nvidia-ml-py", "yaml": "PyYAML"}
#: What no package index provides: it is built from source, and refused where it is missing. And
#: what comes with values of the user's own: without it there are none.
UNDECLARED = {"apex", "omegaconf"}
LONGEST = 500
#: Folders that exist on one machine only; written so that this file does not name one itself.
_HOMES = "|".join(["home", "root", "tmp", "Users"])
MACHINE_PATH = re.compile(rf"(?<![\w.~$}}>])/(?:{_HOMES})/\w|\b[A-Z]:\\\w|\.\./shared")
ROOT = Path(__file__).resolve().parent.parent


def sources() -> dict[str, Path]:
    """Return the file of every module of ours, as installed: editable or from a wheel."""
    found: dict[str, Path] = {}
    for package in MAY_IMPORT:
        (folder,) = (Path(entry) for entry in importlib.import_module(package).__path__)
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            # In a wheel the other packages lie inside this one's folder, under their own names.
            found.setdefault(name, path)
    return found


def package_of(module: str) -> str:
    """Return the one of the four packages that ``module`` belongs to."""
    parts = ".".join(module.split(".")[:2])
    return parts if parts in MAY_IMPORT else "leyden"


def imports(tree: ast.AST, *, at_import: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each import, a dotted one for ``from leyden import engine``.

    With ``at_import`` only those that run when the module is imported: outside functions, and not
    under ``if TYPE_CHECKING``. Relative imports come out with their leading dots.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module
            if module == "leyden":
                for alias in node.names:
                    yield node.lineno, f"leyden.{alias.name}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            first = node.args[0] if node.args else None
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield from imports(node, at_import=at_import)


def refused(module: str, source: str) -> list[str]:
    """Return what is wrong with the imports of a module, one line each."""
    package = package_of(module)
    found = []
    for line, name in imports(ast.parse(source)):
        top = name.split(".")[0]
        if not top or top in {"engine", "backends", "handlers", "trainer"}:
            found.append(f"{module}:{line} imports {name}: write the installed name, leyden....")
        # `from leyden import X` below the facade is an import of the facade.
        elif top == "leyden" and package_of(name) not in MAY_IMPORT[package]:
            if not (name == "leyden" and "leyden" not in MAY_IMPORT[package]):
                allowed = ", ".join(sorted(MAY_IMPORT[package]))
                found.append(f"{module}:{line} imports {name}; {package} may import {allowed}")
    for line, name in imports(ast.parse(source), at_import=True):
        top = name.split(".")[0]
        known = top in sys.stdlib_module_names or top in {"leyden", ""}
        if not known and top not in ALWAYS_THERE[package]:
            allowed = ", ".join(sorted(ALWAYS_THERE[package]))
            found.append(
                f"{module}:{line} imports {top} when it is imported: do it where it is used "
                f"(at import only {allowed})"
            )
    return found


SOURCES = sources()


def test_the_four_packages_are_all_found() -> None:
    assert {package_of(name) for name in SOURCES} == set(MAY_IMPORT)
    assert "leyden.engine.events" in SOURCES


def test_imports_go_one_way() -> None:
    wrong = [line for name, path in SOURCES.items() for line in refused(name, path.read_text())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("leyden.engine.x", "from leyden.handlers import Handler", "leyden.engine may import"),
        ("leyden.engine.x", "def f():\n    from leyden import Trainer", "imports leyden.Trainer"),
        ("leyden.backends.x", "import leyden.handlers.base", "imports leyden.handlers.base"),
        ("leyden.handlers.x", "from leyden.trainer import Trainer", "imports leyden.trainer"),
        ("leyden.handlers.x", "import_module('leyden.config')", "imports leyden.config"),
        ("leyden.handlers.x", "from engine import Events", "write the installed name"),
        ("leyden.handlers.x", "from .base import Handler", "write the installed name"),
        ("leyden.handlers.x", "import tqdm", "do it where it is used"),
        ("leyden.engine.x", "class A:\n    import numpy", "do it where it is used"),
    ],
)
def test_a_wrong_import_is_noticed(module: str, source: str, complaint: str) -> None:
    assert any(complaint in line for line in refused(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("leyden.engine.x", "import torch\nfrom ignite.engine import Engine"),
        ("leyden.handlers.x", "from leyden.engine import Events\ndef f():\n    import tqdm"),
        ("leyden.handlers.x", "if TYPE_CHECKING:\n    from rich.table import Table"),
        ("leyden.x", "import logging\nfrom leyden import handlers\nfrom leyden.config import C"),
    ],
)
def test_a_right_import_is_not(module: str, source: str) -> None:
    assert refused(module, source) == []


def test_every_module_has_a_docstring_and_names_what_is_public() -> None:
    wrong = []
    for name, path in SOURCES.items():
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            wrong.append(f"{name} has no docstring")
        targets = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        if "__all__" not in targets:
            wrong.append(f"{name} has no __all__")
    assert not wrong, "\n".join(wrong)


@functools.cache  # each call goes through all that is installed
def distributions(top: str) -> set[str]:
    """Return what pip calls the package that is imported as ``top``."""
    installed = importlib.metadata.packages_distributions().get(top, [])
    return {canonicalize_name(name) for name in [*installed, IMPORTED_AS.get(top, top)]}


def test_every_package_that_is_imported_is_declared(
    installed: importlib.metadata.Distribution,
) -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in installed.requires or []}
    wrong = sorted(
        f"{name}:{line} imports {top}: declare it in setup.cfg, as an extra if it is optional"
        for name, path in SOURCES.items()
        for line, imported in imports(ast.parse(path.read_text()))
        if (top := imported.split(".")[0]) not in {"leyden", *sys.stdlib_module_names, *UNDECLARED}
        and not distributions(top) & declared
    )
    assert not wrong, "\n".join(wrong)


def test_no_file_is_too_long() -> None:
    long = {
        name: lines
        for name, path in SOURCES.items()
        if (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert not long, f"more than {LONGEST} lines, split by what they do: {long}"


def test_the_text_names_no_path_of_one_machine() -> None:
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.py")]
    texts += SOURCES.values()
    assert ROOT / "CHANGELOG.md" in texts
    wrong = [
        f"{path.name}:{number} {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["home", "root", "tmp", "Users"])
def test_a_path_of_one_machine_is_noticed(folder: str) -> None:
    assert MACHINE_PATH.search(f"see /{folder}/someone/runs")
    assert not MACHINE_PATH.search(f"see runs/{folder}/someone or $DIR/{folder}/x")


def test_the_lanes_of_ci_are_targets_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:first|beside|last)=\((.*)\)$", script, re.MULTILINE)
    lanes = " ".join(listed).split()
    wanted = {"docs", "lint", "types", "test", "wheel", "test-ignite", "bench-smoke"}
    assert wanted <= set(lanes) and len(lanes) == len(set(lanes))
    for lane in lanes:
        assert re.search(rf"^{lane}:.* ## ", makefile, re.MULTILINE), lane

"""Resolve requirements/*.in into pin files that hold for every supported Python.

Run ``python tools/pins.py python3.10 python3.11 python3.12 python3.13``: pip resolves all layers
together once for each interpreter (nothing is installed), and a package whose version differs
between them gets environment markers. A layer lists only what the layers below it do not.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["LAYERS", "main", "merge", "members"]

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
#: Each pin file and the one it builds on.
LAYERS: dict[str, str | None] = {
    "base": None,
    "demo": "base",
    "test": "demo",
    "loggers": "test",
    "bench": "test",
    "lint": "base",
    "bench-peers": "bench",
    "wheel": "test",
    # Needs nothing of ours: the pages of the API are made from the sources.
    "docs": None,
    "xla": None,
}
#: Resolved by itself: it has a torch of its own.
APART = "xla"
#: torch pins these itself, differently for each build (CPU, CUDA) and platform.
FROM_TORCH = re.compile(r"^(nvidia-|cuda-|triton$)")

#: Python version such as "3.11" -> {package: version}.
Versions = dict[str, dict[str, str]]


def wanted(layer: str) -> list[Requirement]:
    """Read the requirements that ``layer`` names itself."""
    lines = (FOLDER / f"{layer}.in").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def resolve(interpreter: str, layers: Iterable[str]) -> dict[str, Any]:
    """Return pip's report on some layers together, for one interpreter."""
    command = [interpreter, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
    command += ["--report", "-"]
    for layer in layers:
        command += ["-r", str(FOLDER / f"{layer}.in")]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(result.stdout[result.stdout.index("{") :])
    return report


def members(
    roots: list[Requirement], packages: dict[str, dict[str, Any]], environment: dict[str, str]
) -> set[str]:
    """Return the names of everything that ``roots`` need, themselves included."""
    found: set[tuple[str, str]] = set()
    todo = [(str(canonicalize_name(r.name)), extra) for r in roots for extra in ["", *r.extras]]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in packages[name].get("requires_dist", []):
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({**environment, "extra": extra}):
                todo += [(canonicalize_name(need.name), each) for each in ["", *need.extras]]
    return {name for name, _ in found if not FROM_TORCH.match(name)}


def merge(versions: Versions) -> list[str]:
    """Write one line a package, or one line for each run of Pythons that share a version."""
    pythons = sorted(versions, key=lambda version: [int(part) for part in version.split(".")])
    lines = []
    for name in sorted({name for found in versions.values() for name in found}):
        runs: list[tuple[str | None, list[str]]] = []
        for python in pythons:
            version = versions[python].get(name)
            if runs and runs[-1][0] == version:
                runs[-1][1].append(python)
            else:
                runs.append((version, [python]))
        for version, span in runs:
            if version is None:
                continue
            bounds = []
            if span[0] != pythons[0]:
                bounds.append(f'python_version >= "{span[0]}"')
            if span[-1] != pythons[-1]:
                bounds.append(f'python_version <= "{span[-1]}"')
            marker = f" ; {' and '.join(bounds)}" if bounds else ""
            lines.append(f"{name}=={version}{marker}")
    return lines


def main(interpreters: list[str]) -> None:
    """Write a pin file for each layer."""
    layers: dict[str, Versions] = {layer: {} for layer in LAYERS}
    together = [layer for layer in LAYERS if layer != APART]
    for interpreter, group in product(interpreters, (together, [APART])):
        report = resolve(interpreter, group)
        environment: dict[str, str] = report["environment"]
        packages = {
            str(canonicalize_name(i["metadata"]["name"])): i["metadata"] for i in report["install"]
        }
        closed: dict[str, set[str]] = {}
        for layer in group:
            below = LAYERS[layer]
            lower = closed[below] if below else set()
            closed[layer] = members(wanted(layer), packages, environment) | lower
            layers[layer][environment["python_version"]] = {
                # A local version (2.13.0+cpu) is one of several builds of the same release.
                name: packages[name]["version"].split("+")[0]
                for name in closed[layer] - lower
            }
    for layer, below in LAYERS.items():
        head = [f"# Made by tools/pins.py from {layer}.in: change that file and run it again."]
        if below:
            head.append(f"-r {below}.txt")
        text = "\n".join([*head, *merge(layers[layer])])
        (FOLDER / f"{layer}.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(
            "usage: python tools/pins.py PYTHON...: name an interpreter for each Python to pin"
        )
    main(sys.argv[1:])

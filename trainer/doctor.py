"""What is here: versions, devices, extras, and what each argument of the Trainer can use."""

import importlib.metadata
import platform
import textwrap
from collections.abc import Iterable
from typing import Any

__all__ = ["doctor", "findings"]

#: What leyden cannot run without, by the names of pip.
_REQUIRED = ("torch", "pytorch-ignite", "tensorboardX", "tqdm", "numpy", "packaging")
#: Extras for people who work on leyden itself.
_FOR_DEVELOPERS = ("docs", "test")
_KINDS = {"cpu": "CPU", "cuda": "CUDA", "mps": "MPS", "tpu": "TPU"}
_WIDTH = 100


def findings() -> dict[str, Any]:
    """Return all of it as plain data.

    Returns:
        ``{"leyden", "python", "platform", "packages": {name: version or None}, "devices": {kind:
        ...}, "extras": {extra: {"packages", "missing"}}, "arguments": [...]}``; devices and
        arguments as ``leyden.backends.devices.report`` gives them.
    """
    from leyden import __version__
    from leyden.backends.devices import report
    from leyden.config import CHECKS

    found = report()
    return {
        "leyden": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _REQUIRED},
        "devices": found["kinds"],
        "extras": _extras(),
        "arguments": [row for row in found["arguments"] if row["argument"] in CHECKS],
    }


def doctor() -> str:
    """Return the findings as a text to read."""
    found = findings()
    lines = [f"leyden {found['leyden']}, Python {found['python']}, {found['platform']}", ""]
    lines += _rows("packages", ((k, v or "not installed") for k, v in found["packages"].items()))
    lines += _rows("devices", _device_rows(found["devices"]))
    lines += _rows("extras", _extra_rows(found["extras"]))
    lines += _rows("arguments of the Trainer here", _argument_rows(found["arguments"]))
    return "\n".join(lines).rstrip()


def _rows(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    listed = list(rows)
    width = max((len(name) for name, _ in listed), default=0) + 2
    lines = [title]
    for name, text in listed:
        lines += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=f"  {name:{width}}",
            subsequent_indent=" " * (width + 2),
            break_on_hyphens=False,
        )
    return [*lines, ""]


def _device_rows(kinds: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for kind, row in kinds.items():
        name = _KINDS.get(kind, kind)
        if not row["count"]:
            yield name, f"none: {row['why']}"
        elif not row["devices"]:
            yield name, f"{row['count']}"
        for device in row["devices"]:
            yield name, ", ".join(_device_facts(device))


def _device_facts(device: dict[str, Any]) -> Iterable[str]:
    number = f"{device['id']}: " if "id" in device else ""
    yield f"{number}{device['name'] or 'of an unknown kind'}"
    if "threads" in device:
        yield f"{device['threads']} threads"
    if device.get("memory"):
        used = f", {_size(device['used'])} in use" if "used" in device else ""
        yield f"{_size(device['memory'])} of memory{used}"
    if "capability" in device:
        yield f"compute capability {'.'.join(map(str, device['capability']))}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _extra_rows(extras: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for extra, row in sorted(extras.items()):
        there = ", ".join(f"{name} {version}" for name, version in row["packages"].items())
        if row["missing"]:
            wrong = ", ".join(row["missing"])
            yield extra, f"{wrong}: pip install 'leyden[{extra}]'"
        else:
            yield extra, there


def _argument_rows(rows: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    for row in rows:
        yield f"{row['argument']}={row['value']}", "works" if row["usable"] else f"no: {row['why']}"


def _extras() -> dict[str, dict[str, Any]]:
    """Compare what the extras of leyden ask for with what is installed."""
    from packaging.requirements import Requirement

    # An old build may have left its own beside the installed one; none where nothing is installed.
    installed = importlib.metadata.distributions(name="leyden")
    found: dict[str, dict[str, Any]] = {}
    for line in max((one.requires or [] for one in installed), key=len, default=[]):
        requirement = Requirement(line)
        extra = line.partition("extra == ")[2].strip("\"') ")
        if not extra or extra in _FOR_DEVELOPERS:
            continue
        row = found.setdefault(extra, {"packages": {}, "missing": []})
        version = _version(requirement.name)
        if version is None:
            row["missing"].append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            row["missing"].append(
                f"{requirement.name} {version} is installed, and it has to be "
                f"{requirement.specifier}"
            )
        else:
            row["packages"][requirement.name] = version
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

"""What a user gets: an import that is light and leaves no trace, and examples that run."""

import doctest
import importlib
import importlib.metadata
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import leyden

#: Seconds that ``import leyden`` may add to importing torch and ignite.
BOUND = 0.15
ROOT = Path(__file__).resolve().parent.parent


def modules() -> list[str]:
    """Return the name of every module that is installed as ours."""
    found = set()
    for package in ["leyden", "leyden.engine", "leyden.backends", "leyden.handlers"]:
        (folder,) = importlib.import_module(package).__path__
        for path in Path(folder).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found.add(".".join([package, *parts]).removesuffix(".__init__"))
    return sorted(found)


def fresh(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python of its own."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


# What a process looks like from outside: everything an import could change and must not.
SNAPSHOT = """
import gc, hashlib, json, logging, multiprocessing, os, random, signal, sys
import threading, time, warnings
start = time.perf_counter()
import numpy, torch, ignite.engine, ignite.handlers, ignite.metrics
base = time.perf_counter() - start

def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()

def snapshot():
    root = logging.getLogger()
    return {
        "root logger": [root.level, repr(root.handlers), repr(root.filters), logging.root.disabled],
        "our loggers": sorted(
            name for name, log in logging.root.manager.loggerDict.items()
            if name.startswith("leyden") and isinstance(log, logging.Logger)
            and (log.handlers or log.level or not log.propagate)
        ),
        "logging": [logging.raiseExceptions, logging._levelToName[20], repr(logging.lastResort)],
        "signal handlers": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "python rng": digest(random.getstate()),
        "numpy rng": digest([str(part) for part in numpy.random.get_state()]),
        "torch rng": digest(torch.get_rng_state().tolist()),
        "torch flags": [
            str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.is_anomaly_enabled(),
            torch.get_num_threads(), torch.get_num_interop_threads(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
            torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled,
            torch.multiprocessing.get_sharing_strategy(),
            torch.cuda.is_initialized(), torch.distributed.is_initialized(),
        ],
        "warnings filters": [repr(entry) for entry in warnings.filters],
        "warnings hook": repr(warnings.showwarning),
        "excepthook": [repr(sys.excepthook), repr(threading.excepthook), repr(sys.unraisablehook)],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "folder": [os.getcwd(), sorted(os.listdir("."))],
        "limits": [sys.getrecursionlimit(), gc.get_threshold(), gc.isenabled()],
        "torch itself": digest(sorted(
            f"{cls.__name__}.{name}:{id(value)}"
            for cls in (torch.Tensor, torch.nn.Module, torch.optim.Optimizer,
                        torch.utils.data.DataLoader, ignite.engine.Engine, ignite.engine.State)
            for name, value in vars(cls).items()
        )),
    }

before, loaded = snapshot(), set(sys.modules)
start = time.perf_counter()
import leyden
added = time.perf_counter() - start
after, new = snapshot(), set(sys.modules) - loaded
tops = {name.partition(".")[0] for name in new}
print(json.dumps({
    "base": base,
    "added": added,
    "changed": {key: [before[key], after[key]] for key in before if before[key] != after[key]},
    "foreign": sorted(tops - {"leyden"} - set(sys.stdlib_module_names)),
}))
"""


@pytest.mark.slow
def test_import_is_light_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    best: dict[str, float] = {}
    for _ in range(5):
        result = fresh(SNAPSHOT)
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout.splitlines()[-1])
        assert found["changed"] == {}, "import leyden changed what belongs to the process"
        assert found["foreign"] == [], "import leyden imported what only some of its parts need"
        assert result.stdout.count("\n") == 1, "import leyden printed something"
        if not best or found["added"] < best["added"]:
            best = found
        # The other tries are for a machine that was busy during this one.
        if best["added"] <= BOUND:
            break
    with capsys.disabled():
        print(
            f"\nimport torch and ignite {best['base']:.2f} s, "
            f"leyden after them {best['added']:.3f} s (bound {BOUND} s)"
        )
    assert best["added"] <= BOUND


def required(distribution: importlib.metadata.Distribution) -> set[str]:
    """Return the names of what a distribution needs without any extra, its own included."""
    found = {"leyden"}
    todo = [distribution]
    while todo:
        for line in todo.pop().requires or []:
            need = Requirement(line)
            name = canonicalize_name(need.name)
            wanted = need.marker is None or need.marker.evaluate({"extra": ""})
            if wanted and name not in found:
                found.add(name)
                todo.append(importlib.metadata.distribution(name))
    return found


BLOCKED = """
import importlib, json, sys, warnings
blocked, names = map(json.loads, sys.argv[1:])

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (kept out by a test)", name=name)

sys.meta_path.insert(0, Block())
import ignite.handlers
# What torch and ignite warn of is theirs.
warnings.simplefilter("error")
for name in names:
    importlib.import_module(name)
print("leyden" in sys.modules)
"""


@pytest.mark.slow
def test_every_module_imports_with_the_required_packages_only(
    installed: importlib.metadata.Distribution,
) -> None:
    needed = required(installed)
    blocked = [
        top
        for top, distributions in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(name) for name in distributions} & needed
    ]
    # Otherwise nothing is kept out, and this says nothing.
    assert {"pytest", "hypothesis"} <= set(blocked)
    assert not {"torch", "ignite", "tqdm", "tensorboardX"} & set(blocked)
    result = fresh(BLOCKED, json.dumps(blocked), json.dumps(modules()))
    assert result.returncode == 0, result.stderr
    assert result.stdout == "True\n"


@pytest.fixture
def own_random_state() -> Iterator[None]:
    """Give the random state back as it was: an example may seed."""
    python, tensors = random.getstate(), torch.get_rng_state()
    yield
    random.setstate(python)
    torch.set_rng_state(tensors)


@pytest.mark.usefixtures("own_random_state")
@pytest.mark.parametrize("name", modules())
def test_the_examples_in_the_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert failed == 0, f"{failed} examples of {name} failed: see the output"


def test_the_handler_in_the_contributing_guide_runs() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    engine = names["Engine"](lambda engine, batch: None)
    handler = names["CountSamples"]()
    handler.attach(engine)
    engine.run([[1, 2], [3]], max_epochs=2)
    assert handler.state_dict() == {"samples": 6}
    handler.detach()
    engine.run([[1, 2], [3]], max_epochs=3)
    assert handler.samples == 6


def test_the_installed_metadata_says_what_users_rely_on(
    installed: importlib.metadata.Distribution,
) -> None:
    metadata = installed.metadata
    assert metadata["Version"] == leyden.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    extras = {
        "yaml",
        "rich",
        "plot",
        "remote",
        "gpu",
        "monitor",
        "metrics",
        "cli",
        "wandb",
        "mlflow",
    }
    assert extras | {"yaml", "onnx", "quant", "launch", "tpu", "test"} <= set(
        metadata.get_all("Provides-Extra") or []
    )
    needed = {Requirement(line).name for line in metadata.get_all("Requires-Dist") or []}
    assert {"torch", "pytorch-ignite", "tensorboardX", "tqdm"} <= needed


@pytest.mark.parametrize(
    "package", ["leyden", "leyden.engine", "leyden.backends", "leyden.handlers"]
)
def test_each_package_is_marked_as_typed(package: str) -> None:
    (folder,) = importlib.import_module(package).__path__
    assert (Path(folder) / "py.typed").is_file()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda p: p.stem
)
def test_a_pin_file_pins_and_includes_what_it_builds_on(path: Path) -> None:
    lines = path.read_text().splitlines()
    pins = [line for line in lines if not line.startswith(("#", "-r "))]
    assert pins
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", line) for line in pins), pins
    for line in lines:
        if line.startswith("-r "):
            assert (path.parent / line.removeprefix("-r ")).is_file()


def test_the_pins_lie_within_the_ranges_that_users_get(
    installed: importlib.metadata.Distribution,
) -> None:
    pinned: dict[str, list[str]] = {}
    for line in (ROOT / "requirements" / "base.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.partition(" ;")[0].split("==")
            pinned.setdefault(name, []).append(version.strip())
    for line in installed.requires or []:
        need = Requirement(line)
        if need.marker is None:
            versions = pinned[canonicalize_name(need.name)]
            assert all(need.specifier.contains(version) for version in versions), line


def test_a_gpu_test_says_what_is_missing(request: pytest.FixtureRequest) -> None:
    (conftest,) = (
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if hasattr(plugin, "missing_gpus")
    )
    assert conftest.missing_gpus(1, 1) is None
    assert "needs 1 CUDA device, and torch" in conftest.missing_gpus(1, 0)
    assert "needs 2 CUDA devices" in conftest.missing_gpus(2, 1)
    assert "finds 1 here" in conftest.missing_gpus(2, 1)

"""What ``python -m leyden run``, ``plan`` and ``doctor`` do."""

import importlib.metadata
import importlib.util
import platform
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["doctor", "plan_script", "run_script"]

#: extra -> the package that it brings, as imported.
EXTRAS = {
    "cli": "jsonargparse",
    "gpu": "pynvml",
    "launch": "cloudpickle",
    "metrics": "torchmetrics",
    "mlflow": "mlflow",
    "monitor": "psutil",
    "onnx": "onnx",
    "plot": "matplotlib",
    "quant": "torchao",
    "remote": "fsspec",
    "rich": "rich",
    "tpu": "torch_xla",
    "wandb": "wandb",
    "yaml": "yaml",
}


class _Planned(BaseException):
    """The script has got as far as its Trainer; BaseException, so that no ``except`` holds it."""


def run_script(script: str, arguments: Sequence[str]) -> int:
    """Run a script as its own program, with ``import pytorch_lightning`` giving leyden."""
    from leyden import compat

    if not Path(script).is_file():
        print(f"there is no script {script}", file=sys.stderr)
        return 2
    compat.install(force=True)
    before, path = sys.argv, sys.path[0]
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv, sys.path[0] = before, path
    return 0


def plan_script(script: str, arguments: Sequence[str]) -> int:
    """Run a script up to the first run of a Trainer, and print the plan instead."""
    from leyden.trainer import Trainer

    def shown(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        print(self.plan())
        raise _Planned

    names = ("fit", "test", "validate", "predict", "tune")
    before = {name: vars(Trainer)[name] for name in names}
    for name in names:
        setattr(Trainer, name, shown)
    try:
        return run_script(script, arguments) or _no_trainer(script)
    except _Planned:
        return 0
    finally:
        for name, method in before.items():
            setattr(Trainer, name, method)


def _no_trainer(script: str) -> int:
    print(f"{script} ended without a call of fit, test, validate or predict", file=sys.stderr)
    return 1


def doctor() -> str:
    """What is here: versions, devices, extras, and the arguments that are refused."""
    import torch

    from leyden.config_rules import NOT_YET

    packages = ("leyden", "torch", "pytorch-ignite", "tensorboardX", "tqdm", "numpy")
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    lines += [f"{name} {_version(name)}" for name in packages]
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = [f"{torch.get_num_threads()} CPU threads", f"{cuda} CUDA devices"]
    devices += ["MPS"] if torch.backends.mps.is_available() else []
    lines.append(f"devices: {', '.join(devices)}")
    lines.append("extras:")
    for extra, package in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        lines.append(f"  {extra:8} {'there' if there else f'pip install leyden[{extra}]'}")
    lines.append("arguments that are refused in this version:")
    lines += [f"  {name}: {row.why}" for name, row in sorted(NOT_YET.items())]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

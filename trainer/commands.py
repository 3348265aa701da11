"""What ``python -m leyden run`` and ``plan`` do."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["plan_script", "run_script"]


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

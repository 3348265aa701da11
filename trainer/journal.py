"""Give a run its journal: where it goes, and what its first line says."""

import hashlib
import os
import platform
import sys
from typing import Any

import torch

from leyden.handlers.checkpoint_names import join
from leyden.handlers.journal import Journal

__all__ = ["give_journal"]


def give_journal(run: Any) -> None:
    """Attach a Journal where checkpoints are saved and a logger has a directory for it.

    A run without checkpoints cannot go on or be replayed, so nobody would read what it did. The
    file is not among the checkpoints: whoever lists their directory finds nothing else there.
    """
    if run.settings.fast_dev_run or not run.trainer.is_global_zero:
        return
    folder = _folder(run)
    given = [handler for handler in run.handlers if isinstance(handler, Journal)]
    if not given and (folder is None or not run.trainer.checkpoint_callbacks):
        return
    for journal in given or [run.handlers.add(Journal(), origin="logger")]:
        if (journal.path is None or journal.origin == "logger") and folder:
            journal.path = join(folder, Journal.FILE)
        journal.facts = journal.facts or (lambda: _facts(run))
        journal.ended_by = journal.ended_by or (lambda: run.error)


def _folder(run: Any) -> str | None:
    found: str | None
    for name in ("log_dir", "save_dir"):
        found = None if run.logger is None else getattr(run.logger, name, None)
        if found:
            return str(os.fspath(found))
    return None


def _facts(run: Any) -> dict[str, Any]:
    from leyden import __version__
    from leyden.plan_of import plan_of

    plan = str(plan_of(run, run.settings))
    return {
        "arguments": {name: _plain(value) for name, value in run.settings.given.items()},
        "model": f"{type(run.model).__module__}.{type(run.model).__qualname__}",
        "resumed_from": None if run.resumed_path is None else str(run.resumed_path),
        "seed": os.environ.get("PL_GLOBAL_SEED"),
        "versions": {
            "leyden": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "plan": hashlib.sha256(plan.encode()).hexdigest()[:16],
        "command": sys.argv,
        "process": os.getpid(),
    }


def _plain(value: Any) -> Any:
    """What JSON can hold as it is; the rest as ``{"text": ...}``, which nobody reads back."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float, str)) for v in value):
        return list(value)
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {key: _plain(item) for key, item in value.items()}
    return {"text": repr(value)[:200]}

"""Processes killed with SIGKILL at any moment, and continued: the same bits as if never killed.

``LEYDEN_KILL_RUNS=60`` makes it as many runs as CI does; ``LEYDEN_KILL_SEED`` other moments.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.kill_runs import KINDS, work

RUNS = int(os.environ.get("LEYDEN_KILL_RUNS", "12"))
SEED = int(os.environ.get("LEYDEN_KILL_SEED", "1"))
PATIENCE = 100.0  # seconds; far more than any of them takes


@pytest.fixture(scope="module")
def context() -> Any:
    """A server that has everything imported: a new process takes 20 ms."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["torch", "leyden", "tests.trainer.kill_runs"])
    return found


def _start(context: Any, root: Path, resume: str | None, kind: str) -> Any:
    began = context.Event()
    process = context.Process(target=work, args=(str(root), resume, kind, began))
    process.start()
    assert began.wait(PATIENCE)
    return process


def _whole(context: Any, root: Path, kind: str) -> dict[str, Any]:
    root.mkdir()
    process = _start(context, root, None, kind)
    process.join(PATIENCE)
    return _outcome(root)


def _outcome(root: Path) -> dict[str, Any]:
    path = root / "outcome.json"
    assert path.exists(), (root / "errors.txt").read_text()[-3000:]
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _kill(process: Any, numbers: random.Random, kind: str) -> None:
    """Kill the process, or a worker of its loader if it has any."""
    victim = process.pid
    if kind == "two workers" and numbers.random() < 0.3:
        try:
            children = Path(f"/proc/{victim}/task/{victim}/children").read_text().split()
        except OSError:
            children = []
        victim = int(numbers.choice(children)) if children else victim
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended meanwhile
    if victim != process.pid:
        process.join(PATIENCE)  # it finds out, and ends with an error


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere(tmp_path: Path, context: Any, kind: str) -> None:
    numbers = random.Random(f"{SEED} {kind}")
    reference = _whole(context, tmp_path / "whole", kind)
    seconds = reference.pop("seconds")
    # Loaders with workers take longer to start: fewer of those.
    share = {"plain": 0.6, "in a thread": 0.25, "two workers": 0.15}[kind]
    killed = skipped = 0
    for number in range(round(RUNS * share)):
        root = tmp_path / str(number)
        root.mkdir()
        times = numbers.randint(1, 5)
        for _ in range(times):
            process = _start(context, root, "last" if any(root.iterdir()) else None, kind)
            process.join(numbers.random() * seconds)
            if process.is_alive():
                _kill(process, numbers, kind)
                killed += 1
            process.join(PATIENCE)
            if (root / "outcome.json").exists():
                break
        if not (root / "outcome.json").exists():
            _start(context, root, "last", kind).join(PATIENCE)
        outcome = _outcome(root)
        outcome.pop("seconds")
        seen, told = outcome.pop("seen"), (root / "errors.txt").read_text()
        skipped += told.count("skipped: ")
        assert seen == reference["seen"][len(reference["seen"]) - len(seen) :]
        wrong = {k: (v, reference[k]) for k, v in outcome.items() if v != reference[k]}
        assert not wrong, (number, wrong, told[-2000:])
        assert not list(root.rglob(".leyden-*")), "an unfinished file of a killed process is left"
    print(f"\n{kind}: {round(RUNS * share)} runs, {killed} kills, {skipped} damaged files skipped")

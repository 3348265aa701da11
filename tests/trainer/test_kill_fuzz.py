"""Processes killed with SIGKILL at any moment, and continued: the same bits as if never killed.

``LEYDEN_KILL_RUNS=60`` makes it as many runs as CI does; ``LEYDEN_KILL_SEED`` other moments.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.kill_runs import KINDS, work

RUNS = int(os.environ.get("LEYDEN_KILL_RUNS", "12"))
SEED = int(os.environ.get("LEYDEN_KILL_SEED", "1"))
JOBS = 2  # runs at a time: they wait as often as they compute
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


def _one(context: Any, root: Path, kind: str, reference: dict[str, Any]) -> tuple[int, int]:
    """Kill one run up to five times and let it go on; give the kills and the damaged files."""
    numbers = random.Random(f"{SEED} {kind} {root.name}")
    root.mkdir()
    killed = 0
    for _ in range(numbers.randint(1, 5)):
        process = _start(context, root, "last" if any(root.iterdir()) else None, kind)
        process.join(numbers.random() * reference["seconds"])
        if process.is_alive():
            _kill(process, numbers, kind)
            killed += 1
        process.join(PATIENCE)
        if (root / "outcome.json").exists():
            break
    if not (root / "outcome.json").exists():
        _start(context, root, "last", kind).join(PATIENCE)
    outcome, told = _outcome(root), (root / "errors.txt").read_text()
    seen, whole = outcome.pop("seen"), reference["seen"]
    assert seen == whole[len(whole) - len(seen) :]
    same = outcome.keys() - {"seconds"}
    wrong = {k: (outcome[k], reference[k]) for k in same if outcome[k] != reference[k]}
    assert not wrong, (root.name, wrong, told[-2000:])
    assert not list(root.rglob(".leyden-*")), "an unfinished file of a killed process is left"
    return killed, told.count("skipped: ")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere(tmp_path: Path, context: Any, kind: str) -> None:
    reference = _whole(context, tmp_path / "whole", kind)
    # Loaders with workers take longer to start: fewer of those.
    share = {"plain": 0.6, "in a thread": 0.25, "two workers": 0.15}[kind]
    roots = [tmp_path / str(number) for number in range(round(RUNS * share))]
    with ThreadPoolExecutor(JOBS) as pool:
        found = list(pool.map(lambda root: _one(context, root, kind, reference), roots))
    killed, skipped = (sum(numbers) for numbers in zip(*found, strict=True))
    print(f"\n{kind}: {len(roots)} runs, {killed} kills, {skipped} damaged files skipped")

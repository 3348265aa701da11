"""Fixtures of the benchmarks, and the table that is printed at the end."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness import Report, Rounds, Row

ROUNDS = 9
SMOKE_ROUNDS = 5
ATTEMPTS = 3
"""How often a row that misses its bound is measured again before it fails."""

SLACK = 1.5
"""What the smoke run multiplies bounds by: few rounds on a busy machine are off by as much."""

SLOW = {"Lightning", "Accelerate"}
"""Contenders that are not measured again when a bound is missed."""

REPORT = pytest.StashKey[Report]()
PEERS = {"Lightning": "lightning", "Accelerate": "accelerate"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --table."""
    parser.addoption(
        "--table", metavar="FILE", help="write the benchmark table to FILE, as Markdown"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin the table."""
    config.stash[REPORT] = Report()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table, and write it where asked to."""
    report = config.stash[REPORT]
    if not report.rows:
        for line in report.notes:
            terminalreporter.write_line(line)
        return
    smoke = config.getoption("benchmark_disable", False)
    for name, package in PEERS.items():
        if not _there(package):
            report.note(
                f"{name} is not installed here: `make bench-peers` installs and measures it."
            )
    rounds = "Few rounds, for the bounds only" if smoke else f"Median of {ROUNDS} rounds"
    report.note(
        f"{rounds}, CPU time of one thread; Python {platform.python_version()}, "
        f"{', '.join(_versions())}."
    )
    text = report.markdown("make bench-peers")
    terminalreporter.section("leyden against the hand-written loop")
    terminalreporter.write_line(text)
    target = config.getoption("--table")
    if target:
        Path(target).write_text(text + "\n", encoding="utf-8")


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _versions() -> list[str]:
    names = {"torch": "torch", "pytorch-ignite": "ignite", "lightning": "Lightning"}
    names["accelerate"] = "Accelerate"
    there = [(name, short) for name, short in names.items() if _there(short.lower())]
    return [f"{short} {version(name)}" for name, short in there]


class Terminal(io.StringIO):
    """A terminal that nobody looks at: progress bars draw as they do for people."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, a folder to write to, a terminal, and no warnings of the peers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "COLUMNS", "100")
    with warnings.catch_warnings(), contextlib.redirect_stdout(Terminal()):
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def smoke(request: pytest.FixtureRequest) -> bool:
    """Whether only the bounds are checked (--benchmark-disable)."""
    return bool(request.config.getoption("benchmark_disable", False))


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Add a line below the table, which is printed without one too."""
    return request.config.stash[REPORT].note


Measure = Callable[..., Rounds]


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest, smoke: bool) -> Measure:
    """Run contenders in turns and put a row into the table.

    Called as ``measure(contenders, row)`` with functions that give what they took, and a function
    from :class:`Rounds` to the :class:`Row`. A row whose bound is missed is measured again, then
    the test fails.
    """
    report = request.config.stash[REPORT]
    gc.collect()
    gc.freeze()  # what is there by now is not looked through again before each run
    request.addfinalizer(gc.unfreeze)

    def go(contenders: Mapping[str, Callable[[], float]], row: Callable[[Rounds], Row]) -> Rounds:
        done = Rounds()
        if smoke:
            for _ in range(SMOKE_ROUNDS - 1):
                done.run(contenders)
        benchmark.pedantic(lambda: done.run(contenders), rounds=ROUNDS, warmup_rounds=0)
        for attempt in range(1, ATTEMPTS + 1):
            made = row(done)
            missed = _missed(made, done, SLACK if smoke and made.unit == "us" else 1.0)
            if missed is None or attempt == ATTEMPTS:
                break
            again = Rounds()
            for _ in range(SMOKE_ROUNDS):
                again.run({n: c for n, c in contenders.items() if n not in SLOW})
            done.taken.update(again.taken)
        benchmark.extra_info.update(made.values)
        report.rows.append(made)
        assert missed is None, missed
        return done

    return go


def _missed(row: Row, rounds: Rounds, slack: float) -> str | None:
    """Say how a row misses its bound, if it does."""
    if row.must is None:
        return None
    mine = row.values["leyden"]
    scale = slack * (1.0 if row.ignite is None else rounds.slowness(row.ignite))
    if mine <= row.must * scale:
        return None
    took = {name: [round(value, 2) for value in took] for name, took in rounds.taken.items()}
    return (
        f"{row.what}: {mine:.2f} {row.unit} is above {row.must} {row.unit} x {scale:.2f} (what "
        f"ignite takes here by what it takes where the bound was set, x {slack}); "
        f"round by round: {took}"
    )

"""Runs of every kind, drawn at random: from any of their saves they go on bit for bit.

``LEYDEN_EXACT_RUNS=200`` tries as many more, ``LEYDEN_EXACT_SEED`` others.
"""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.exact_runs import difference, draw

RUNS = int(os.environ.get("LEYDEN_EXACT_RUNS", "4"))
SEED = int(os.environ.get("LEYDEN_EXACT_SEED", "1000"))
#: Each of these was once wrong.
FOUND = {
    "persistent workers of a loader that is made anew": 3,
    "a row where nothing is validated": 5,
    "a loader with a state, at the end of an epoch": 10,
    "the first row of an epoch, twice": 11,
    "a loader with a state, cut by a limit": 17,
    "a loader with a state, cut by a limit, in the last batch": 48,
    "the end of an epoch that max_steps cut": 68,
    "after the end of an epoch that max_steps cut": 2014,
}


def _check(choice: dict[str, Any], folder: Path) -> None:
    with warnings.catch_warnings():
        # torch and leyden warn of many of these runs, rightly; here it is the bits that count.
        warnings.simplefilter("ignore")
        found = difference(choice, folder)
    assert not found, (choice, found)


@pytest.mark.slow
@pytest.mark.parametrize("what", FOUND)
def test_what_was_wrong_once(tmp_path: Path, what: str) -> None:
    _check(draw(random.Random(FOUND[what])), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEED, SEED + RUNS))
def test_any_run(tmp_path: Path, seed: int) -> None:
    _check(draw(random.Random(seed)), tmp_path)

"""Seeds."""

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch

from leyden.exceptions import MisconfigurationException
from leyden.seed import seed_everything, seed_worker


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    numpy.random.set_state(states[1])
    torch.set_rng_state(states[2])


def draw() -> list[float]:
    return [random.random(), float(numpy.random.rand()), float(torch.rand(1))]


def test_all_generators_are_seeded_as_by_their_own_functions() -> None:
    assert seed_everything(7) == 7
    seen = draw()
    random.seed(7)
    numpy.random.seed(7)
    torch.manual_seed(7)
    assert draw() == seen


def test_the_environment_is_told_and_asked() -> None:
    seed_everything(7, workers=True)
    assert (os.environ["PL_GLOBAL_SEED"], os.environ["PL_SEED_WORKERS"]) == ("7", "1")
    os.environ["PL_GLOBAL_SEED"] = "11"
    assert seed_everything() == 11
    assert os.environ["PL_SEED_WORKERS"] == "0"


def test_text_of_a_number_and_the_bounds_are_taken() -> None:
    assert [seed_everything(s) for s in ("13", 0, 2**32 - 1)] == [13, 0, 2**32 - 1]


def test_without_a_seed_a_random_one_is_named() -> None:
    random.seed(1)
    state = random.getstate()
    with pytest.warns(UserWarning, match="random seed"):
        first = seed_everything()
    assert os.environ["PL_GLOBAL_SEED"] == str(first)
    del os.environ["PL_GLOBAL_SEED"]
    random.setstate(state)
    with pytest.warns(UserWarning, match="random seed"):
        assert seed_everything() != first  # Not from Python's own generator.


@pytest.mark.parametrize("seed", ["abc", -1, 2**32, 1.5, float("nan"), [1], ""])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    before = torch.get_rng_state()
    with pytest.raises(MisconfigurationException, match="is no seed: pass an integer"):
        seed_everything(seed)
    assert torch.equal(torch.get_rng_state(), before) and "PL_GLOBAL_SEED" not in os.environ


def test_a_bad_environment_is_named() -> None:
    os.environ["PL_GLOBAL_SEED"] = "x"
    with pytest.raises(MisconfigurationException, match="PL_GLOBAL_SEED='x'"):
        seed_everything()


def test_workers_differ_by_rank_and_number() -> None:
    seen = set()
    for rank in ("0", "1"):
        os.environ["RANK"] = rank
        for worker in (0, 1):
            torch.manual_seed(100 + worker)  # As torch seeds its workers.
            seed_worker(worker)
            first = tuple(draw())
            torch.manual_seed(100 + worker)
            seed_worker(worker)
            assert tuple(draw()) == first
            seen.add(first)
    assert len(seen) == 4

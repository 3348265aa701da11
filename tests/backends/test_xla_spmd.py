"""All TPU cores from one process, on 2, 4 and 8 of torch_xla's CPU devices."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backends.xla_all_cores import PER_CORE, SAMPLES
from tests.backends.xla_cases import Net, loader, settings, trainer, weights

pytestmark = [pytest.mark.xla, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
CORES = pytest.mark.parametrize("cores", [2, 4, 8])
#: Sums over the cores are made in another order than on one; measured: 5e-7.
CLOSE = 1e-5


@cache
def process(cores: int, *names: str) -> subprocess.CompletedProcess[str]:
    """A process with so many devices; one for all tests of this file, for it takes a while."""
    command = [sys.executable, "-m", "tests.backends.xla_all_cores", *names]
    return subprocess.run(
        command, cwd=ROOT, env=settings(cores), capture_output=True, text=True, timeout=900
    )


def found(cores: int, *names: str) -> dict[str, Any]:
    ended = process(cores, *names)
    assert ended.returncode == 0, ended.stderr[-4000:]
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


@CORES
@pytest.mark.parametrize("run", ["plain", "accumulated", "cut_up"])
def test_learns_what_one_device_learns_from_the_batches_of_all_cores(cores: int, run: str) -> None:
    result = found(cores)[run]
    batches = -(-SAMPLES // (PER_CORE * cores))  # the last one is shorter
    groups = -(-batches // 2) if run == "accumulated" else batches
    assert result["steps"] == [3 * groups] * 2
    assert result["loss"] < CLOSE
    assert result["weights"] < CLOSE


@CORES
@pytest.mark.parametrize("run", ["plain", "accumulated", "cut_up"])
def test_one_mark_a_step_and_a_graph_for_each_shape(cores: int, run: str) -> None:
    result = found(cores)[run]
    counts, steps = result["counts"], result["steps"][0]
    assert counts["MarkStep"] == counts["UncachedCompile"] + counts["CachedCompile"] == steps
    # The first step, the second (with the optimizer's state), the shorter batch; accumulated, the
    # short one may lie in a group with a whole one or be alone.
    assert counts["UncachedCompile"] <= 4
    assert counts["reads"] == counts["on the CPU"] == 0


@CORES
def test_batch_norm_sees_the_whole_batch(cores: int) -> None:
    mean, variance, _ = found(cores)["plain"]["buffers"]
    assert mean < CLOSE
    # torch_xla keeps the variance of the batch where torch keeps the estimate of the data's.
    assert 0 < variance < 0.5


@CORES
def test_weights_are_whole_or_cut_up(cores: int) -> None:
    result = found(cores)
    assert set(result["plain"]["sharding"]) == {"{replicated}"}
    parts = result["cut_up"]["sharding"]
    assert len(parts) == 3 * 4  # weights and two moments of each
    assert all(part.startswith("{devices=[") and str(cores) in part for part in parts)


@CORES
@pytest.mark.parametrize("run", ["killed", "killed_cut_up"])
def test_a_killed_run_goes_on_bit_for_bit(cores: int, run: str) -> None:
    result = found(cores)[run]
    assert result["losses"] and result["weights"]
    assert result["again"] > 0
    assert result["places"] == ["cpu"]
    first, second = result["sharding"]
    assert first == second


def test_a_killed_run_of_one_device_does_too() -> None:
    result = found(1, "killed")["killed"]
    assert result["losses"] and result["weights"] and result["again"] > 0


@CORES
def test_evaluations_take_the_batches_of_all_cores(cores: int) -> None:
    result = found(cores)["evaluated"]
    assert abs(result["test"]) < CLOSE
    assert result["batches"] == [-(-SAMPLES // (PER_CORE * cores))]
    assert result["world"] == [1, 0, True, True]


def test_a_backward_pass_before_xla_is_told_of() -> None:
    code = """
import torch
from tests.backends.xla_cases import Net, loader, trainer
torch.ones((), requires_grad=True).backward()
try:
    trainer(".", tpu_cores=1, max_epochs=1).fit(Net(), loader())
except ValueError as error:
    print(error)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=settings(1), capture_output=True, text=True)
    assert "make the Trainer with tpu_cores before anything is trained" in ended.stdout


@CORES
def test_every_kind_of_loader_gives_the_same_batches(cores: int, tmp_path: Path) -> None:
    expected = Net()
    trainer(tmp_path, max_epochs=1).fit(expected, loader(SAMPLES, PER_CORE * cores))
    for name, values in found(cores)["streamed"].items():
        assert torch.allclose(torch.tensor(values), weights(expected), atol=CLOSE), name


@CORES
def test_a_batch_that_was_cut_by_hand_stays_so(cores: int, tmp_path: Path) -> None:
    result = found(cores)["marked"]
    assert result["seen"][0].startswith(f"{{devices=[1,{cores}]")
    assert result["seen"][1].startswith(f"{{devices=[{cores},1]")
    expected = Net()
    trainer(tmp_path, max_epochs=1).fit(expected, loader(SAMPLES, PER_CORE * cores))
    assert torch.allclose(torch.tensor(result["weights"]), weights(expected), atol=CLOSE)


def test_what_dropout_draws_does_not_depend_on_the_cores() -> None:
    """Here the whole batch is the same for each number of cores, and so is its loss."""
    seen = [found(cores)["random"] for cores in (2, 4, 8)]
    for one in seen:
        assert one["loss"] == pytest.approx(seen[0]["loss"], abs=CLOSE)
        assert one["stream"] == "int"


@CORES
def test_there_is_no_way_back_to_a_single_core(cores: int) -> None:
    assert "no way back to a single one" in found(cores)["random"]["refused"]

"""What continuing and saving cost.

* Resuming far into an epoch takes as long as resuming near its start: no skipped sample is loaded.
* Keeping the state between saves costs the loop nothing, reading it some tens of microseconds.
* The training waits for a safe save about as long as for ``torch.save`` and the disk together, and
  for an asynchronous one as long as the copy takes.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from leyden.engine.feed import Feed
from leyden.handlers.checkpoint_io import AsyncWriter, load, save, verify

SAMPLES = 1_000_000
MEGABYTES = 100


class Numbers(Dataset[torch.Tensor]):
    """A million samples that cost nothing."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


def feed() -> Feed:
    """Make a feed of 125,000 batches in random order."""
    return Feed(DataLoader(Numbers(), batch_size=8, shuffle=True))


@pytest.mark.parametrize("position", [10, 100_000])
def test_resume_at(benchmark: Any, position: int) -> None:
    """From a loaded state to the next batch."""
    torch.manual_seed(0)
    first = feed()
    batches = iter(first)
    next(batches)
    # The streams are those after one batch, the position another one: the cost is the same.
    state = first.state_dict(position)

    def resume() -> torch.Tensor:
        again = feed()
        again.load_state_dict(state)
        batch: torch.Tensor = next(iter(again))
        return batch

    found = benchmark(resume)
    torch.manual_seed(0)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(_sampler_seed()))
    assert torch.equal(found, order[position * 8 : position * 8 + 8])


def _sampler_seed() -> int:
    """Draw as torch's loader and sampler do: the workers' base seed, then the sampler's own."""
    torch.empty((), dtype=torch.int64).random_()
    return int(torch.empty((), dtype=torch.int64).random_())


@pytest.mark.parametrize("kind", ["plain loop", "feed"])
def test_iterating(benchmark: Any, kind: str) -> None:
    """A thousand batches that are there already."""
    data = list(range(1000))
    batches = data if kind == "plain loop" else Feed(data, limit=1000)

    def loop() -> None:
        for _ in batches:
            pass

    benchmark.extra_info["iterations_a_round"] = 1000
    benchmark(loop)


@pytest.mark.parametrize("kind", ["plain", "recording"])
def test_two_workers(benchmark: Any, kind: str) -> None:
    """An epoch of 200 batches of 16: what recording their random states costs the workers."""
    batches = Feed(
        DataLoader(Numbers(), batch_size=16, num_workers=2, persistent_workers=True),
        limit=200,
        exact=kind == "recording",
    )

    def epoch() -> int:
        return sum(1 for _ in batches)

    benchmark.extra_info["iterations_a_round"] = 200
    assert benchmark.pedantic(epoch, rounds=5, warmup_rounds=1) == 200


def test_state_dict(benchmark: Any) -> None:
    """What a save reads."""
    running = feed()
    batches = iter(running)
    next(batches)
    assert benchmark(running.state_dict, 1)["position"] == 1


SIZES = [
    pytest.param(100, id="100 MB"),
    pytest.param(500, id="500 MB", marks=pytest.mark.slow),
]


def tensors(megabytes: int) -> dict[str, torch.Tensor]:
    """Make ten tensors of this size together."""
    return {f"layer.{k}": torch.randn(megabytes * 10**6 // 40) for k in range(10)}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return tensors(MEGABYTES)


@pytest.mark.parametrize("megabytes", SIZES)
def test_stall_of_a_save(note: Any, smoke: bool, tmp_path: Path, megabytes: int) -> None:
    """How long the training waits: every way in turn, so that a slow moment slows all of them."""
    state, path = tensors(megabytes), tmp_path / "last.ckpt"
    writer = AsyncWriter()
    writer.save(state, path)  # its buffers are there from the second save on
    calls: dict[str, Any] = {
        "torch.save": lambda: torch.save(state, path),
        "save": lambda: save(state, path),
        "save without fsync": lambda: save(state, path, fsync=False),
        "asynchronous": lambda: writer.save(state, path),
    }
    with contextlib.suppress(ImportError):
        from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

        plugin = TorchCheckpointIO()
        calls["Lightning"] = lambda: plugin.save_checkpoint(state, path)
    taken: dict[str, list[float]] = {kind: [] for kind in calls}
    for _ in range(3 if smoke else 9):
        for kind, call in calls.items():
            writer.join()
            os.sync()  # nobody pays for what another left to be written
            begun = time.perf_counter()
            call()
            taken[kind].append(time.perf_counter() - begun)
    writer.close()
    median = {kind: statistics.median(times) * 1e3 for kind, times in taken.items()}
    words = ", ".join(f"{kind} {ms:.0f} ms" for kind, ms in median.items())
    note(f"The training waits for a save of {megabytes} MB: {words}.")
    assert torch.equal(load(path)["layer.9"], state["layer.9"])
    # Only the copy is waited for: far below a write, on however busy a machine.
    assert median["asynchronous"] < median["torch.save"], words


@pytest.mark.parametrize("kind", ["torch.load", "load", "verify"])
def test_reading(benchmark: Any, tmp_path: Path, state: dict[str, torch.Tensor], kind: str) -> None:
    """Reading 100 MB, with and without the check that torch leaves out."""
    path = tmp_path / "last.ckpt"
    save(state, path)
    calls = {
        "torch.load": lambda: torch.load(path, weights_only=True),
        "load": lambda: load(path),
        "verify": lambda: verify(path),
    }
    assert benchmark.pedantic(calls[kind], rounds=5, warmup_rounds=1)

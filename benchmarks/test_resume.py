"""What continuing and saving cost.

* Resuming far into an epoch takes as long as resuming near its start: no skipped sample is loaded.
* Keeping the state between saves costs the loop nothing, reading it some tens of microseconds.
* The training waits for a safe save about as long as for ``torch.save``, and for an asynchronous
  one as long as the copy takes.
"""

from __future__ import annotations

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


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {f"layer.{k}": torch.randn(MEGABYTES * 2**20 // 40) for k in range(10)}


@pytest.mark.parametrize("kind", ["torch.save", "save", "save without fsync", "asynchronous"])
def test_stall_of_a_save(
    benchmark: Any, tmp_path: Path, state: dict[str, torch.Tensor], kind: str
) -> None:
    """How long the training waits for 100 MB."""
    path = tmp_path / "last.ckpt"
    writer = AsyncWriter()
    writer.save(state, path)  # its buffers are there from the second save on
    calls = {
        "torch.save": lambda: torch.save(state, path),
        "save": lambda: save(state, path),
        "save without fsync": lambda: save(state, path, fsync=False),
        "asynchronous": lambda: writer.save(state, path),
    }
    benchmark.extra_info["megabytes"] = MEGABYTES
    benchmark.pedantic(calls[kind], setup=writer.join, rounds=7, warmup_rounds=1)
    writer.close()
    assert torch.equal(load(path)["layer.9"], state["layer.9"])


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

"""20,000 iterations with a validation every 100 keep memory flat."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import Callback, LightningModule
from leyden.engine import Events
from tests.trainer.tiny import trainer

BATCHES = 20_000


class One(LightningModule):
    """One weight, and a value logged in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = (self.weight * batch).sum()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("score", self.weight.detach().sum())
        return batch

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class Measure(Callback):
    """Counts the blocks of memory that Python holds, and the live tensors."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.sizes: list[int] = []
        self.tensors: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.batch_idx % self.every == 0:
            gc.collect()
            self.sizes.append(sys.getallocatedblocks())
            # Not isinstance: some lazy modules warn when they are asked for their class.
            kinds = map(type, gc.get_objects())
            self.tensors.append(sum(issubclass(kind, torch.Tensor) for kind in kinds))


def _measured(folder: Path) -> tuple[int, Measure]:
    """Run, and return the steps that were made and what was measured."""
    torch.set_num_threads(1)
    measure = Measure(BATCHES // 5)
    made = trainer(folder, max_epochs=1, val_check_interval=100, callbacks=[measure])
    made.fit(One(), [torch.ones(1)] * BATCHES, [[torch.ones(1)] * 2])
    return made.global_step, measure


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path) -> None:
    # In a process of its own: blocks and tensors are counted, whoever made them, and what other
    # tests left behind (threads, caches of compilers) makes and frees some at any time.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        steps, measure = pool.submit(_measured, tmp_path).result(timeout=300)
    assert steps == BATCHES and len(measure.sizes) == 5
    # From the second measurement on: everything that is made once is there.
    # A few values wait in buffers of bounded size; one kept in each batch would make 12,000.
    assert max(measure.tensors[1:]) < 100, measure.tensors
    assert measure.sizes[-1] - measure.sizes[1] < 2_000, measure.sizes


def test_outputs_are_kept_only_for_hooks_that_read_them(tmp_path: Path) -> None:
    class Reads(One):
        read = 0

        def training_epoch_end(self, outputs: Any) -> None:
            self.read = len(outputs)

    for model, kept in ((One(), 0), (Reads(), 3)):
        held: list[int] = []
        made = trainer(tmp_path, max_epochs=1)
        made.engine.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine, held=held: held.append(sum(map(len, engine.state.outputs))),
        )
        made.fit(model, [torch.ones(1)] * 3, [[torch.ones(1)] * 2])
        assert held == [1 if kept else 0] * 3
        assert getattr(model, "read", 0) == kept


def test_a_finished_run_holds_no_batch(tmp_path: Path) -> None:
    made, batch = trainer(tmp_path, max_epochs=1), torch.ones(1)
    made.fit(One(), [batch] * 3, [[batch]])
    for engine in (made.engine, made.evaluators["validate"]):
        assert all(value is not batch for value in vars(engine.state).values())

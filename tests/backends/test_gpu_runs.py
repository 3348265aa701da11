"""Whole runs on a GPU: no waiting, memory given back, random numbers resumed, what is logged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.engine import Events
from leyden.handlers.gpu_memory import gpu_memory
from tests.backends.test_precision import EVERY
from tests.handlers.fake_logger import FakeLogger
from tests.trainer.tiny import Bare, Tiny, data, trainer, weights

pytestmark = pytest.mark.gpu

PRECISIONS = [name for name in EVERY if name not in ("64", "64-true", "32-true", "bf16-mixed")]


def pinned(count: int) -> DataLoader[Any]:
    loader = data(count)
    return DataLoader(loader.dataset, batch_size=4, pin_memory=True)


class Quick(Tiny):
    """A fused optimizer decides on the device whether a step is left out."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lambda p: torch.optim.Adam(p, lr=lr, eps=1e-4, fused=True))


@pytest.mark.parametrize("precision", [32, "bf16"])
def test_nothing_waits_for_the_device_between_rows(precision: Any) -> None:
    """Steps 60 to 95 of a run that logs every 50: with values kept for the epoch, and clipping."""
    model = Quick()
    run = trainer(
        gpus=1,
        precision=precision,
        max_epochs=1,
        log_every_n_steps=50,
        gradient_clip_val=1.0,
        logger=FakeLogger(),
    )

    @run.engine.on(Events.ITERATION_COMPLETED(once=60))
    def begin(engine: Any) -> None:
        torch.cuda.set_sync_debug_mode("error")

    @run.engine.on(Events.ITERATION_COMPLETED(once=95))
    def end(engine: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    try:
        run.fit(model, pinned(100))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.global_step == 100


@pytest.mark.parametrize("name", PRECISIONS)
def test_memory_is_back_where_it_was(name: str) -> None:
    def once() -> int:
        model = Quick()
        run = trainer(gpus=1, max_epochs=2, **EVERY[name])
        run.fit(model, data(20), data(3))
        model.cpu()
        del run, model
        import gc

        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    once()  # libraries keep workspaces from the first time on
    assert once() == once()


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_learns(name: str) -> None:
    x = torch.randn(256, 5, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 32)
    model = Quick(1e-2)
    model.net[1] = torch.nn.Identity()
    run = trainer(gpus=1, max_epochs=30, **EVERY[name])
    before = float(torch.nn.functional.mse_loss(model.net(x), x.sum(1, keepdim=True)).detach())
    run.fit(model, loader)
    model.cpu().float()
    after = float(torch.nn.functional.mse_loss(model.net(x), x.sum(1, keepdim=True)).detach())
    assert after < before / 4
    assert run.on_gpu and run.num_gpus == 1 and run.root_gpu == 0


def test_scaling_by_a_gradient_scaler_leaves_steps_out_and_goes_on() -> None:
    class Bad(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if batch_idx == 3 else loss

    model = Bad()
    run = trainer(gpus=1, precision=16, max_epochs=1)
    assert run.precision_plugin.name == "16-mixed"
    run.fit(model, data())
    assert run.skipped_steps == 1 and run.scaler.get_scale() == 2.0**15
    assert bool(weights(model).isfinite().all())


@pytest.mark.parametrize("name", ["32", "16", "bf16", "O2"])
def test_a_resumed_run_has_the_same_random_numbers(name: str, tmp_path: Path) -> None:
    """Dropout draws on the device: its stream is in the checkpoint."""

    def fresh(**more: Any) -> Any:
        return Quick(), trainer(gpus=1, max_epochs=2, **EVERY[name], **more)

    whole, run = fresh()

    @run.engine.on(Events.ITERATION_COMPLETED(once=8))
    def save(engine: Any) -> None:
        run.save_checkpoint(tmp_path / "middle.ckpt")

    run.fit(whole, data(), data())
    torch.cuda.manual_seed_all(99)
    again, run = fresh(resume_from_checkpoint=str(tmp_path / "middle.ckpt"))
    run.fit(again, data(), data())
    assert torch.equal(weights(again), weights(whole))


def test_a_checkpoint_of_a_gpu_goes_on_without_one(tmp_path: Path) -> None:
    run = trainer(gpus=1, max_epochs=1)
    run.fit(Quick(), data())
    run.save_checkpoint(tmp_path / "x.ckpt")
    model = Tiny(lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-4))
    trainer(max_epochs=2, resume_from_checkpoint=str(tmp_path / "x.ckpt")).fit(model, data())
    assert model.device.type == "cpu"


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_are_those_of_batches_moved_by_hand(workers: int) -> None:
    class ByHand(Bare):
        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int = 0) -> Any:
            return [tensor.to(device) for tensor in batch]

    found = []
    for kind in (Bare, ByHand):
        torch.manual_seed(5)
        model = kind()
        model.net[1] = torch.nn.Identity()
        loader = DataLoader(data(20).dataset, 4, pin_memory=True, num_workers=workers)
        run = trainer(gpus=1, max_epochs=2)
        run.fit(model, loader)
        assert bool(run._run.bringing._copies) == (kind is Bare)
        found.append(weights(model))
    assert torch.equal(*found)


def test_memory_in_use_is_logged_with_each_row() -> None:
    pytest.importorskip("pynvml", reason="needs nvidia-ml-py: pip install leyden[gpu]")
    logger = FakeLogger()
    run = trainer(gpus=1, max_epochs=1, log_every_n_steps=2, logger=logger, log_gpu_memory="all")
    run.fit(Tiny(), data())
    rows = [row for _, row in logger.rows if any("memory.used" in key for key in row)]
    assert rows and all(value > 0 for row in rows for key, value in row.items() if "memory" in key)
    assert set(gpu_memory("min_max")) == {"min_gpu_mem", "max_gpu_mem"}


def test_running_out_of_memory_says_where() -> None:
    class Greedy(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            torch.empty(1 << 45, device=self.device)
            return super().training_step(batch, batch_idx)

    with pytest.raises(torch.OutOfMemoryError) as caught:
        trainer(gpus=1, max_epochs=1).fit(Greedy(), data())
    told = "\n".join([*getattr(caught.value, "__notes__", []), str(caught.value)])
    assert "memory ran out in training, at epoch 0, batch 0, on cuda:0" in told
    assert "GiB hold tensors of this process" in told


def test_deterministic_and_benchmark_hold_and_are_put_back() -> None:
    seen = []
    model = Bare()
    model.on_train_batch_start = lambda *rest: seen.append(  # type: ignore[method-assign]
        (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    )
    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    trainer(gpus=1, max_epochs=1, deterministic=True).fit(model, data())
    trainer(gpus=1, max_epochs=1, benchmark=True).fit(model, data())
    assert set(seen) == {(True, False), (False, True)}
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == before


@pytest.mark.gpu(count=2)
def test_the_one_that_is_asked_for_is_used() -> None:
    run = leyden.Trainer(gpus=[1], logger=False, checkpoint_callback=False, max_epochs=1)
    model = Bare()
    run.fit(model, data())
    assert model.device == torch.device("cuda", 1) and torch.cuda.current_device() == 1

"""Runs on all cores, for a process of their own: XLA knows no way back to a single one.

    PJRT_DEVICE=CPU CPU_NUM_DEVICES=4 python -m tests.backends.xla_all_cores

prints one line of JSON with what was found.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

import leyden
from leyden.engine.rng import capture
from leyden.handlers.checkpoint_io import load
from tests.backends.xla_cases import (
    Net,
    Validated,
    adamw,
    counted,
    loader,
    losses,
    samples,
    trainer,
    weights,
)

# No number of cores divides the last batch, and none leaves one sample to a batch norm.
SAMPLES, PER_CORE = 62, 2

Found = dict[str, Any]
RUNS: dict[str, Callable[[Path, int], Found]] = {}


def run(function: Callable[[Path, int], Found]) -> Callable[[Path, int], Found]:
    RUNS[function.__name__] = function
    return function


def data(batch_size: int = PER_CORE, **options: Any) -> Any:
    order = torch.Generator().manual_seed(4)
    return loader(SAMPLES, batch_size, shuffle=True, generator=order, **options)


def compared(root: Path, cores: int, make: Callable[[], Any], **arguments: Any) -> Found:
    """The same run on all cores and on the CPU, whose batches are those of all cores."""
    backend = arguments.pop("accelerator", None)
    module = make()
    mine = trainer(root, max_epochs=3, tpu_cores=8, accelerator=backend, **arguments)
    with counted() as counts:
        mine.fit(module, data())
    expected = make()
    theirs = trainer(root, max_epochs=3, **arguments)
    theirs.fit(expected, data(PER_CORE * cores))
    return {
        "steps": [mine.global_step, theirs.global_step],
        "loss": float((losses(module) - losses(expected)).abs().max()),
        "weights": float((weights(module) - weights(expected)).abs().max()),
        "buffers": [
            float((a.cpu().float() - b.float()).abs().max())
            for a, b in zip(module.buffers(), expected.buffers(), strict=True)
        ],
        "counts": counts,
        "sharding": placed(module, mine),
    }


def placed(module: Any, run: leyden.Trainer) -> list[str]:
    """How the weights lie on the cores, then what the optimizer keeps of them."""
    states = run.optimizers[0].state.values()
    moments = [value for state in states for key, value in state.items() if key != "step"]
    tensors = [*module.parameters(), *moments]
    return [spec(tensor) for tensor in tensors]


def spec(tensor: torch.Tensor) -> str:
    import torch_xla

    return str(torch_xla._XLAC._get_xla_sharding_spec(tensor))


def resumed(root: Path, **arguments: Any) -> Found:
    """A run, and one that goes on from the middle of its second epoch."""
    path = root / "there.ckpt"
    arguments = {"max_epochs": 3, "tpu_cores": 8, **arguments}

    class Save(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            if trainer.current_epoch == 1 and trainer.batch_idx == 1 and not path.exists():
                trainer.save_checkpoint(path)

    leyden.seed_everything(5)
    whole = Net(adamw, dropout=0.3)
    first = trainer(root, callbacks=[Save()], **arguments)
    first.fit(whole, data())
    leyden.seed_everything(6)
    other = Net(adamw, dropout=0.3)
    again = trainer(root, callbacks=[Save()], **arguments)
    again.fit(other, data(), ckpt_path=str(path))
    places = {value.device.type for value in load(path)["state_dict"].values()}
    return {
        "losses": torch.equal(losses(other), losses(whole)[-len(other.losses) :]),
        "weights": torch.equal(weights(other), weights(whole)),
        "again": len(whole.losses) - len(other.losses),
        "places": sorted(places),
        "sharding": [placed(whole, first), placed(other, again)],
    }


@run
def plain(root: Path, cores: int) -> Found:
    return compared(root, cores, lambda: Net(norm=True), gradient_clip_val=0.1)


@run
def accumulated(root: Path, cores: int) -> Found:
    return compared(root, cores, lambda: Net(adamw), accumulate_grad_batches=2)


@run
def cut_up(root: Path, cores: int) -> Found:
    return compared(root, cores, lambda: Net(adamw), accelerator="fsdp")


@run
def killed(root: Path, cores: int) -> Found:
    return resumed(root)


@run
def killed_cut_up(root: Path, cores: int) -> Found:
    return resumed(root, accelerator="fsdp")


@run
def evaluated(root: Path, cores: int) -> Found:
    module = Validated()
    mine = trainer(root, max_epochs=1, tpu_cores=8, num_sanity_val_steps=2)
    mine.fit(module, data(), data())
    [result] = mine.test(module, loader(SAMPLES, PER_CORE), verbose=False)
    [same] = trainer(root).test(module.cpu(), loader(SAMPLES, PER_CORE), verbose=False)
    return {
        "test": result["test_loss"] - same["test_loss"],
        "batches": mine.num_test_batches,
        "world": [mine.world_size, mine.global_rank, mine.is_global_zero, mine.on_tpu],
    }


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(samples(SAMPLES))


@run
def streamed(root: Path, cores: int) -> Found:
    """Other kinds of loaders: an iterable dataset, and a list of batches that were made before."""
    found: Found = {}
    made = list(loader(SAMPLES, PER_CORE))
    for name, batches in {
        "stream": torch.utils.data.DataLoader(Stream(), batch_size=PER_CORE),
        "list": made,
        "indexed": loader(SAMPLES, PER_CORE),
        "workers": loader(SAMPLES, PER_CORE, num_workers=2),
    }.items():
        module = Net()
        trainer(root, max_epochs=1, tpu_cores=8).fit(module, batches)
        found[name] = weights(module).tolist()
    return found


@run
def random(root: Path, cores: int) -> Found:
    """What dropout draws is decided by the seed, not by the number of cores."""
    leyden.seed_everything(3)
    module = Net(dropout=0.5)
    parts = list(loader(16, 16 // cores))
    trainer(root, max_epochs=1, tpu_cores=8).fit(module, parts)
    try:
        trainer(root, max_epochs=1, tpu_cores=1).fit(Net(), parts)
        refused = ""
    except ValueError as error:
        refused = str(error)
    return {
        "refused": refused,
        "loss": float(module.losses[0]),
        "stream": type(capture()["xla"]).__name__,
    }


class Marked(Net):
    """Cuts the features of its batches itself, not the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        import torch_xla.distributed.spmd as xs

        xs.mark_sharding(batch[0], xs.get_global_mesh(), (None, "data"))
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen = [spec(batch[0]), spec(batch[1])]
        return super().training_step(batch, batch_idx)


@run
def marked(root: Path, cores: int) -> Found:
    module = Marked()
    trainer(root, max_epochs=1, tpu_cores=8).fit(module, loader(SAMPLES, PER_CORE))
    return {"seen": module.seen, "weights": weights(module).tolist()}


def main() -> None:
    import torch_xla.runtime as xr

    warnings.simplefilter("ignore")
    cores = xr.global_runtime_device_count()
    names = sys.argv[1:] or list(RUNS)
    with tempfile.TemporaryDirectory() as root:
        print(json.dumps({name: RUNS[name](Path(root) / name, cores) for name in names}))


if __name__ == "__main__":
    main()

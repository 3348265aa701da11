"""What each of several processes on XLA's CPU devices does; the answers go to the test."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

import leyden
from leyden.backends.launchers import ProcessLauncher
from leyden.backends.strategies.processes import RankError
from tests.backends.xla_cases import Net, Validated, adamw, loader, losses, trainer, weights

Found = dict[str, Any]
SPAWN: dict[str, Any] = dict(tpu_cores=8, accelerator="tpu_spawn")


def launched(root: Path, count: int) -> list[Found]:
    """Have so many processes do all of it."""
    payload = cloudpickle.dumps((in_rank, (str(root),)))
    return [cloudpickle.loads(one) for one in ProcessLauncher(count, method="spawn").run(payload)]


def in_rank(root: str) -> bytes:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return cloudpickle.dumps({part.__name__: part(Path(root) / part.__name__) for part in PARTS})


def place(root: Path) -> Found:
    run = trainer(root, max_epochs=1, **SPAWN)
    module = Net()
    run.fit(module, loader(16, 2))
    device = run.root_device
    mine = torch.full((3,), float(run.global_rank), device=device)
    wanted = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    everyone = module.all_gather(wanted, sync_grads=True)
    (everyone.sum() * (run.global_rank + 1)).backward()
    return {
        "ranks": [run.global_rank, run.local_rank, run.world_size, run.tpu_global_core_rank],
        "device": str(device),
        "alone": os.environ["CPU_NUM_DEVICES"],
        "sampler": run.require_distributed_sampler,
        "batches": run.num_training_batches,
        "reduced": {
            op: run.strategy.reduce(mine, op).tolist() for op in ("mean", "sum", "min", "max")
        },
        "gathered": everyone.tolist(),
        "flags": module.all_gather(mine > 0.5).tolist(),
        "gradient": wanted.grad.tolist() if wanted.grad is not None else None,
    }


class OneGoesPast(Net):
    """A module one of whose layers a process leaves out of each of its steps."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.late = late
        self.extra = nn.Linear(6, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx > 0 if self.late else self.trainer.global_rank == 1:
            loss = loss + self.extra(batch[0]).pow(2).mean()
        return loss


def unused(root: Path) -> Found:
    module = OneGoesPast()
    trainer(root, max_epochs=1, **SPAWN).fit(module, loader(16, 2))
    reference = OneGoesPast()
    before = weights(reference.extra)
    return {"weights": weights(module), "moved": not torch.equal(weights(module.extra), before)}


def late(root: Path) -> Found:
    try:
        trainer(root, max_epochs=1, **SPAWN).fit(OneGoesPast(late=True), loader(16, 2))
    except RankError as error:
        return {"told": str(error)}
    return {"told": ""}


class ByHand(Net):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        loss = super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        self.manual_backward(loss, optimizer)
        nn.utils.clip_grad_norm_(self.parameters(), 0.05)
        optimizer.step()
        optimizer.zero_grad()


class Taken(Net):
    """Begins, in each process, with weights of its own: those of the first count."""

    def __init__(self) -> None:
        super().__init__(adamw)
        with torch.no_grad():
            self.net[0].weight += float(os.environ.get("RANK", 0))


def trained(root: Path) -> Found:
    """Each run, by its name: the weights after it."""
    found: Found = {}
    for name, (make, arguments) in RUNS.items():
        module = make()
        run = trainer(root / name, max_epochs=2, **SPAWN, **arguments)
        run.fit(module, loader(48, 4), loader(8, 2))
        found[name] = {
            "weights": weights(module),
            "buffers": [buffer.cpu() for buffer in module.buffers()],
            "steps": run.global_step,
            "val_loss": float(run.callback_metrics.get("val_loss", 0.0)),
        }
    return found


class Synced(Validated):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("val_loss", loss, sync_dist=True)


RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "clipped": (lambda: Net(adamw), {"gradient_clip_val": 0.05}),
    "accumulated": (Net, {"accumulate_grad_batches": 4}),
    "batch norm": (lambda: Net(norm=True), {}),
    "by hand": (ByHand, {}),
    "validated": (Synced, {}),
    "weights of the first": (Taken, {}),
    "bfloat16": (Net, {"precision": 16}),
}


def resumed(root: Path) -> Found:
    """A run with dropout, and one that goes on from the middle of its second epoch."""
    path = root / "there.ckpt"

    class Save(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            if trainer.current_epoch == 1 and trainer.batch_idx == 1:
                trainer.save_checkpoint(path)

    arguments: dict[str, Any] = dict(max_epochs=3, callbacks=[Save()], **SPAWN)
    leyden.seed_everything(7)
    whole = Net(adamw, dropout=0.4, norm=True)
    trainer(root, **arguments).fit(whole, loader(24, 2, shuffle=True))
    leyden.seed_everything(99)
    os.environ["PL_GLOBAL_SEED"] = "7"  # by which the samplers of all processes are shuffled
    other = Net(adamw, dropout=0.4, norm=True)
    again = trainer(root, **arguments)
    again.fit(other, loader(24, 2, shuffle=True), ckpt_path=str(path))
    return {
        "losses": torch.equal(losses(other), losses(whole)[-len(other.losses) :]),
        "weights": torch.equal(weights(other), weights(whole)),
        "buffers": [
            torch.equal(a.cpu(), b.cpu())
            for a, b in zip(other.buffers(), whole.buffers(), strict=True)
        ],
        "again": len(whole.losses) - len(other.losses),
        "first": losses(whole)[0].item(),
    }


# What fails leaves the others by an error: it comes last.
PARTS = (place, unused, trained, resumed, late)

"""Runs for the tests of resuming: everything random that a run can have, saved anywhere."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.loggers import CSVLogger

SAMPLES, BATCH = 22, 4  # 6 batches, the last one of 2


class Noisy(Dataset[Any]):
    """Samples that differ each time: drawn from torch, random and NumPy."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = random.random() + float(numpy.random.rand())
        return torch.randn(4) + noise, torch.tensor([index / SAMPLES])


class Drawing(leyden.LightningModule):
    """Dropout, logged values of every kind, epoch ends that read outputs, two schedulers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
        )
        self.seen: list[tuple[int, int, str]] = []

    def loss(self, batch: Any) -> torch.Tensor:
        return ((self.net(batch[0]) - batch[1]) ** 2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("rows", torch.tensor(float(len(batch[0]))), on_step=False, on_epoch=True)
        self.seen.append((self.current_epoch, batch_idx, loss.item().hex()))
        return {"loss": loss, "first": batch[0].detach()[0, 0]}

    def training_epoch_end(self, outputs: list[Any]) -> None:
        self.log("mean", torch.stack([o["loss"] + o["first"] for o in outputs]).mean())
        self.log("count", float(len(outputs)))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler
        return [optimizer], [
            {"scheduler": schedule.StepLR(optimizer, 3, 0.9), "interval": "step"},
            schedule.ExponentialLR(optimizer, 0.9),
        ]


class Average(leyden.Callback):
    """A moving average of the weights, and a count of every hook it sees."""

    state_keys = ("weights", "counts")

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []
        self.counts: dict[str, int] = {}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *rest: Any
    ) -> None:
        self._count("batch")
        # What it is given counts too: a resumed run has to hand on the batch that it did not load.
        self.counts["sum"] = hash((self.counts.get("sum", 0), float(batch[0].sum()))) % 2**31
        now = [p.detach().clone() for p in pl_module.parameters()]
        old = self.weights or now
        self.weights = [a * 0.9 + b * 0.1 for a, b in zip(old, now, strict=True)]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
        self._count("epoch")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._count("validation")

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "counts": dict(self.counts)}


class SaveIn(leyden.Callback):
    """Saves in one hook, each time."""

    def __init__(self, hook: str, order: float = 50) -> None:
        super().__init__()
        self.hook, self.saved = hook, 0
        self.__class__ = type(f"SaveIn_{hook}", (SaveIn,), {hook: SaveIn.save, "order": order})

    def save(self, trainer: Any, *rest: Any) -> None:
        # In the hook of its end the check is over, though the flag still stands, as in 1.1.8.
        if not trainer.sanity_checking or self.hook == "on_sanity_check_end":
            self.saved += 1
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "by_hand.ckpt")


Change = Callable[[leyden.Trainer], None]


def run(
    root: Path,
    *,
    resume: Any = None,
    workers: int = 0,
    callbacks: tuple[Any, ...] = (),
    change: Change | None = None,
    model: Any = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Train from the seed, or go on from ``resume``, and give all that must come out the same."""
    leyden.seed_everything(5)
    model = Drawing() if model is None else model
    if resume is not None and any(root.rglob("*.ckpt")):
        # What the new process draws before, and its weights, do not matter.
        leyden.seed_everything(999)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    average = Average()
    defaults: dict[str, Any] = dict(
        max_epochs=2,
        default_root_dir=str(root),
        logger=CSVLogger(str(root), name="log", version=0),
        checkpoint_callback=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        progress_bar_refresh_rate=0,
        weights_summary=None,
        log_every_n_steps=1,
        num_sanity_val_steps=1,
        callbacks=[*callbacks, average],
        resume_from_checkpoint=resume,
    )
    trainer = leyden.Trainer(**{**defaults, **arguments})
    if change is not None:
        change(trainer)
    trainer.fit(
        model,
        DataLoader(Noisy(), batch_size=BATCH, shuffle=True, num_workers=workers),
        DataLoader(Noisy(), batch_size=8),
    )
    return outcome(trainer, model, average, root)


def outcome(trainer: Any, model: Any, average: Average, root: Path) -> dict[str, Any]:
    """What two runs are compared by: bits, not rounded numbers."""
    stops = [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]
    savers = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]
    rows = root / "log" / "version_0" / "metrics.csv"
    return {
        "weights": digest(list(model.state_dict().values())),
        "average": digest(average.weights),
        "counts": average.counts,
        "optimizer": digest(trainer.optimizers[0].state_dict()),
        "rates": [s["scheduler"].state_dict()["_last_lr"] for s in trainer.lr_schedulers],
        "metrics": {name: float(v).hex() for name, v in trainer.callback_metrics.items()},
        "position": (trainer.global_step, trainer.current_epoch, trainer.engine.state.iteration),
        "stops": [(stop.wait_count, stop.stopped_epoch, float(stop.best_score)) for stop in stops],
        "scores": [float(s.best_model_score or 0) for s in savers],
        "kept": [sorted(float(v) for v in s.best_k_models.values()) for s in savers],
        "rows": rows.read_text() if rows.exists() else "",
        "drawn": (random.random(), float(numpy.random.rand()), float(torch.rand(1))),
        "seen": list(getattr(model, "seen", [])),
    }


def digest(value: Any) -> str:
    """The bits of nested tensors and numbers."""
    text = hashlib.sha256()
    _feed(text, value)
    return text.hexdigest()[:12]


def _feed(text: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        text.update(value.detach().numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            text.update(str(key).encode())
            _feed(text, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(text, item)
    else:
        text.update(repr(value).encode())


class Snapshots(leyden.Callback):
    """Keeps a copy of the folder at each save: what is there if the process dies right then."""

    def __init__(self, root: Path, into: Path) -> None:
        super().__init__()
        self.root, self.into, self.count = root, into, 0

    def attach(self, engine: Any) -> None:
        super().attach(engine)
        if engine.state.stage == "train":
            self.listen(engine, leyden.engine.TrainerEvents.CHECKPOINT_SAVED, self.copy)

    def copy(self, engine: Any) -> None:
        shutil.copytree(self.root, self.into / f"{self.count:03d}")
        self.count += 1

    def folders(self) -> list[Path]:
        return sorted(self.into.iterdir()) if self.into.exists() else []


def check_each(
    tmp_path: Path,
    *,
    saver: Callable[[], tuple[Any, ...]],
    workers: int = 0,
    every: int = 1,
    change: Change | None = None,
    **arguments: Any,
) -> int:
    """Run once; then, from every file that was ever saved, run to the end: all must be equal."""
    root, into = tmp_path / "whole", tmp_path / "copies"
    root.mkdir()
    snapshots = Snapshots(root, into)
    whole = run(root, callbacks=(*saver(), snapshots), workers=workers, change=change, **arguments)
    others = tuple(c for c in saver() if not isinstance(c, (SaveIn, ModelCheckpoint)))
    plain = run(
        _made(tmp_path / "plain"), callbacks=others, workers=workers, change=change, **arguments
    )
    same = ("weights", "drawn", "seen")
    assert {key: plain[key] for key in same} == {key: whole[key] for key in same}, (
        "saving changed the run"
    )
    assert snapshots.count, "nothing was saved"
    for folder in snapshots.folders()[::every]:
        shutil.rmtree(root)
        shutil.copytree(folder, root)
        path = max(root.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        again = run(
            root, resume=path, callbacks=saver(), workers=workers, change=change, **arguments
        )
        seen, now = whole["seen"], again.pop("seen")
        assert now == seen[len(seen) - len(now) :], (folder.name, path.name)
        wrong = {key: (again[key], whole[key]) for key in again if again[key] != whole[key]}
        assert not wrong, (folder.name, path.name, wrong)
    return len(snapshots.folders()[::every])


def _made(path: Path) -> Path:
    path.mkdir()
    return path

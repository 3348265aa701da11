"""Random runs of every kind, killed at a random save and continued: what the search tries."""

from __future__ import annotations

import difflib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader, IterableDataset

import leyden
from leyden.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from leyden.loggers import CSVLogger
from tests.trainer.resume_runs import Average, Drawing, Noisy, SaveIn, Snapshots, outcome

__all__ = ["difference", "draw"]


class Stream(IterableDataset[Any]):
    """Samples without indices."""

    def __iter__(self) -> Iterator[Any]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, 22, step):
            yield Noisy()[index]


class Own:
    """A loader that keeps its own place, as streaming data sets do."""

    def __init__(self) -> None:
        self.at, self.order, self.goes_on = 0, list(range(6)), False

    def __iter__(self) -> Iterator[Any]:
        if not self.goes_on:
            self.at = 0
            random.shuffle(self.order)
        self.goes_on = False
        while self.at < len(self.order):
            index = self.order[self.at]
            self.at += 1
            yield torch.randn(4, 4) + index, torch.full((4, 1), index / 6)

    def __len__(self) -> int:
        return len(self.order)

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "order": list(self.order)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at, self.order, self.goes_on = state["at"], list(state["order"]), True


class Several(Drawing):
    """With one optimizer or two, by hand or not, in windows of time or not."""

    def __init__(self, choice: dict[str, Any]) -> None:
        super().__init__()
        self.choice = choice
        self.extra = torch.nn.Linear(1, 1)
        self.automatic_optimization = choice["optimizers"] != "by hand"
        if choice["validates"] == "no":
            self.validation_step = None  # type: ignore[assignment]
        if choice["outputs"] == "no":
            self.training_epoch_end = None  # type: ignore[assignment,method-assign]

    def training_epoch_end(self, outputs: list[Any]) -> None:
        super().training_epoch_end(list(_flat(outputs)))

    def loss(self, batch: Any) -> torch.Tensor:
        return ((self.extra(self.net(batch[0])) - batch[1]) ** 2).mean()

    def training_step(self, batch: Any, batch_idx: int, *rest: Any) -> Any:
        found = super().training_step(batch, batch_idx)
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(found["loss"])
            for number, optimizer in enumerate(self.optimizers()):
                if batch_idx % (number + 1) == 0:
                    optimizer.step()
        if self.choice["tbptt"]:
            found["hiddens"] = found["first"]
        return found

    def configure_optimizers(self) -> Any:
        schedule = torch.optim.lr_scheduler
        first = torch.optim.AdamW(self.net.parameters(), lr=0.05)
        second = torch.optim.SGD(self.extra.parameters(), lr=0.01, momentum=0.9)
        if self.choice["optimizers"] == "one":
            first.add_param_group({"params": list(self.extra.parameters())})
        entries: list[Any] = {
            "step": [{"scheduler": schedule.StepLR(first, 2, 0.9), "interval": "step"}],
            "third step": [
                {"scheduler": schedule.StepLR(first, 1, 0.9), "interval": "step", "frequency": 3}
            ],
            "epoch": [schedule.ExponentialLR(first, 0.9)],
            "cycle": [
                {
                    "scheduler": schedule.OneCycleLR(first, 0.05, total_steps=99),
                    "interval": "step",
                }
            ],
            "plateau": [
                {
                    "scheduler": schedule.ReduceLROnPlateau(first, patience=0),
                    "monitor": "val" if self.choice["validates"] != "no" else "loss",
                    "strict": False,
                }
            ],
            "none": [],
        }[self.choice["schedule"]]
        if self.choice["optimizers"] == "one":
            return [first], entries
        if self.choice["optimizers"] == "in turn":
            return [
                {"optimizer": first, "frequency": 2, **_entry(entries)},
                {"optimizer": second, "frequency": 1},
            ]
        return [first, second], entries


class InTurn(Several):
    """Lightning hands the number of the optimizer to steps that take it."""

    def training_step(  # type: ignore[override]
        self, batch: Any, batch_idx: int, optimizer_idx: int
    ) -> Any:
        return super().training_step(batch, batch_idx)


class Windows(Several):
    """Back-propagation through windows of time, which are the columns here."""

    def training_step(self, batch: Any, batch_idx: int, hiddens: Any) -> Any:  # type: ignore[override]
        return super().training_step(batch, batch_idx)

    def tbptt_split_batch(self, batch: Any, split_size: int) -> list[Any]:
        return [(part, target) for part, target in zip(*(b.split(2) for b in batch), strict=True)]


def _flat(outputs: Any) -> Iterator[Any]:
    if isinstance(outputs, dict):
        yield outputs
    else:
        for inner in outputs:
            yield from _flat(inner)


def _entry(entries: list[Any]) -> dict[str, Any]:
    if not entries:
        return {}
    return {"lr_scheduler": entries[0]}


def draw(numbers: random.Random) -> dict[str, Any]:
    """Choose a run."""
    pick = numbers.choice
    choice: dict[str, Any] = {
        "data": pick(["map", "map", "map", "stream", "own", "list"]),
        "workers": pick([0, 0, 0, 2, "persistent"]),
        "reload": pick([False, False, True]),
        "optimizers": pick(["one", "one", "one", "two", "in turn", "by hand"]),
        "schedule": pick(["step", "third step", "epoch", "cycle", "plateau", "none"]),
        "validates": pick(["yes", "yes", "often", "rarely", "no"]),
        "outputs": pick(["yes", "no"]),
        "tbptt": False,
        "average": pick(["none", "none", "ema", "swa"]),
        "stops": pick(["none", "none", "early", "steps", "time"]),
        "accumulate": pick([1, 1, 2, 3, "scheduled"]),
        "saver": pick(["batch", "batch", "step", "thread", "best", "epoch", "interval"]),
        "limit": pick([1.0, 1.0, 4]),
        "clip": pick([0, 0, 0.1]),
        "precision": pick([32, 32, 32, "bf16"]),
        "at": numbers.random(),
    }
    if choice["data"] != "map" and choice["workers"] == "persistent":
        choice["workers"] = 2  # nobody can put those back: the plan says so
    if choice["optimizers"] == "one":
        choice["tbptt"] = pick([False, False, True])
    if choice["optimizers"] == "by hand":
        choice.update(accumulate=1, clip=0)
    if choice["optimizers"] != "one":
        choice.update(average=pick(["none", "ema"]))
    if choice["average"] == "swa":
        choice.update(schedule="none", accumulate=1)
    if choice["validates"] == "no":
        choice["stops"] = pick(["none", "steps", "time"])
        choice["saver"] = pick(["batch", "step", "thread", "epoch"])
    if choice["validates"] == "rarely" and choice["saver"] in ("best", "interval"):
        choice["saver"] = "batch"  # the run may end before anything is validated
    return choice


def _saver(choice: dict[str, Any]) -> list[Any]:
    return {
        "batch": lambda: [SaveIn("on_train_batch_end")],
        "step": lambda: [ModelCheckpoint(every_n_train_steps=1, save_last=True)],
        "thread": lambda: [ModelCheckpoint(every_n_train_steps=1, asynchronous=True)],
        "best": lambda: [ModelCheckpoint(monitor="val", save_top_k=2)],
        "epoch": lambda: [ModelCheckpoint(save_on_train_epoch_end=True)],
        "interval": lambda: [
            ModelCheckpoint(monitor="val", save_top_k=-1, filename="b-{epoch}-{step}"),
            ModelCheckpoint(every_n_train_steps=2, filename="{step}"),
            SaveIn("on_epoch_end"),
        ],
    }[choice["saver"]]()


def _callbacks(choice: dict[str, Any]) -> list[Any]:
    found: list[Any] = [] if choice["schedule"] == "none" else [LearningRateMonitor()]
    if choice["average"] == "ema":
        found.append(EMAWeightAveraging(decay=0.8))
    if choice["average"] == "swa":
        found.append(StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=1))
    if choice["stops"] == "early":
        found.append(EarlyStopping("val", patience=1, min_delta=0.05))
    if choice["stops"] == "time":
        found.append(Timer("00:01:00:00"))
    if choice["accumulate"] == "scheduled":
        found.append(GradientAccumulationScheduler({0: 2, 2: 3}))
    return found


def _loader(choice: dict[str, Any]) -> Any:
    workers: dict[str, Any] = {"num_workers": choice["workers"] and 2}
    if choice["workers"] == "persistent":
        workers["persistent_workers"] = True
    if choice["data"] == "own":
        return Own()
    if choice["data"] == "list":
        generator = torch.Generator().manual_seed(3)
        return [
            (torch.randn(4, 4, generator=generator), torch.rand(4, 1, generator=generator))
            for _ in range(6)
        ]
    if choice["data"] == "stream":
        return DataLoader(Stream(), batch_size=4, **workers)
    return DataLoader(Noisy(), batch_size=4, shuffle=True, **workers)


def _run(root: Path, choice: dict[str, Any], *, resume: Any = None, watch: Any = None) -> Any:
    leyden.seed_everything(5)
    kind = InTurn if choice["optimizers"] in ("two", "in turn") else Several
    model = (Windows if choice["tbptt"] else kind)(choice)
    if resume is not None:
        leyden.seed_everything(77)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    average, saver = Average(), _saver(choice)
    arguments: dict[str, Any] = {}
    if choice["validates"] == "often":
        arguments["val_check_interval"] = 0.5 if choice["data"] in ("map", "own", "list") else 2
    if choice["validates"] == "rarely":
        arguments["check_val_every_n_epoch"] = 2
    if choice["accumulate"] != "scheduled":
        arguments["accumulate_grad_batches"] = choice["accumulate"]
    if choice["stops"] == "steps":
        arguments["max_steps"] = 7
    if choice["tbptt"]:
        arguments["truncated_bptt_steps"] = 2
    trainer = leyden.Trainer(
        max_epochs=3,
        default_root_dir=str(root),
        logger=CSVLogger(str(root), name="log", version=0),
        checkpoint_callback=any(isinstance(one, ModelCheckpoint) for one in saver),
        callbacks=[*saver, *_callbacks(choice), average, *([] if watch is None else [watch])],
        progress_bar_refresh_rate=0,
        weights_summary=None,
        log_every_n_steps=1,
        num_sanity_val_steps=1,
        limit_train_batches=choice["limit"],
        gradient_clip_val=choice["clip"],
        precision=choice["precision"],
        reload_dataloaders_every_epoch=choice["reload"],
        resume_from_checkpoint=resume,
        **arguments,
    )
    validation = None if choice["validates"] == "no" else DataLoader(Noisy(), batch_size=8)
    trainer.fit(model, _loader(choice), validation)
    found = outcome(trainer, model, average, root)
    found["optimizer"] = [
        torch.cat([p.detach().flatten() for g in o.param_groups for p in g["params"]]).tolist()
        for o in trainer.optimizers
    ]
    return found


def difference(choice: dict[str, Any], folder: Path) -> str:
    """Run the choice, kill it at one of its saves, let it go on; say what differs, if anything."""
    root, into = folder / "whole", folder / "copies"
    root.mkdir()
    snapshots = Snapshots(root, into)
    whole = _run(root, choice, watch=snapshots)
    saves = snapshots.folders()
    if not saves:
        return ""
    shutil.rmtree(root)  # its names are in the files
    shutil.copytree(saves[int(choice["at"] * len(saves))], root)
    path = max(root.rglob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    numpy.random.seed(1)
    again = _run(root, choice, resume=path)
    seen, now = whole.pop("seen"), again.pop("seen")
    wrong = {key: (again[key], whole[key]) for key in whole if again[key] != whole[key]}
    if now != seen[len(seen) - len(now) :]:
        wrong["seen"] = (now, seen)
    if "rows" in wrong:
        lines = (text.splitlines() for text in reversed(wrong.pop("rows")))
        wrong["rows"] = list(difflib.unified_diff(*lines, lineterm="", n=2))
    return f"{path.name} of {saves[int(choice['at'] * len(saves))].name}: {wrong}" if wrong else ""

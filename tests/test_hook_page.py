"""The page of hooks says what runs, and what runs is what Lightning 1.1.8 runs, in its order."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden

ROOT = Path(__file__).resolve().parent.parent
RECORDED = json.loads((ROOT / "tests" / "data" / "hook_order.json").read_text(encoding="utf-8"))
#: What only callbacks have in 1.1.8; leyden calls it on the module as well, right afterwards.
ADDED = {f"module.on_{word}_{end}" for word in ("validation", "test") for end in ("start", "end")}
QUIET = {"logger": False, "checkpoint_callback": False, "progress_bar_refresh_rate": 0}


def tool(name: str) -> ModuleType:
    """Load one of our tools, which are in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PAGE = tool("hook_page")


def batches(count: int) -> DataLoader[torch.Tensor]:
    """That many batches of two rows."""
    return DataLoader([torch.ones(1) for _ in range(2 * count)], batch_size=2)  # type: ignore[arg-type]


class Plain(leyden.LightningModule):
    """What a module has to have; every step may be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self(batch).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self(batch).mean())

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("test_loss", self(batch).mean())

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: Any = None) -> Any:
        return self(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(leyden.LightningDataModule):
    """Two batches to train on and to test, one to validate; those to predict."""

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return batches(2)

    def val_dataloader(self) -> DataLoader[torch.Tensor]:
        return batches(1)

    def test_dataloader(self) -> DataLoader[torch.Tensor]:
        return batches(2)

    def predict_dataloader(self) -> DataLoader[torch.Tensor]:
        return batches(2)


def traced(who: str, base: type, names: set[str], log: list[str]) -> Any:
    """An object of a class that overrides ``names``: each notes itself, then does as base does."""

    def overriding(name: str) -> Any:
        inherited = getattr(base, name)

        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            log.append(f"{who}.{label(name, args, kwargs)}")
            if name.endswith("_step_end"):
                return args[0]
            return inherited(self, *args, **kwargs)

        hook.__name__ = name
        return hook

    body = {name: overriding(name) for name in names if hasattr(base, name)}
    return type(f"Traced{base.__name__}", (base,), body)()


def label(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The hook's name with the stage or the number of the batch, as in the recorded traces."""
    if name in ("setup", "teardown"):
        return f"{name}({kwargs.get('stage', args[-1] if args else None)})"
    if name in ("training_step", "validation_step", "test_step"):
        return f"{name}({args[1]})"
    if name.endswith(("_batch_start", "_batch_end")) and len(args) > 2:
        return f"{name}({args[-2]})"
    return name


def names_of(who: str, recorded: list[str]) -> set[str]:
    """The hooks that ``who`` has in a recorded trace."""
    return {call.split(".")[1].split("(")[0] for call in recorded if call.startswith(f"{who}.")}


def run(kind: str, names: dict[str, set[str]], *, data: bool = True, **settings: Any) -> list[str]:
    """Run fit, validate, test or predict with everything overridden; return what was called."""
    log: list[str] = []
    callback = traced("callback", leyden.Callback, names["callback"], log)
    module = traced("module", Plain, names["module"], log)
    trainer = leyden.Trainer(
        max_epochs=settings.pop("max_epochs", 2),
        weights_summary=None,
        callbacks=[callback],
        **QUIET,
        **settings,
    )
    arguments: dict[str, Any] = {}
    if data:
        arguments["datamodule"] = traced("datamodule", Data, names["datamodule"], log)
    if kind in ("test", "validate"):
        arguments["verbose"] = False
    getattr(trainer, kind)(module, **arguments)
    return log


def recorded_names(trace: list[str]) -> dict[str, set[str]]:
    """The hooks of each in a recorded trace, and those that leyden has added."""
    names = {who: names_of(who, trace) for who in ("callback", "module", "datamodule")}
    names["module"] |= names_of("module", sorted(ADDED))
    return names


@pytest.mark.parametrize(("kind", "settings"), [("fit", {"num_sanity_val_steps": 1}), ("test", {})])
def test_hooks_run_in_the_order_of_lightning_1_1(kind: str, settings: dict[str, Any]) -> None:
    recorded = RECORDED[kind]
    calls = run(kind, recorded_names(recorded), **settings)
    assert [call for call in calls if call not in ADDED] == recorded
    added = [
        (before, call) for before, call in zip(calls, calls[1:], strict=False) if call in ADDED
    ]
    assert added, "the module's own hooks of an evaluation did not run"
    # Its own start and end run next to those of the callback, after them.
    assert all(before == call.replace("module", "callback") for before, call in added)


def test_hooks_run_in_the_order_of_lightning_1_1_without_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = RECORDED["fit_without_validation"]
    names = recorded_names(recorded)
    monkeypatch.delattr(Plain, "validation_step")
    monkeypatch.setattr(Plain, "train_dataloader", lambda self: batches(2), raising=False)
    assert run("fit", names, data=False, max_epochs=1) == recorded


def test_the_page_is_up_to_date() -> None:
    assert PAGE.main(["--check"]) == 0, "run python tools/hook_page.py"


#: The outline of the calls around the batches, the outline of the batches, the method.
PARTS = [
    ("fit", "validation, inside fit and in validate", "fit"),
    ("validate", "validation, inside fit and in validate", "validate"),
    ("test", "test: its batches", "test"),
    ("predict", "predict: its batches", "predict"),
]
#: On a page because they belong there, but not in a run that goes well, on a CPU, without files.
NOT_HERE = {"on_load_checkpoint", "on_save_checkpoint", "on_keyboard_interrupt", "on_exception"}
NOT_HERE |= {"transfer_batch_to_device", "on_init_start", "on_init_end", "lr_scheduler_step"}


@pytest.mark.parametrize(("around", "inside", "kind"), PARTS)
def test_the_page_lists_what_runs_in_its_order(around: str, inside: str, kind: str) -> None:
    rows = {name: [row for row in PAGE.rows(name) if row.is_hook] for name in (around, inside)}
    names: dict[str, set[str]] = {"callback": set(), "module": set(), "datamodule": set()}
    for row in (*rows[around], *rows[inside]):
        for who in row.who:
            names["datamodule" if who == "data" else who].add(row.name)
    settings = {"gradient_clip_val": 1.0} if kind == "fit" else {}
    calls = [
        call.split("(")[0].replace("datamodule", "data") for call in run(kind, names, **settings)
    ]

    word = {"fit": "validation", "validate": "validation"}.get(kind, kind)
    first, last = f"module.on_{word}_model_eval", f"module.on_{word}_model_train"
    start, end = calls.index(first), calls.index(last) + 1
    evaluation, others = calls[start:end], calls[:start] + calls[end:]
    while first in others:  # later validations are as the first
        start, end = others.index(first), others.index(last) + 1
        del others[start:end]

    assert once(evaluation) == listed(rows[inside])
    assert once(others) == once(listed(rows[around]))


def listed(rows: list[Any]) -> list[str]:
    """Every call of an outline, but for what does not happen in this run."""
    return [
        f"{who}.{row.name}"
        for row in rows
        for who in (row.who[:1] if row.first else row.who)
        if row.name not in NOT_HERE
    ]


def once(calls: list[str]) -> list[str]:
    """The calls in the order of their first time."""
    seen = [call for call in calls if call.split(".")[1] not in NOT_HERE]
    return list(dict.fromkeys(seen))

"""Run some steps of an earlier run again, and check that they come out the same, bit for bit."""

import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leyden.checkpoint_choice import is_whole
from leyden.engine import Engine, Events
from leyden.handlers.base import Handler
from leyden.handlers.checkpoint_inspect import peek
from leyden.handlers.journal import Journal, bits, read_journal, recorded_losses
from leyden.trainer import Trainer

__all__ = ["Replay", "replay"]

# What the repeated run does without: it leaves nothing behind.
_SILENT: dict[str, Any] = dict(
    logger=False,
    checkpoint_callback=False,
    progress_bar_refresh_rate=0,
    weights_summary=None,
    num_sanity_val_steps=0,
)
_NOT_REPEATED = (
    *_SILENT,
    "callbacks",
    "default_root_dir",
    "fast_dev_run",
    "max_steps",
    "max_time",
    "min_steps",
    "overfit_batches",
    "plugins",
    "process_position",
    "profiler",
    "resume_from_checkpoint",
    "weights_save_path",
)


@dataclass
class Replay:
    """What came out of :func:`replay`.

    Attributes:
        checkpoint: the file that it began from; None: from the beginning.
        losses: the loss of each batch from the first step on, by the batch's number in the run.
        checked: how many of them the journal knows.
        differences: those that differ: (step, batch, recorded bits, bits now).
        trainer: the Trainer that ran them; its model is in the state after the last step.
    """

    checkpoint: str | None
    losses: dict[int, float] = field(default_factory=dict)
    checked: int = 0
    differences: list[tuple[int, int, str, str]] = field(default_factory=list)
    trainer: Any = None

    @property
    def exact(self) -> bool:
        """Whether something was checked, and nothing differs."""
        return bool(self.checked) and not self.differences

    def __str__(self) -> str:
        lines = [
            f"began from {self.checkpoint or 'the beginning'}; {len(self.losses)} batches, "
            f"{self.checked} checked against the journal, {len(self.differences)} differ"
        ]
        lines += [
            f"  step {step} (batch {batch}): {float.fromhex(was)} then, {float.fromhex(now)} now"
            for step, batch, was, now in self.differences[:10]
        ]
        if not self.checked:
            lines.append(
                "  the journal holds no losses of these steps: record them with "
                "Trainer(callbacks=[Journal(losses=True)])"
            )
        return "\n".join(lines)


class _Checking(Handler):
    """Compares the losses of the steps in question with those of the journal."""

    order = 3.0
    order_reason = "before the hooks, as the journal took it"

    def __init__(self, found: Replay, known: dict[int, str], first: int) -> None:
        super().__init__()
        self.found = found
        self.known = known
        self.first = first

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.ITERATION_COMPLETED, self.check)

    def check(self, engine: Engine) -> None:
        """Read the loss of this batch."""
        state: Any = engine.state
        step, batch = state.global_step, state.iteration
        if step < self.first or state.loss is None:
            return
        self.found.losses[batch] = value = float(state.loss.detach().double())
        recorded = self.known.get(batch)
        if recorded is not None:
            self.found.checked += 1
            if recorded != bits(value):
                self.found.differences.append((step, batch, recorded, bits(value)))


def replay(
    run_dir: str | os.PathLike[str],
    steps: tuple[int, int],
    model: Any,
    train_dataloader: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    *,
    callbacks: Iterable[Any] = (),
    **arguments: Any,
) -> Replay:
    """Run steps of an earlier run again, from the nearest checkpoint before the first of them.

    Each loss is checked against the journal, which holds them where ``Journal(losses=True)`` was
    among the callbacks. Nothing is logged or saved.

    Args:
        run_dir: the directory with the run's ``journal.jsonl``, or one above it.
        steps: the first and the last step, as loggers count them: optimizer steps from 0.
        model: made as in the run; its weights come from the checkpoint.
        train_dataloader: as in the run, and so are the two below.
        val_dataloaders: see :meth:`leyden.Trainer.fit`.
        datamodule: see :meth:`leyden.Trainer.fit`.
        callbacks: what is to look on; callbacks that changed the run have to be among them.
        arguments: of the Trainer (``profiler="simple"``); those of the run come from the journal.

    Raises:
        FileNotFoundError: there is no journal, or no checkpoint before the first step is left.
        ValueError: ``steps`` is no range.
    """
    first, last = steps
    if not 0 <= first <= last:
        raise ValueError(f"steps={steps!r} is no range of steps: pass (first, last) from 0 on")
    journal = _journal(Path(run_dir))
    lines = list(read_journal(journal))
    path = _nearest(journal, lines, first)
    found = Replay(None if path is None else str(path))
    starts = [line for line in lines if line["event"] == "start"]
    recorded = starts[-1].get("arguments", {}) if starts else {}
    given = {
        name: _keys(value)
        for name, value in recorded.items()
        if name not in _NOT_REPEATED and not _is_text(value)
    }
    trainer = Trainer(
        **{
            **given,
            **_SILENT,
            "default_root_dir": str(journal.parent),
            "callbacks": list(callbacks),
            "max_steps": last + 1,
            "resume_from_checkpoint": found.checkpoint,
            **arguments,
        }
    )
    trainer.handlers.add(_Checking(found, recorded_losses(journal), first), origin="replay")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the checkpoint holds the state of callbacks")
        trainer.fit(model, train_dataloader, val_dataloaders, datamodule)
    found.trainer = trainer
    return found


def _journal(folder: Path) -> Path:
    found = sorted(folder.rglob(Journal.FILE)) if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(
            f"there is no {Journal.FILE} below {str(folder)!r}: pass the log directory of a run"
        )
    if len(found) > 1:
        raise ValueError(
            f"there are {len(found)} journals below {str(folder)!r}: pass the directory of one "
            f"run, such as {str(found[0].parent)!r}"
        )
    return found[0]


def _nearest(journal: Path, lines: list[dict[str, Any]], first: int) -> Path | None:
    """The newest whole checkpoint that holds at most the steps before ``first``."""
    if first == 0:
        return None
    named = [Path(line["path"]) for line in lines if line.get("path")]
    places = [*named, *(journal.parent / "checkpoints" / path.name for path in named)]
    places += journal.parent.rglob("*.ckpt")
    steps = {}
    for path in dict.fromkeys(places):
        if path.exists():
            try:
                content = peek(path)
            except ValueError:
                continue  # damaged, which is told below if nothing else is left
            own = content.get("leyden", {}).get("position")
            if own is not None and not own.get("half"):
                steps[path] = (content["global_step"], own["iteration"])
    usable = {path: place for path, place in steps.items() if place[0] <= first}
    for path in sorted(usable, key=usable.__getitem__, reverse=True):
        if is_whole(str(path)):
            return path
    left = sorted(step for step, _ in steps.values())
    raise FileNotFoundError(
        f"no checkpoint from before step {first} is left near {str(journal)!r}: "
        f"{f'the earliest holds {left[0]} steps' if left else 'there are none'}; keep more of "
        "them with ModelCheckpoint(save_top_k=-1, every_n_train_steps=...)"
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"text"}


def _keys(value: Any) -> Any:
    """JSON turned the keys of dicts (epochs) into text."""
    if isinstance(value, dict):
        return {int(k) if re.fullmatch(r"\d+", k) else k: v for k, v in value.items()}
    return value

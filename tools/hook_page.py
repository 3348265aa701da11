"""Write docs/hooks.md: the hooks of fit, validate, test and predict in the order in which they run.

python tools/hook_page.py           write the page, and the listing of events in docs/engine.md
python tools/hook_page.py --check   only say whether they are up to date, by the exit status

Which hook is bound to which event, and in which order, comes from the table in `handlers/hooks.py`;
the arguments come from the signatures; what the events do not say stands in the outlines below.
"""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leyden import Callback, LightningDataModule, LightningModule
from leyden.engine import Events, TrainerEvents, events
from leyden.handlers.hooks import hooks_of

__all__ = ["OUTLINES", "Row", "main", "page", "rows"]

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, ENGINE = DOCS / "hooks.md", DOCS / "engine.md"
#: Who may have a hook, in the order in which they are called where nothing else is said.
WHO = {"data": LightningDataModule, "callback": Callback, "module": LightningModule}
_DATA, _CALLBACK, _MODULE = WHO
#: Characters of the column with the hooks.
WIDTH = 58


@dataclass(frozen=True)
class Row:
    """One line of the page.

    Attributes:
        depth: how far it is indented: 1 for what is done once an epoch, 2 once a batch and so on.
        name: the hook, or words where it is no hook.
        who: who may have it; empty where it is no hook.
        event: the event it is bound to; empty where it belongs to none.
        first: whether only the first of ``who`` that there is and that has it is asked.
    """

    depth: int
    name: str
    who: tuple[str, ...] = ()
    event: str = ""
    first: bool = False

    @property
    def is_hook(self) -> bool:
        """Whether this is a hook, not words between them."""
        return bool(self.who)


@dataclass(frozen=True)
class On:
    """Here an event fires: all hooks bound to it, by rank, with the ``extra`` (rank, name)."""

    event: Any
    depth: int = 0
    extra: tuple[tuple[float, str], ...] = ()


def _words(depth: int, words: str) -> Row:
    return Row(depth, words)


#: Bound by the module's own handler, at these ranks: see `trainer/module_handler.py`.
_END = {"train": (20, "training_epoch_end"), "validate": (5, "validation_epoch_end")}
_END["test"] = (5, "test_epoch_end")


def _evaluation(stage: str, word: str) -> list[Row | On]:
    """The part that validation, test and prediction share."""
    end = (_END[stage],) if stage in _END else ()
    step = [Row(2, f"{word}_step", (_MODULE,))]
    if stage in _END:
        step.append(Row(2, f"{word}_step_end", (_MODULE,)))
    return [
        On(Events.STARTED),
        On(Events.EPOCH_STARTED),
        _words(1, "for each batch of each loader"),
        *(Row(2, name, (_DATA, _MODULE), first=True) for name in _TRANSFER),
        On(Events.ITERATION_STARTED, 2),
        *step,
        On(Events.ITERATION_COMPLETED, 2),
        On(Events.EPOCH_COMPLETED, 0, end),
        On(Events.COMPLETED),
    ]


_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def _alone(stage: str, loader: str) -> list[Row | On]:
    """An evaluation outside of fit."""
    return [
        Row(0, "prepare_data", (_DATA, _MODULE)),
        Row(0, "setup", (_DATA, _CALLBACK, _MODULE)),
        On(TrainerEvents.FIT_STARTED),
        Row(0, loader, (_DATA, _MODULE), first=True),
        _words(0, f"the hooks of {stage}, below"),
        On(TrainerEvents.FIT_COMPLETED),
        Row(0, "teardown", (_CALLBACK, _MODULE)),
        _words(0, f"^ that was teardown('fit'), as in Lightning 1.1; then teardown('{stage}'):"),
        Row(0, "teardown", (_MODULE, _CALLBACK, _DATA)),
    ]


#: What runs in which order; the hooks of an event are filled in from the table.
OUTLINES: dict[str, list[Row | On]] = {
    "fit": [
        _words(0, "when the Trainer is made"),
        Row(1, "on_init_start", (_CALLBACK,)),
        Row(1, "on_init_end", (_CALLBACK,)),
        _words(0, "when fit is called"),
        Row(0, "prepare_data", (_DATA, _MODULE)),
        Row(0, "setup", (_DATA, _CALLBACK, _MODULE)),
        Row(0, "configure_optimizers", (_MODULE,)),
        Row(0, "configure_callbacks", (_MODULE,)),
        On(TrainerEvents.FIT_STARTED),
        On(TrainerEvents.PRETRAIN_STARTED),
        _words(1, "where a checkpoint is resumed"),
        Row(2, "on_load_checkpoint", (_DATA, _MODULE, _CALLBACK)),
        On(TrainerEvents.PRETRAIN_COMPLETED),
        Row(0, "val_dataloader", (_DATA, _MODULE), first=True),
        On(TrainerEvents.SANITY_CHECK_STARTED),
        _words(1, "the hooks of validation, below, on a few batches"),
        On(TrainerEvents.SANITY_CHECK_COMPLETED),
        Row(0, "train_dataloader", (_DATA, _MODULE), first=True),
        On(Events.STARTED),
        _words(0, "for each epoch"),
        On(Events.EPOCH_STARTED, 1),
        _words(1, "for each batch"),
        *(Row(2, name, (_DATA, _MODULE), first=True) for name in _TRANSFER),
        On(Events.ITERATION_STARTED, 2),
        _words(2, "once for each optimizer, and for each part of a sequence that is cut"),
        Row(3, "optimizer_step", (_MODULE,)),
        _words(3, "^ where the accumulated gradients are complete; an override runs what follows"),
        Row(4, "training_step", (_MODULE,)),
        Row(4, "training_step_end", (_MODULE,)),
        On(TrainerEvents.BACKWARD_STARTED, 4),
        Row(4, "backward", (_MODULE,)),
        On(TrainerEvents.GRADIENTS_READY, 4, ((20, "configure_gradient_clipping"),)),
        On(TrainerEvents.OPTIMIZER_STEP_STARTED, 4),
        On(TrainerEvents.ZERO_GRAD_STARTED, 4),
        Row(4, "optimizer_zero_grad", (_MODULE,)),
        On(Events.ITERATION_COMPLETED, 2),
        _words(2, "the hooks of validation, below, where it is due inside the epoch"),
        On(Events.EPOCH_COMPLETED, 1, (_END["train"],)),
        _words(1, "the hooks of validation, below, where it is due at the epoch's end"),
        On(TrainerEvents.TRAINING_ENDED),
        On(TrainerEvents.FIT_COMPLETED),
        Row(0, "teardown", (_DATA, _CALLBACK, _MODULE)),
        _words(0, "at any time"),
        Row(1, "on_save_checkpoint", (_CALLBACK, _MODULE, _DATA)),
        _words(1, "^ when a checkpoint is written"),
        Row(1, "lr_scheduler_step", (_MODULE,)),
        _words(1, "^ after a batch's hooks; in the validation that ends an epoch, else after it"),
        Row(1, "on_keyboard_interrupt", (_CALLBACK,)),
        _words(1, "^ after Ctrl-C, before on_exception and on_train_end"),
        Row(1, "on_exception", (_CALLBACK, _MODULE)),
        _words(1, "^ before on_train_end; the exception then reaches who called fit"),
    ],
    "validation, inside fit and in validate": _evaluation("validate", "validation"),
    "validate": _alone("validate", "val_dataloader"),
    "test": _alone("test", "test_dataloader"),
    "test: its batches": _evaluation("test", "test"),
    "predict": _alone("predict", "predict_dataloader"),
    "predict: its batches": _evaluation("predict", "predict"),
}
_STAGES = {"validation, inside fit and in validate": "validate"}
_STAGES |= {"test: its batches": "test", "predict: its batches": "predict"}


def rows(outline: str) -> Iterator[Row]:
    """Yield the lines of an outline, its events replaced by the hooks that are bound to them."""
    stage = _STAGES.get(outline, "train")
    for item in OUTLINES[outline]:
        if isinstance(item, Row):
            if not item.is_hook or _owners(item.name, item.who):
                yield replace(item, who=_owners(item.name, item.who))
            continue
        bound = [(h.rank, h.name, _who(h)) for h in hooks_of(stage) if h.event is item.event]
        bound += [(rank, name, (_MODULE,)) for rank, name in item.extra]
        for _, name, who in sorted(bound, key=lambda found: found[0]):
            if _owners(name, who):
                yield Row(item.depth, name, _owners(name, who), item.event.name)


def _who(hook: Any) -> tuple[str, ...]:
    return (_CALLBACK,) * hook.callback + (_MODULE,) * hook.module


def _owners(name: str, who: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one for one in who if hasattr(WHO[one], name))


def _signature(row: Row) -> str:
    """The hook with its arguments; a callback gets the Trainer and the module before them."""
    for one, skipped in ((_MODULE, 1), (_DATA, 1), (_CALLBACK, 3)):
        if one in row.who:
            parameters = list(inspect.signature(getattr(WHO[one], row.name)).parameters.values())
            shown = [str(p) if p.kind is p.VAR_POSITIONAL else p.name for p in parameters[skipped:]]
            if any(p.kind is p.VAR_KEYWORD for p in parameters):
                shown = ["..."] if row.name.endswith(("_step", "_step_end")) else shown
                shown = [part for part in shown if part not in ("args", "kwargs")]
            if row.name == "on_exception":
                shown = ["exception"]
            return f"{row.name}({', '.join(part.split(':')[0] for part in shown)})"
    return row.name


def _listing(outline: str) -> str:
    """The lines of an outline as text in columns."""
    lines = []
    for row in rows(outline):
        indent = "  " * row.depth
        if not row.is_hook:
            lines.append(f"{indent}# {row.name.removeprefix('^ ')}")
            continue
        who = (", else " if row.first else ", ").join(row.who)
        hook, rest = indent + _signature(row), f"{who:<22}  {row.event}"
        if len(hook) > WIDTH:
            lines.append(hook)
            hook = ""
        lines.append(f"{hook:<{WIDTH}}  {rest}".rstrip())
    return "\n".join(lines)


TEXT = """# Hooks, in the order in which they run

Made by `tools/hook_page.py` from the table in `handlers/hooks.py`; a test compares this page with
the hooks of real runs, and these with the order recorded from Lightning 1.1.8.

Each line is a hook with its arguments, who may have it, and the event that it is bound to. Where
several have it they are called in the order given. A callback's hook gets `trainer, pl_module`
before these arguments (`on_init_start` and `on_init_end` get the Trainer alone). Trailing arguments
may be left out of a signature. A hook that nobody overrides is bound to nothing and costs nothing.

An event is where handlers of your own go:
`trainer.engine.add_event_handler(TrainerEvents.GRADIENTS_READY, function)`; see
[the engine](engine.md). leyden's own handlers run between and after the hooks of an event, in the
order that `print(trainer.plan())` shows: metrics are reduced and written after the hooks, then
validation runs, then schedulers step, and checkpoints are saved last.
"""


def page() -> str:
    """Return the page."""
    parts = [TEXT.rstrip("\n")]
    for outline in OUTLINES:
        parts.append(f"## {outline}\n\n```text\n{_listing(outline)}\n```")
    return "\n\n".join(parts) + "\n"


BEGIN, END = "<!-- events -->", "<!-- end -->"


def engine_page() -> str:
    """Return docs/engine.md with the listing of events made anew."""
    before, rest = ENGINE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    _, _, listing = inspect.cleandoc(events.__doc__ or "").partition("::\n\n")
    return f"{before}{BEGIN}\n\n```text\n{inspect.cleandoc(listing)}\n```\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    made = {PAGE: page(), ENGINE: engine_page()}
    if arguments:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in made.items()))
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

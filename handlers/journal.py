"""What a run did, line by line in a file that is only ever appended to."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.notice import warn
from leyden.handlers.base import Handler
from leyden.handlers.checkpoint_archive import filesystem_of
from leyden.handlers.checkpoint_names import is_remote
from leyden.handlers.loggers.guard import MISTAKES

__all__ = ["Journal", "bits", "read_journal", "recorded_losses"]

# Losses wait on their device and are read many at a time.
_TOGETHER = 1000


class Journal(Handler):
    """Writes ``journal.jsonl``: starts, checkpoints, validations, warnings, the end.

    The lines are on the disk with each checkpoint: after ``kill -9`` the file says what was done. A
    run that goes on appends to it.

    Runs on: STARTED, CHECKPOINT_SAVED, VALIDATION_COMPLETED, TRAINING_ENDED; ITERATION_COMPLETED
    only with ``losses``.

    State: none; the file is the state.

    Args:
        path: the file, also an address such as ``s3://runs/1/journal.jsonl``; None: in the log
            directory, chosen when fit begins.
        losses: keep the loss of every batch, bit for bit, for ``leyden.replay`` to check against.
            It costs an iteration half a microsecond, and the file 30 bytes.
        facts: written with the start; called then.
        ended_by: gives the exception that ends the run, or None.

    Example:
        >>> journal = Journal("runs/1/journal.jsonl", losses=True)
        >>> journal.path
        'runs/1/journal.jsonl'
    """

    FILE = "journal.jsonl"
    one_rank = True
    order = 95.0
    order_reason = "after what it tells of"

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        losses: bool = False,
        facts: Callable[[], Mapping[str, Any]] | None = None,
        ended_by: Callable[[], BaseException | None] | None = None,
    ) -> None:
        super().__init__()
        self.path = None if path is None else os.fspath(path)
        self.losses = losses
        self.facts = facts
        self.ended_by = ended_by
        self._lines: list[str] = []
        self._kept: list[tuple[int, int, torch.Tensor]] = []
        self._listener: _Listener | None = None
        self._failed = False

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.STARTED, self.begin)
        self.listen(engine, TrainerEvents.CHECKPOINT_SAVED, self.note_checkpoint)
        self.listen(engine, TrainerEvents.VALIDATION_COMPLETED, self.note_validation)
        self.listen(engine, TrainerEvents.TRAINING_ENDED, self.end)
        if self.losses:
            self.listen(engine, Events.ITERATION_COMPLETED, self.keep_loss, order=3)

    def begin(self, engine: Engine) -> None:
        """A run begins, or goes on."""
        state: Any = engine.state
        told = {} if self.facts is None else dict(self.facts())
        self.note("start", **_place(state), **told)
        self.flush()
        if self._listener is None:
            self._listener = _Listener(self)

    def note_checkpoint(self, engine: Engine) -> None:
        """A checkpoint is on the disk: so are the lines up to it."""
        state: Any = engine.state
        self.note("checkpoint", path=getattr(state, "saved_path", None), **_place(state))
        self.flush()

    def note_validation(self, engine: Engine) -> None:
        """What came out of a validation."""
        state: Any = engine.state
        metrics = getattr(state.scope, "callback_metrics", {})
        self.note("validation", **_place(state), metrics=_numbers(metrics))

    def keep_loss(self, engine: Engine) -> None:
        """Keep the loss of this batch where it is."""
        state: Any = engine.state
        if state.loss is not None:
            self._kept.append((state.iteration, state.global_step, state.loss.data))
            if len(self._kept) == _TOGETHER:
                self._write_losses()

    def end(self, engine: Engine) -> None:
        """The training is over."""
        if self._listener is not None:
            self._listener.end()
            self._listener = None
        error = None if self.ended_by is None else self.ended_by()
        state: Any = engine.state
        how = "finished" if error is None else f"{type(error).__name__}: {error}"
        self.note("end", how=how, **_place(state))
        self.flush()

    def note(self, event: str, **facts: Any) -> None:
        """Add a line; it reaches the file with the next :meth:`flush`."""
        line = {"event": event, "time": round(time.time(), 3), **facts}
        self._lines.append(json.dumps(line, default=str) + "\n")

    def flush(self) -> None:
        """Write what was added, to the disk."""
        self._write_losses()
        if self.path is None or not self._lines:
            return
        try:
            _append(self.path, "".join(self._lines).encode())
        except MISTAKES:
            raise
        except Exception as error:  # of a disk, or of whatever fsspec stands before
            if not self._failed:
                self._failed = True
                warn(
                    f"the journal {self.path} cannot be written: {type(error).__name__}: {error}. "
                    "The run goes on; its lines are kept, and the next checkpoint tries again",
                )
            return
        self._failed = False
        self._lines.clear()

    def _write_losses(self) -> None:
        kept, self._kept = self._kept, []
        if kept:
            values = torch.stack([loss.double() for _, _, loss in kept]).tolist()
            self.note(
                "losses",
                batches=[[i, step, bits(v)] for (i, step, _), v in zip(kept, values, strict=True)],
            )


class _Listener:
    """Stands in for ``warnings.showwarning``: notes a warning, and hands it on.

    Several runs may listen at once and end in any order; and ``warnings.catch_warnings`` may put
    back a listener whose run is over. So one that has ended still hands on, and is taken out as
    soon as nothing stands before it.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal: Journal | None = journal
        self.before = warnings.showwarning
        warnings.showwarning = self

    def __call__(self, message: Any, category: Any, *rest: Any, **named: Any) -> None:
        if self.journal is not None:
            self.journal.note("warning", category=category.__name__, text=str(message))
        self.before(message, category, *rest, **named)

    def end(self) -> None:
        """Listen no longer."""
        self.journal = None
        now = warnings.showwarning
        while isinstance(now, _Listener) and now.journal is None:
            now = now.before
        warnings.showwarning = now


def read_journal(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Give the lines of a journal; one that is half there is left out."""
    with contextlib.ExitStack() as opened:
        if is_remote(path):
            filesystem, name = filesystem_of(os.fspath(path))
            file = opened.enter_context(filesystem.open(name, "rb"))
        else:
            file = opened.enter_context(open(path, "rb"))
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict) and "event" in found:
                yield found


def _append(path: str, data: bytes) -> None:
    if is_remote(path):
        # Such stores cannot append. A journal is short, and written with checkpoints only.
        filesystem, name = filesystem_of(path)
        try:
            earlier = filesystem.cat_file(name)
        except FileNotFoundError:
            earlier = b""
            with contextlib.suppress(NotImplementedError):  # object stores have no folders
                filesystem.makedirs(name.rpartition("/")[0], exist_ok=True)
        if not earlier.endswith(b"\n"):
            earlier += b"\n" if earlier else b""
        filesystem.pipe_file(name, earlier + data)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    # One write, without a buffer: a line is torn by a power failure at most.
    with open(path, "ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # somebody died in the middle of a line
                data = b"\n" + data
        file.write(data)
        os.fsync(file.fileno())


def recorded_losses(path: str | os.PathLike[str]) -> dict[int, str]:
    """Give the bits of each batch's loss, by its number in the run; the last telling counts."""
    found: dict[int, str] = {}
    for line in read_journal(path):
        if line["event"] == "losses":
            found.update((iteration, text) for iteration, _, text in line["batches"])
    return found


def bits(value: float) -> str:
    """All bits of a number as text. Narrower floats keep theirs.

    Example:
        >>> bits(0.1), bits(float("nan"))
        ('0x1.999999999999ap-4', 'nan')
    """
    return float(value).hex()


def _place(state: Any) -> dict[str, int]:
    return {"epoch": state.epoch, "batch": state.iteration, "step": state.optimizer_steps}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) or getattr(value, "numel", lambda: 0)() == 1
    }

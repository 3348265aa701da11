"""What is gathered in one training epoch or one evaluation run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leyden.handlers.metric_objects import computed
from leyden.handlers.metric_records import Record
from leyden.handlers.metric_rules import Rules
from leyden.handlers.metric_sync import all_reduce, is_writer, world_size
from leyden.handlers.metric_values import LazyScalars, check_name, host_scalars

__all__ = ["Nowhere", "Stage", "share_steps"]


class Nowhere:
    """The position before a run is bound."""

    epoch = 0
    batch: Any = None
    global_step = 0
    optimizer_idx: int | None = None
    split_idx: int | None = None


#: The value of a step that this process had no batch for.
ABSENT = torch.tensor(0.0)


class Stage:
    """The records of one training epoch or one evaluation run.

    Attributes:
        tables: for each data loader, hook -> name -> record.
        pending: the records with a value of the running batch.
        weight: the size of the running batch; 0 until it is asked for.
        callback: what callbacks see of this run, with the loader it belongs to.
        rows: step rows that wait for the logger, with their numbers.
        carried: the last step row of each loader that is done.
    """

    __slots__ = (
        "callback",
        "carried",
        "loader",
        "loaders",
        "name",
        "pending",
        "records",
        "row",
        "rows",
        "since_flush",
        "tables",
        "weight",
    )

    def __init__(self, name: str, loaders: int = 1) -> None:
        self.name = name
        self.loaders = loaders
        self.loader = 0
        self.records: list[Record] = []
        self.tables: list[dict[str | None, dict[str, Record]]] = [
            {} for _ in range(max(loaders, 1))
        ]
        self.pending: list[Record] = []
        self.weight = 0
        self.since_flush = 0
        self.callback: dict[str, tuple[Any, int | None]] = {}
        self.row: dict[str, Any] = {}
        self.carried: dict[str, Any] = {}
        self.rows: list[tuple[dict[str, Any], int]] = []

    def register(
        self, name: str, rules: Rules, flags: tuple[Any, ...], epoch: int
    ) -> Record | None:
        """Check the first call of a name in a hook and make its record; None drops the call."""
        if rules.dropped:
            return None
        check_name(name, rules.hook)
        record = Record(name, rules)
        self._configure(record, flags, epoch)
        if flags[-1] and not is_writer():  # rank_zero_only
            return None
        # Without a suffix the loaders share the name, and so the value.
        tables = self.tables if record.loader is None else [self.tables[self.loader]]
        for table in tables:
            table.setdefault(rules.hook, {})[name] = record
        self.records.append(record)
        return record

    def change(self, record: Record, flags: tuple[Any, ...], position: Any, epoch: int) -> None:
        """Take other settings for a known name; in one call of the hook the last ones count."""
        if record.repeats(position):
            record.retract()
            self.pending.remove(record)
            flags = record.joined(flags)
        self._configure(record, flags, epoch)

    def _configure(self, record: Record, flags: tuple[Any, ...], epoch: int) -> None:
        record.configure(
            flags,
            self.loader if self.loaders > 1 else None,
            None if self.name == "train" else epoch,
        )

    def flush(self) -> None:
        """Fold what was gathered into the running reductions."""
        self.since_flush = 0
        for record in self.records:
            if record.acc is not None:
                record.acc.flush()

    def shown_steps(self) -> list[Record]:
        """The batch is over: return the records whose step value somebody sees."""
        out = []
        for record in self.pending:
            record.pending = False
            if record.on_step and (record.shown or record.forked):
                out.append(record)
        self.pending.clear()
        return out

    def show_steps(
        self, callback: dict[str, Any], bar: LazyScalars, batch_idx: int
    ) -> dict[str, Any]:
        """Show the step values of an evaluation batch, and keep their row for the logger.

        Returns:
            What the logger gets of this batch.
        """
        row: dict[str, Any] = {}
        for record in self.shown_steps():
            if record.forked:
                callback[record.key] = record.value
                self.callback[record.key] = (record.value, record.loader)
            if record.logger:
                row[record.row_key] = record.value
            if record.prog_bar and self.name != "sanity":
                bar.store({record.step_key: record.value})
        if row:
            # Lightning 1.1.8 repeats the last values of the loaders before in each row.
            self.row = row
            self.rows.append(({**self.carried, **row}, batch_idx))
        return row

    def take_rows(self) -> list[tuple[dict[str, Any], int]]:
        """Return the rows that have gathered, read to the host in one transfer."""
        rows, self.rows = self.rows, []
        numbers = iter(host_scalars([value for row, _ in rows for value in row.values()]))
        return [({key: next(numbers) for key in row}, step) for row, step in rows]

    def results(self) -> list[dict[str, Any]]:
        """Return what callbacks saw, as numbers: one dict a data loader."""
        numbers = host_scalars([value for value, _ in self.callback.values()])
        out: list[dict[str, Any]] = [{} for _ in range(self.loaders)]
        for (key, (_, loader)), number in zip(self.callback.items(), numbers, strict=True):
            for mine in out if loader is None else (out[loader],):
                mine[key] = number
        return out

    def reduced(
        self, monitored: frozenset[str] = frozenset(), *, alone: bool = False
    ) -> list[tuple[Record, Any]]:
        """Return every record that has a value for the epoch, with it, over all processes.

        Args:
            monitored: names that are reduced over the processes even if nobody asked for it.
            alone: leave out what has to be reduced over several processes.
        """
        out: list[tuple[Record, Any]] = []
        shared: list[tuple[Record, Any, float, tuple[str, Any]]] = []
        for record in self.records:
            if record.metric is not None:
                # Its own compute() talks to the other processes.
                if record.on_epoch and record.shown and not (alone and world_size(None) > 1):
                    # Reset by a hook after it was shown: what was shown counts, as in 1.1.8.
                    if record.computed is None or getattr(record.metric, "_update_count", True):
                        record.computed = computed(record.metric, record.name, record.hook)
                    out.append((record, record.computed))
            elif record.acc is not None and record.shown:
                sync = record.sync
                if sync is None and record.epoch_key in monitored and record.acc.op != "keep":
                    sync = (record.acc.op, None)
                if sync is not None and world_size(sync[1]) > 1:
                    shared.append((record, record.acc.result(), record.acc.weight, sync))
                else:
                    value = record.acc.result()
                    if value is not None:
                        out.append((record, value))
        if shared and not alone:
            # A name that only some processes logged in this epoch counts there only.
            parts = []
            device = next((v.device for _, v, *_ in shared if v is not None), torch.device("cpu"))
            for _, value, weight, sync in shared:
                value = _placeholder(sync[0], device) if value is None else value
                parts.append((value, torch.tensor(float(weight), device=device), *sync))
            out += zip([r for r, *_ in shared], all_reduce(parts), strict=True)
        return out

    def fold(self) -> None:
        """Fold what came so far into the running values, so that a batch can be taken back."""
        for record in self.records:
            if record.acc is not None:
                record.acc.flush()

    def drop_batch(self) -> None:
        """Take back what came since :meth:`fold`; the names that were logged stay known."""
        for record in self.records:
            record.pending = False
            if record.acc is not None:
                record.acc.values.clear()
                record.acc.weights.clear()
        self.pending.clear()

    def forget(self) -> None:
        """Drop every value, and keep the records for the next epoch."""
        for record in self.records:
            record.forget()
        self.pending.clear()
        self.since_flush = 0

    def empty(self) -> None:
        """Drop the records too."""
        self.records.clear()
        for table in self.tables:
            table.clear()


def share_steps(pending: list[Record]) -> None:
    """Reduce the step values that ask for it over the processes, in one call."""
    asked = [
        (record, torch.as_tensor(record.value), *record.sync)
        for record in pending
        if record.sync is not None
        and record.on_step
        and record.shown
        and world_size(record.sync[1]) > 1
    ]
    if asked:
        reduced = all_reduce([_part(*part) for part in asked])
        for (record, *_), value in zip(asked, reduced, strict=True):
            record.value = value


def await_steps(stage: Stage) -> bool:
    """Let a process without a batch take part in :func:`share_steps`; whether there is a need."""
    missing = [
        record
        for record in stage.records
        if record.rules.hook in ("training_step", "training_step_end") and not record.pending
        if record.sync is not None and record.on_step and record.shown
    ]
    for record in missing:
        record.value, record.pending = ABSENT, True
    pending = {id(record) for record in (*stage.pending, *missing)}
    # In the order of the others, who logged all of them.
    stage.pending[:] = [record for record in stage.records if id(record) in pending]
    return bool(missing)


def _part(record: Record, value: Tensor, op: str, group: Any) -> tuple[Tensor, Tensor, str, Any]:
    if record.value is ABSENT:
        return _placeholder(op, value.device), torch.tensor(0.0), op, group
    return value, torch.tensor(1.0), op, group


def _placeholder(op: str, device: torch.device) -> Tensor:
    """What a process without a value brings, so that it changes nothing."""
    number = {"mean": 0.0, "sum": 0.0, "min": float("inf"), "max": float("-inf")}[op]
    return torch.tensor(number, device=device)

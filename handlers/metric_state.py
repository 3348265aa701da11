"""Saving and restoring what a training epoch has gathered, for a run that goes on in its middle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from leyden.engine.notice import warn
from leyden.handlers.metric_objects import (
    load_metric_state,
    metric_at,
    metric_paths,
    metric_state,
)
from leyden.handlers.metric_records import Record
from leyden.handlers.metric_reduce import Accumulator
from leyden.handlers.metric_rules import rules_of
from leyden.handlers.metric_stage import Stage

__all__ = ["load_stage", "place_metrics", "save_stage"]


def save_stage(stage: Stage, module: Any) -> dict[str, Any]:
    """Return the running values of a training epoch as tensors and plain data.

    Metric objects are saved by the path under which they hang on `module`.
    """
    paths = {id(metric): path for path, metric in metric_paths(module)}
    records: list[dict[str, Any]] = []
    objects: dict[str, Any] = {}
    for record in stage.records:
        saved = _settings(record)
        if id(record.metric) in paths:
            path = paths[id(record.metric)]
            state = metric_state(record.metric)
            if state is not None:
                objects[path] = state
                records.append({**saved, "metric": path})
        elif record.metric is not None:
            if vars(record.metric).get("_update_count", 1):  # torchmetrics knows that it is empty
                _warn_of_loss(record, module)
        elif record.acc:
            records.append({**saved, "acc": record.acc.state_dict()})
    # Values of the running batch that are not shown yet: its hooks have not all run.
    pending = [
        {**_settings(record), "value": _kept(record.value), "parts": _kept(record.parts)}
        for record in stage.pending
    ]
    return {
        "records": records,
        "objects": objects,
        "since_flush": stage.since_flush,
        "pending": pending,
    }


def _warn_of_loss(record: Record, module: Any) -> None:
    warn(
        f"the metric object {type(record.metric).__name__} that {record.hook} logs as"
        f" {record.name!r} is no attribute of {type(module).__name__}, so its running state is not"
        " saved: a run resumed in the middle of an epoch computes it over the rest of that epoch"
        " only; make it an attribute, or say where it is: self.log(..., metric_attribute='path')",
    )


def load_stage(stage: Stage, state: Mapping[str, Any]) -> dict[str, Any]:
    """Put saved running values into an empty stage.

    Returns:
        What is left for `place_metrics`: the saved metric objects, path -> state and records.
    """
    stage.empty()
    left = {path: {"state": saved, "records": []} for path, saved in state["objects"].items()}
    for saved in state["records"]:
        record = _record(stage, saved)
        if "metric" in saved:
            left[saved["metric"]]["records"].append(record)
        else:
            record.acc = Accumulator(saved["acc"]["op"])
            record.acc.load_state_dict(saved["acc"])
    stage.since_flush = state["since_flush"]
    for saved in state.get("pending", ()):
        known = stage.tables[0].get(saved["hook"], {}).get(saved["name"])
        record = _record(stage, saved) if known is None else known
        record.value, record.parts, record.pending = saved["value"], saved["parts"], True
        stage.pending.append(record)
    return left


def _settings(record: Record) -> dict[str, Any]:
    return {
        "hook": record.hook,
        "name": record.name,
        "on_step": record.on_step,
        "on_epoch": record.on_epoch,
        "prog_bar": record.prog_bar,
        "logger": record.logger,
        # A group of the user's own cannot be saved: the first call brings it back.
        "sync": record.sync[0] if record.sync is not None and record.sync[1] is None else None,
    }


def _kept(value: Any) -> Any:
    if isinstance(value, list):
        return [_kept(item) for item in value]
    return value.detach().clone() if isinstance(value, Tensor) else value


def _record(stage: Stage, saved: Mapping[str, Any]) -> Record:
    when = (saved["on_step"], saved["on_epoch"])
    # The first call of self.log brings the settings that are not saved.
    sync = saved.get("sync")
    together = (sync is not None, sync, None)
    flags = (saved["prog_bar"], saved["logger"], *when, "mean", False, *together, 1, 0)
    record = stage.register(saved["name"], rules_of(saved["hook"]), flags, 0)
    if record is None:
        raise ValueError(
            f"the saved run logged {saved['name']!r} from {saved['hook']!r}, where nothing can be"
            " logged: the state was made by another version"
        )
    return record


def place_metrics(module: Any, left: Mapping[str, Any]) -> None:
    """Give the metric objects of `module` the state they had in the saved run.

    Raises:
        ValueError: the module has no metric object where the saved one had one.
    """
    found = dict(metric_paths(module))
    for path in set(left) - set(found):
        metric = metric_at(module, path)  # named by metric_attribute in the saved run
        if metric is not None:
            found[path] = metric
    missing = sorted(set(left) - set(found))
    if missing:
        raise ValueError(
            f"the saved run had the metric objects {missing}, the module has {sorted(found)}:"
            " resume with the module that was saved"
        )
    for path, saved in left.items():
        load_metric_state(found[path], saved["state"])
        for record in saved["records"]:
            record.metric = found[path]
            record.acc = None

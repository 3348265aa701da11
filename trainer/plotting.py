"""Draw what was logged: the curves of a CSV file or a TensorBoard folder in one picture."""

import contextlib
import csv
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.checkpoint_archive import filesystem_of
from leyden.handlers.checkpoint_names import is_remote

__all__ = ["Curve", "curves", "plot"]

Curve = tuple[list[float], list[float]]
"""Steps and values."""

_NOT_DRAWN = {"step", "epoch", "created_at", "time", "wall_time"}


def plot(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    metrics: Iterable[str] | None = None,
    columns: int = 3,
    title: str | None = None,
) -> str:
    """Draw all logged curves of a run, one panel for each metric.

    Curves that belong together share a panel: ``loss_step`` with ``loss_epoch``, ``train_loss``
    stays by itself. A curve of few points shows them.

    Args:
        source: a ``metrics.csv``, the folder that holds it, or a folder of TensorBoard's event
            files (``trainer.log_dir`` in both cases).
        out: the picture; by its suffix PNG, PDF or SVG. None: ``metrics.png`` beside the data, or
            in the current folder where the data are elsewhere (``s3://...``).
        metrics: draw these only, by the names that were logged.
        columns: panels side by side.
        title: above all of them; None: the folder.

    Returns:
        The path of the picture.

    Raises:
        MisconfigurationException: without matplotlib (or, for event files, tensorboard), or where
            nothing was logged.
    """
    found = curves(source)
    if metrics is not None:
        wanted = list(metrics)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise MisconfigurationException(
                f"plot(metrics=...) names {missing[0]!r}, which was not logged: there are "
                f"{', '.join(found)}"
            )
        found = {name: found[name] for name in wanted}
    if columns < 1:
        raise MisconfigurationException(f"plot(columns={columns}) is below 1: pass 1 or more")
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if is_remote(source):
        target = Path("metrics.png" if out is None else out)
    else:
        target = folder / "metrics.png" if out is None else Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure_type = _figure_type()
    panels = _panels(found)
    rows = math.ceil(len(panels) / columns)
    width = min(columns, len(panels))
    # No pyplot: it would choose a window system and keep every figure.
    figure = figure_type(figsize=(5.0 * width, 3.4 * rows + 0.4), layout="constrained", dpi=110)
    shown = title or (str(source) if is_remote(source) else str(folder))
    figure.suptitle(shown, fontsize=10, color="0.35")
    for index, (name, members) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, width, index + 1)
        _draw(axes, name, {member: found[member] for member in members})
    figure.savefig(target)
    return str(target)


def curves(source: str | os.PathLike[str]) -> dict[str, Curve]:
    """Read every metric of a run: name to (steps, values), in the order they were first logged.

    Args:
        source: as for `plot`.
    """
    with _fetched(str(source)) as path:
        return _curves(path, str(source))


@contextlib.contextmanager
def _fetched(source: str) -> Iterator[Path]:
    """Give a local path to what is to be drawn; what is elsewhere is copied here for a while."""
    if not is_remote(source):
        yield Path(source)
        return
    filesystem, name = filesystem_of(source)
    with tempfile.TemporaryDirectory() as folder:
        try:
            entries = [one["name"] for one in filesystem.ls(name, detail=True)]
        except FileNotFoundError:
            yield Path(folder, "none")
            return
        for entry in entries:
            last = entry.rpartition("/")[2]
            if last == "metrics.csv" or last.startswith("events.out.tfevents."):
                filesystem.get_file(entry, os.path.join(folder, last))
        yield Path(folder)


def _curves(path: Path, source: str) -> dict[str, Curve]:
    if not path.exists():
        raise MisconfigurationException(
            f"plot({source!r}): there is no such file or folder; pass trainer.log_dir"
        )
    table = path / "metrics.csv" if path.is_dir() else path
    if path.is_dir() and not table.is_file():
        if not any(path.glob("events.out.tfevents.*")):
            raise MisconfigurationException(
                f"plot({source!r}): there is neither a metrics.csv nor an event file; pass the "
                "folder of one run, trainer.log_dir"
            )
        found = _from_events(path)
    elif table.name.startswith("events.out.tfevents."):
        found = _from_events(table)
    else:
        found = _from_csv(table)
    if not found:
        raise MisconfigurationException(
            f"plot({source!r}): no metric was logged there; rows are written each "
            "log_every_n_steps steps"
        )
    return found


def _from_csv(path: Path) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    with open(path, newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            step = _number(row.get("step"))
            for name, text in row.items():
                value = _number(text)
                if name and value is not None and name not in _NOT_DRAWN:
                    steps, values = found.setdefault(name, ([], []))
                    steps.append(number if step is None else step)
                    values.append(value)
    return found


def _from_events(path: Path) -> dict[str, Curve]:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise MisconfigurationException(
            "plot() of TensorBoard's event files needs tensorboard: pip install 'leyden[plot]' or "
            "pip install tensorboard, or log with CSVLogger"
        ) from error
    reader = EventAccumulator(str(path), size_guidance={"scalars": 0})
    reader.Reload()
    found: dict[str, Curve] = {}
    for name in reader.Tags()["scalars"]:
        if name not in _NOT_DRAWN and name != "hp_metric":
            events = reader.Scalars(name)
            found[name] = ([float(e.step) for e in events], [e.value for e in events])
    return found


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _panels(names: Iterable[str]) -> dict[str, list[str]]:
    """Which curves share a panel: those whose names differ in ``_step`` and ``_epoch`` only."""
    known = list(names)
    panels: dict[str, list[str]] = {}
    for name in known:
        base = name.removesuffix("_step").removesuffix("_epoch")
        both = f"{base}_step" in known and f"{base}_epoch" in known
        panels.setdefault(base if both or name == base else name, []).append(name)
    return panels


def _draw(axes: Any, name: str, members: dict[str, Curve]) -> None:
    for member, (steps, values) in members.items():
        several = member.endswith("_step") and len(members) > 1
        axes.plot(
            steps,
            values,
            marker="o" if len(steps) <= 25 else None,
            markersize=3,
            linewidth=1.0 if several else 1.6,
            alpha=0.55 if several else 1.0,
            label=member,
        )
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if _spans(members.values()):
        axes.set_yscale("log")
    if len(members) > 1:
        axes.legend(fontsize=8, frameon=False)


def _spans(found: Iterable[Curve]) -> bool:
    """Whether values are positive and reach over more than three powers of ten."""
    values = [value for _, some in found for value in some if math.isfinite(value)]
    return bool(values) and min(values) > 0 and max(values) / min(values) > 1e3


def _figure_type() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MisconfigurationException(
            "plot() needs matplotlib: pip install 'leyden[plot]' or pip install matplotlib"
        ) from error
    return Figure

"""Metrics in a CSV file, hyper-parameters in a YAML file: `CSVLogger`."""

import contextlib
import csv
import io
import os
from collections.abc import Iterable, Mapping
from typing import Any

from leyden.engine.notice import warn
from leyden.handlers.loggers.base import rank_zero_experiment, rank_zero_only
from leyden.handlers.loggers.folder import FolderLogger
from leyden.handlers.loggers.hparams import (
    convert_params,
    save_hparams_to_yaml,
    write_atomically,
)
from leyden.handlers.loggers.values import scalars

__all__ = ["CSVLogger", "ExperimentWriter"]


class ExperimentWriter:
    """Writes rows to ``metrics.csv`` and hyper-parameters to ``hparams.yaml`` in one folder.

    Rows wait in memory until `save`, which appends them; only a new column makes it write the file
    anew. A row that was saved is not held any longer.

    Args:
        log_dir: The folder; made by the first `save`.
    """

    NAME_HPARAMS_FILE = "hparams.yaml"
    NAME_METRICS_FILE = "metrics.csv"

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self.hparams: dict[str, Any] = {}
        self.metrics_file_path = os.path.join(log_dir, self.NAME_METRICS_FILE)
        self._hparams_saved: dict[str, Any] | None = None
        self._columns: list[str] = []
        self._pending: list[dict[str, Any]] = []
        self._rows = 0  # given to log_metrics so far: the step of a row that comes without one
        # Bytes of the file that are known to be whole rows; 0: this object has not written yet.
        self._size = 0

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """All rows of the run, read back from the file, and those that wait for `save`."""
        saved = self._read_rows() if self._size else []
        return [_numbers(row) for row in saved] + [dict(row) for row in self._pending]

    def log_hparams(self, params: Mapping[str, Any]) -> None:
        """Add hyper-parameters."""
        self.hparams.update(params)

    def log_metrics(self, metrics_dict: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row; without a step its number is used."""
        row = scalars(metrics_dict)
        row["step"] = self._rows if step is None else step
        self._pending.append(row)
        self._rows += 1

    def save(self) -> None:
        """Write what has been added since the last time; on failure it is kept for the next."""
        os.makedirs(self.log_dir, exist_ok=True)
        if self._hparams_saved != self.hparams:
            save_hparams_to_yaml(os.path.join(self.log_dir, self.NAME_HPARAMS_FILE), self.hparams)
            self._hparams_saved = dict(self.hparams)
        if not self._pending:
            return
        columns = list(dict.fromkeys([*self._columns, *(k for row in self._pending for k in row)]))
        if self._size and columns == self._columns and os.path.exists(self.metrics_file_path):
            self._append()
        else:
            self._rewrite(columns)
        self._pending.clear()

    def resume(self, step: int, rows: int | None = None) -> None:
        """Keep what an earlier process left: its first ``rows`` rows, or those below ``step``."""
        if not os.path.exists(self.metrics_file_path):
            return
        kept = []
        for row in self._read_rows()[:rows]:
            with contextlib.suppress(KeyError, TypeError, ValueError):  # a row torn by a kill
                if int(row["step"]) < step or rows is not None:
                    kept.append(row)
        self._columns = []
        if kept:
            columns = [name for name in kept[0] if any(row.get(name) for row in kept)]
            self._write_all(columns, kept)
        else:
            os.unlink(self.metrics_file_path)
            self._size = 0
        self._rows = len(kept)

    def _append(self) -> None:
        data = _encode(self._columns, self._pending)
        # An earlier attempt may have left half a row behind the whole ones: write over it.
        with open(self.metrics_file_path, "r+b") as file:
            file.seek(self._size)
            file.truncate()
            file.write(data)
        self._size += len(data)

    def _rewrite(self, columns: list[str]) -> None:
        earlier: list[dict[str, Any]] = []
        if self._size:
            earlier = list(self._read_rows()) if os.path.exists(self.metrics_file_path) else []
        elif os.path.exists(self.metrics_file_path):
            warn(
                f"{self.metrics_file_path} is of an earlier run and is replaced: "
                "give each run a version of its own to keep both",
            )
        self._write_all(columns, [*earlier, *self._pending])

    def _write_all(self, columns: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
        data = _encode(columns, rows, header=True)
        write_atomically(self.metrics_file_path, data)
        self._columns, self._size = columns, len(data)

    def _read_rows(self) -> list[dict[str, Any]]:
        with open(self.metrics_file_path, newline="") as file:
            return list(csv.DictReader(file))


def _encode(
    columns: list[str], rows: Iterable[Mapping[str, Any]], *, header: bool = False
) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what writing did to one row: empty cells go, text that is a number becomes one."""
    result: dict[str, Any] = {}
    for key, value in row.items():
        if value in ("", None):
            continue
        for convert in (int, float):
            with contextlib.suppress(ValueError):
                result[key] = convert(value)
                break
        else:
            result[key] = value
    return result


class CSVLogger(FolderLogger):
    """Logs to ``save_dir/name/version/metrics.csv`` and ``hparams.yaml``.

    Source: as in 1.1.8, except that saving appends rows in place of writing the whole file each
    time, and that `resume` goes on with an earlier file.

    Args:
        save_dir: The folder for all experiments; also an address such as ``s3://bucket/runs``.
        name: The experiment's folder; None or empty for none.
        version: Text, taken as it is, or a number N for ``version_N``; None takes the next free
            number when it is first asked for.
        prefix: Put before each metric's name, with a ``-``.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     logger = CSVLogger(folder, name="demo")
        ...     logger.log_metrics({"loss": 0.5}, step=10)
        ...     logger.save()
        ...     with open(os.path.join(logger.log_dir, "metrics.csv")) as file:
        ...         print(file.read().split())
        ['loss,step', '0.5,10']
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "default",
        version: int | str | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        self._experiment: ExperimentWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of the files."""
        if self._experiment is None:
            folder = self._folder(ExperimentWriter.NAME_METRICS_FILE)
            self._experiment = ExperimentWriter(folder)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Add hyper-parameters to the YAML file."""
        self.experiment.log_hparams(convert_params(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row; `save` writes it."""
        self.experiment.log_metrics(self._add_prefix(metrics, self._prefix), step)

    @rank_zero_only
    def resume(self, step: int, state: Mapping[str, Any] | None = None) -> None:
        """Go on with the file that is there: its rows up to the checkpoint stay."""
        self.experiment.resume(step, (state or {}).get("rows"))

    def state_dict(self) -> dict[str, Any]:
        """How many rows there are."""
        writer = self.experiment  # in the processes that write nothing it is another object
        rows = writer._rows if isinstance(writer, ExperimentWriter) else 0
        return {**super().state_dict(), "rows": rows}

    @rank_zero_only
    def save(self) -> None:
        """Write all rows and hyper-parameters that are not in the files yet."""
        super().save()
        self.experiment.save()
        self._deliver()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write everything, where it belongs."""
        self.save()
        self._deliver(force=True)

    @rank_zero_only
    def close(self) -> None:
        """Write everything, where it belongs."""
        self.finalize("success")

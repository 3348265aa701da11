"""MLflow: `MLFlowLogger`."""

import contextlib
import functools
import importlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from leyden.engine.notice import warn
from leyden.handlers.loggers.base import (
    LightningLoggerBase,
    rank_zero_experiment,
    rank_zero_only,
)
from leyden.handlers.loggers.folder import checked_folder
from leyden.handlers.loggers.hparams import convert_params, flatten_params
from leyden.handlers.loggers.values import scalars

__all__ = ["MLFlowLogger"]

# What MLflow's server takes in one call.
_METRICS_A_CALL = 1000
_PARAMS_A_CALL = 100
_PARAM_LENGTH = 250

_STATUS = {"success": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MLFlowLogger(LightningLoggerBase):
    """Logs to MLflow: to a tracking server or to local files.

    MLflow 3 opens a local folder only where ``MLFLOW_ALLOW_FILE_STORE`` says so; naming the folder
    to this logger says it as well. ``tracking_uri="sqlite:///mlflow.db"`` is what MLflow recommends
    in its place; it needs the whole package, not mlflow-skinny.

    Args:
        experiment_name: The experiment; made if there is none of this name.
        tracking_uri: The server's or store's address; ``file:<save_dir>`` if None.
        tags: Tags of the run.
        save_dir: The folder of the local store; not used where ``tracking_uri`` is given.
        prefix: Put before each metric's name, with a ``-``.
        artifact_location: Where a new experiment keeps its artifacts.
        run_id: The id of an earlier run to go on with.

    Raises:
        ModuleNotFoundError: If neither mlflow nor mlflow-skinny is installed.
        ValueError: If ``save_dir`` is used and is an address such as ``s3://runs``.
    """

    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        experiment_name: str = "default",
        tracking_uri: str | None = None,
        tags: Mapping[str, Any] | None = None,
        save_dir: str | os.PathLike[str] = "./mlruns",
        prefix: str = "",
        artifact_location: str | None = None,
        run_id: str | None = None,
    ) -> None:
        super().__init__()
        _import_mlflow()  # refused here, not in the middle of the first epoch
        self._experiment_name = experiment_name
        if tracking_uri is None:
            folder = checked_folder(
                save_dir,
                "MLFlowLogger",
                local="pass the address of a tracking server as tracking_uri=, or a local folder",
            )
            tracking_uri = f"file:{quote(os.path.abspath(folder))}"
        self._tracking_uri = tracking_uri
        self._tags = dict(tags or {})
        self._prefix = prefix
        self._artifact_location = artifact_location
        self._experiment_id: str | None = None
        self._run_id = run_id
        self._client: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``MlflowClient``; ``run_id`` says which run is ours."""
        if self._client is None:
            with _files_allowed(self._tracking_uri):
                self._client = self._begin()
        return self._client

    def _begin(self) -> Any:
        client = _import_mlflow()(self._tracking_uri)
        if self._run_id is not None:
            self._experiment_id = client.get_run(self._run_id).info.experiment_id
            return client
        found = client.get_experiment_by_name(self._experiment_name)
        if found is not None:
            self._experiment_id = found.experiment_id
        else:
            self._experiment_id = client.create_experiment(
                self._experiment_name, artifact_location=self._artifact_location
            )
        self._run_id = client.create_run(self._experiment_id, tags=self._tags).info.run_id
        return client

    @property
    def run_id(self) -> str | None:
        """The run's id; begins the run if it has not begun."""
        _ = self.experiment
        return self._run_id

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; begins the run if it has not begun."""
        _ = self.experiment
        return self._experiment_id

    @property
    def save_dir(self) -> str | None:
        """The folder of the local store; None with a server."""
        address = urlsplit(self._tracking_uri)
        return unquote(address.path) if address.scheme == "file" else None

    @property
    def name(self) -> str | None:
        """The experiment's id, as in 1.1.8: it names the folder of checkpoints."""
        return self.experiment_id

    @property
    def version(self) -> str | None:
        """The run's id."""
        return self.run_id

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write hyper-parameters; MLflow keeps the first 250 characters of a long value."""
        entities = _entities()
        flat = flatten_params(convert_params(params))
        rows = [entities.Param(key, str(value)[:_PARAM_LENGTH]) for key, value in flat.items()]
        client = self.experiment
        for first in range(0, len(rows), _PARAMS_A_CALL):
            client.log_batch(self._run_id, params=rows[first : first + _PARAMS_A_CALL])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write metrics in one call to the server, without what it takes in no name (``[]`` ...).

        Raises:
            ValueError: If a value is no number.
        """
        entities = _entities()
        now = time.time_ns() // 1_000_000
        rows = []
        for key, value in scalars(self._add_prefix(metrics, self._prefix)).items():
            if isinstance(value, (str, Mapping)):
                raise ValueError(
                    f"the metric {key!r} is {value!r} of type {type(value).__name__}, which MLflow "
                    "cannot take: log a number or a tensor of one element"
                )
            rows.append(entities.Metric(_allowed(key), float(value), now, step or 0))
        client = self.experiment
        for first in range(0, len(rows), _METRICS_A_CALL):
            client.log_batch(self._run_id, metrics=rows[first : first + _METRICS_A_CALL])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Save and mark the run as ended."""
        super().finalize(status)
        if self._client is not None:
            self._client.set_terminated(self._run_id, _STATUS.get(status, "FINISHED"))

    def __getstate__(self) -> dict[str, Any]:
        # A client holds connections; another process makes one of its own and joins the run.
        return {**self.__dict__, "_client": None}


@functools.lru_cache(maxsize=1024)  # and so told once for each name
def _allowed(name: str) -> str:
    """Leave out of a metric's name what MLflow would refuse the whole row for."""
    left = re.sub(r"[^-\w/. ]+", "", name, flags=re.ASCII)
    if left != name:
        warn(
            f"MLflow takes no special characters in metric names but '_', '/', '.', '-' and ' ': "
            f"{name!r} is logged as {left!r}",
            RuntimeWarning,
        )
    return left


@contextlib.contextmanager
def _files_allowed(address: str) -> Iterator[None]:
    """Let MLflow open a store of local files, which it refuses where nobody has said a word."""
    name = "MLFLOW_ALLOW_FILE_STORE"
    if not address.startswith("file:") or name in os.environ:
        yield
        return
    os.environ[name] = "true"  # looked at when the store is made, not later
    try:
        yield
    finally:
        os.environ.pop(name, None)


def __getattr__(name: str) -> Any:
    """Give ``mlflow`` and its client, None without it; what a test puts there is used instead."""
    if name not in ("MlflowClient", "mlflow"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return _import_mlflow() if name == "MlflowClient" else importlib.import_module("mlflow")
    except ModuleNotFoundError:
        return None


def _entities() -> Any:
    if globals().get("mlflow") is not None:
        return globals()["mlflow"].entities
    return importlib.import_module("mlflow.entities")


def _import_mlflow() -> Any:
    if globals().get("MlflowClient") is not None:
        return globals()["MlflowClient"]
    try:
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        if error.name != "mlflow":
            raise
        raise ModuleNotFoundError(
            "logger=MLFlowLogger(...) needs the package mlflow, which is not installed: "
            "pip install mlflow-skinny",
            name="mlflow",
        ) from error
    return MlflowClient

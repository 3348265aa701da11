"""Scalars, hyper-parameters and graphs for TensorBoard: `TensorBoardLogger`."""

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from leyden.engine.notice import warn
from leyden.handlers.loggers.base import rank_zero_experiment, rank_zero_only
from leyden.handlers.loggers.event_file import is_direct, restart_event, summary_writer
from leyden.handlers.loggers.folder import FolderLogger
from leyden.handlers.loggers.hparams import convert_params, flatten_params, save_hparams_to_yaml
from leyden.handlers.loggers.ranks import is_rank_zero
from leyden.handlers.loggers.values import scalars

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(FolderLogger):
    """Logs to ``save_dir/name/version`` in TensorBoard's format, and to ``hparams.yaml`` there.

    The metrics of one call become one event, written at once: a killed run has lost no row.

    Args:
        save_dir: The folder for all experiments; also an address such as ``s3://bucket/runs``,
            where what is written arrives a little later.
        name: The experiment's folder; None or empty for none.
        version: Text, taken as it is, or a number N for ``version_N``; None takes the next free
            number when it is first asked for.
        log_graph: Whether `log_graph` records the model's graph.
        default_hp_metric: Whether hyper-parameters that are logged without metrics bring the
            metric ``hp_metric`` = -1, without which TensorBoard's table shows nothing.
        prefix: Put before each metric's name, with a ``-``.
        kwargs: Further arguments of tensorboardX's ``SummaryWriter``.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "default",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        self._log_graph = log_graph
        self._default_hp_metric = default_hp_metric
        self._kwargs = kwargs
        self._experiment: Any = None
        self._process = 0  # which one has begun the file
        self._placeholder_due = True
        self._hparams_saved: dict[str, Any] | None = None
        self.hparams: dict[str, Any] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The tensorboardX ``SummaryWriter``: ``add_image``, ``add_histogram`` and all the rest."""
        if self._experiment is None:
            self._process = os.getpid()
            replaced = globals().get("SummaryWriter")
            if replaced is None:
                self._experiment = summary_writer(self._folder(), **self._kwargs)
            else:
                self._experiment = replaced(log_dir=self._folder(), **self._kwargs)
        return self._experiment

    def _writes(self) -> bool:
        # Reading the environment takes as long as writing a row: it is asked until there is a file.
        begun = self._experiment is not None and self._process == os.getpid()
        return begun or is_rank_zero()

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None) -> None:
        """Record hyper-parameters, and the metrics that their table shows.

        Args:
            params: A Namespace or a mapping, nested if need be.
            metrics: First values by name, or one number for ``hp_metric``.
        """
        params = convert_params(params)
        self.hparams.update(params)
        if metrics is None:
            shown = {"hp_metric": -1} if self._default_hp_metric else {}
        else:
            shown = dict(metrics) if isinstance(metrics, Mapping) else {"hp_metric": metrics}
        if not shown:
            return
        # The placeholder goes out once: a later one would reset a value logged since.
        if metrics is not None or self._placeholder_due:
            self.log_metrics(shown, 0)
        self._placeholder_due = False
        experiment = self.experiment
        if is_direct(experiment):
            from tensorboardX.summary import hparams
        else:  # torch's writer takes the records of the package tensorboard
            from torch.utils.tensorboard.summary import hparams
        writer = experiment._get_file_writer()
        for summary in hparams(flatten_params(params), shown):
            writer.add_summary(summary, 0)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write metrics as one event; a dict among them is drawn as curves in one chart.

        Raises:
            ValueError: If a value is no number.
        """
        if not self._writes():
            return
        experiment = self._experiment or self.experiment
        if not metrics:
            return
        if not is_direct(experiment):
            self._log_by_calls(experiment, metrics, step)
            return
        values = []
        for key, value in scalars(self._add_prefix(metrics, self._prefix)).items():
            if isinstance(value, Mapping):
                for tag, one in value.items():
                    writer = experiment.curve(key, tag)
                    experiment.write_scalars(writer, [(key, _number(f"{key}/{tag}", one))], step)
                continue
            values.append((key, _number(key, value)))
            if key == "hp_metric":
                self._placeholder_due = False
        if values:
            experiment.write_scalars(experiment._get_file_writer(), values, step)

    def _log_by_calls(self, experiment: Any, metrics: Mapping[str, Any], step: int | None) -> None:
        """Write through any SummaryWriter: that of a class of the user's, or of a test."""
        for key, value in scalars(self._add_prefix(metrics, self._prefix)).items():
            if isinstance(value, Mapping):
                experiment.add_scalars(key, dict(value), step)
            else:
                experiment.add_scalar(key, _number(key, value), step)
            if key == "hp_metric":
                self._placeholder_due = False

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Record the model's graph if the logger was made with ``log_graph=True``.

        The model runs once, without gradients and in evaluation mode; modes and random state are
        put back.

        Args:
            model: The module.
            input_array: Its input; ``model.example_input_array`` if not given.

        Raises:
            ModuleNotFoundError: If the package tensorboard, which reads the graph, is missing.
        """
        if not self._log_graph:
            return
        if input_array is None:
            input_array = getattr(model, "example_input_array", None)
        if input_array is None:
            warn(
                "Could not log computational graph since the `model.example_input_array` attribute "
                "is not set or `input_array` was not given: set or pass one, or leave log_graph at "
                "False"
            )
            return
        parameter = next(model.parameters(), None)
        if parameter is not None:
            input_array = _to_device(input_array, parameter.device)
        try:
            with _undisturbed(model), warnings.catch_warnings():
                # tensorboardX reads a graph through torch.jit.trace, which torch calls old.
                warnings.filterwarnings("ignore", ".*torch.jit.*", DeprecationWarning)
                self.experiment.add_graph(model, input_array)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "TensorBoardLogger(log_graph=True) needs the package tensorboard to read a graph: "
                "pip install tensorboard, or leave log_graph at False"
            ) from error

    @rank_zero_only
    def resume(self, step: int, state: Mapping[str, Any] | None = None) -> None:
        """Let TensorBoard drop what an earlier process wrote for ``step`` and later."""
        self._placeholder_due = False
        if is_direct(self.experiment):
            self.experiment._get_file_writer().add_event(restart_event(step), step)

    def save(self) -> None:
        """Write the YAML file if hyper-parameters have come since the last time."""
        if not self._writes():
            return
        super().save()
        if self._hparams_saved != self.hparams:
            folder = self._folder()
            os.makedirs(folder, exist_ok=True)
            save_hparams_to_yaml(os.path.join(folder, self.NAME_HPARAMS_FILE), self.hparams)
            self._hparams_saved = dict(self.hparams)
        if self._experiment is not None:
            self._experiment.flush()
        self._deliver()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Save and close the file; further logging begins another one in the same folder."""
        self.save()
        if self._experiment is not None:
            self._experiment.close()
        self._deliver(force=True)

    @rank_zero_only
    def close(self) -> None:
        """Save and close the file."""
        self.finalize("success")

    def __getstate__(self) -> dict[str, Any]:
        # An open file cannot travel to another process; a new one begins there.
        return {**super().__getstate__(), "_experiment": None}


def __getattr__(name: str) -> Any:
    """Give tensorboardX's ``SummaryWriter``; what a test puts in its place is used instead."""
    if name != "SummaryWriter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("tensorboardX").SummaryWriter


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the metric {key!r} is {value!r} of type {type(value).__name__}, which "
            "TensorBoardLogger cannot write: log a number, a tensor of one element or a "
            "dict of these; for anything else there is logger.experiment"
        ) from error


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(entry, device) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_to_device(entry, device) for entry in value)
    return value


@contextlib.contextmanager
def _undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Run the model with no trace left: tracing must not change what training does."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training

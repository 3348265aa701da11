"""What every logger is: the interface of Lightning 1.1's loggers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leyden.handlers.loggers.hparams import (
    call_params,
    convert_params,
    flatten_dict,
    plain_params,
)
from leyden.handlers.loggers.ranks import DummyExperiment, rank_zero_experiment, rank_zero_only
from leyden.handlers.loggers.values import mean, merge_dicts

__all__ = [
    "DummyExperiment",
    "DummyLogger",
    "LightningLoggerBase",
    "merge_dicts",
    "rank_zero_experiment",
    "rank_zero_only",
    "version_folder",
]


class LightningLoggerBase(ABC):
    """Where metrics and hyper-parameters go.

    A subclass writes ``experiment``, ``log_metrics``, ``log_hyperparams``, ``name`` and
    ``version``, and decorates what touches files or servers with ``rank_zero_only``.

    Args:
        agg_key_funcs: For a metric's name, the function that makes one value of several that were
            given to `agg_and_log_metrics` for one step.
        agg_default_func: The same for all other names; the mean if it is not given.
    """

    #: Stands between a prefix and a metric's name.
    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        agg_key_funcs: Mapping[str, Callable[[Sequence[float]], float]] | None = None,
        agg_default_func: Callable[[Sequence[float]], float] = mean,
    ) -> None:
        self._agg_key_funcs: dict[str, Any] = dict(agg_key_funcs or {})
        self._agg_default_func: Callable[[Sequence[Any]], Any] = agg_default_func
        self._agg_step: int | None = None
        self._agg_metrics: list[Mapping[str, Any]] = []

    def update_agg_funcs(
        self,
        agg_key_funcs: Mapping[str, Callable[[Sequence[float]], float]] | None = None,
        agg_default_func: Callable[[Sequence[float]], float] | None = mean,
    ) -> None:
        """Add functions for single names and replace the one for all others, unless it is None."""
        self._agg_key_funcs.update(agg_key_funcs or {})
        if agg_default_func is not None:
            self._agg_default_func = agg_default_func

    @property
    @abstractmethod
    def experiment(self) -> Any:
        """The object that does the writing, with whatever else it can do."""

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write metrics at once.

        Args:
            metrics: Numbers or one-element tensors by name.
            step: The step they belong to.
        """

    @abstractmethod
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write hyper-parameters: a Namespace or a mapping."""

    @property
    @abstractmethod
    def name(self) -> str | None:
        """The experiment's name; the folder below ``save_dir``."""

    @property
    @abstractmethod
    def version(self) -> int | str | None:
        """The run's version: a number counted up, or any text."""

    @property
    def save_dir(self) -> str | None:
        """The folder below which this logger writes; None if it writes no files."""
        return None

    def agg_and_log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Gather metrics of one step; write them as one row when the next step's first ones come.

        Several values of one name are aggregated. `save` writes what is still held. Without a step
        there is nothing to gather by, so the metrics are written at once.
        """
        if step is None or step != self._agg_step:
            self._finalize_agg_metrics()
        if step is None:
            self.log_metrics(metrics=metrics, step=None)
            return
        self._agg_step = step
        self._agg_metrics.append(metrics)

    def _finalize_agg_metrics(self) -> None:
        if not self._agg_metrics:
            return
        gathered, step = self._agg_metrics, self._agg_step
        self._agg_metrics, self._agg_step = [], None
        if len(gathered) == 1:
            merged = dict(gathered[0])
        else:
            merged = merge_dicts(gathered, self._agg_key_funcs, self._agg_default_func)
        self.log_metrics(metrics=merged, step=step)

    def log_graph(self, model: Any, input_array: Any = None) -> None:  # noqa: B027
        """Record the model's graph; does nothing where a logger has no use for it."""

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`resume` needs to find the place where a checkpoint was saved."""
        return {}

    def resume(self, step: int, state: Mapping[str, Any] | None = None) -> None:  # noqa: B027
        """Go on with a run that was stopped: forget what was written for ``step`` and later.

        ``state`` is what :meth:`state_dict` gave then; None where the checkpoint holds none.

        Without this call a logger that is given the name and version of an earlier run begins anew.
        """

    def save(self) -> None:
        """Write everything that is still held in memory."""
        self._finalize_agg_metrics()

    def finalize(self, status: str) -> None:
        """Do what is due when a run ends; further logging stays possible.

        Args:
            status: How the run ended: ``"success"``, ``"failed"`` or ``"interrupted"``.
        """
        self.save()

    def close(self) -> None:
        """Release files and connections."""
        self.save()

    # What loggers written for 1.1 call in their methods.
    _convert_params = staticmethod(convert_params)
    _flatten_dict = staticmethod(flatten_dict)
    _sanitize_callable_params = staticmethod(call_params)
    _sanitize_params = staticmethod(plain_params)

    def _add_prefix(
        self, metrics: Mapping[str, Any], prefix: str | None = None
    ) -> Mapping[str, Any]:
        if prefix is None:
            prefix = getattr(self, "_prefix", "")
        if not prefix:
            return metrics
        return {f"{prefix}{self.LOGGER_JOIN_CHAR}{key}": value for key, value in metrics.items()}


class DummyLogger(LightningLoggerBase):
    """Takes everything and writes nothing; stands in for the user's logger in ``fast_dev_run``."""

    def __init__(self) -> None:
        super().__init__()
        self._experiment = DummyExperiment()

    @property
    def experiment(self) -> DummyExperiment:
        """An object on which every method does nothing."""
        return self._experiment

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Drop the metrics."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Drop the hyper-parameters."""

    @property
    def name(self) -> str:
        """Empty."""
        return ""

    @property
    def version(self) -> str:
        """Empty."""
        return ""

    def __getitem__(self, index: int) -> "DummyLogger":
        return self


def version_folder(version: int | str | None) -> str:
    """Name a version's folder: text as it is, a number as ``version_N``."""
    return version if isinstance(version, str) else f"version_{version}"

"""Several loggers that look like one: `LoggerCollection`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from leyden.handlers.loggers.base import LightningLoggerBase
from leyden.handlers.loggers.values import mean, scalars

__all__ = ["LoggerCollection"]


class LoggerCollection(LightningLoggerBase):
    """Passes every call on to each of its loggers, in their order.

    Args:
        logger_iterable: The loggers.

    Raises:
        TypeError: If one of them is no logger.
    """

    def __init__(self, logger_iterable: Iterable[LightningLoggerBase]) -> None:
        super().__init__()
        self._logger_iterable = tuple(logger_iterable)
        for logger in self._logger_iterable:
            # By what it can do: a stand-in of a test serves as well.
            if not callable(getattr(logger, "log_metrics", None)) or isinstance(logger, type):
                raise TypeError(
                    f"{logger!r} of type {type(logger).__name__} is no logger: each one in a "
                    "list of loggers derives from LightningLoggerBase"
                )

    def __getitem__(self, index: int) -> LightningLoggerBase:
        return self._logger_iterable[index]

    def __iter__(self) -> Iterator[LightningLoggerBase]:
        return iter(self._logger_iterable)

    def __len__(self) -> int:
        return len(self._logger_iterable)

    def update_agg_funcs(
        self,
        agg_key_funcs: Mapping[str, Callable[[Sequence[float]], float]] | None = None,
        agg_default_func: Callable[[Sequence[float]], float] | None = mean,
    ) -> None:
        """Change how each logger aggregates."""
        for logger in self._logger_iterable:
            logger.update_agg_funcs(agg_key_funcs, agg_default_func)

    @property
    def experiment(self) -> list[Any]:
        """The experiments of the loggers."""
        return [logger.experiment for logger in self._logger_iterable]

    def agg_and_log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Let each logger gather and write in its own way."""
        metrics = scalars(metrics)  # once for all of them
        for logger in self._logger_iterable:
            logger.agg_and_log_metrics(metrics, step)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write metrics to each logger."""
        metrics = scalars(metrics)
        for logger in self._logger_iterable:
            logger.log_metrics(metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write hyper-parameters to each logger."""
        for logger in self._logger_iterable:
            logger.log_hyperparams(params, *args, **kwargs)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Let each logger record the model's graph."""
        for logger in self._logger_iterable:
            logger.log_graph(model, input_array)

    def state_dict(self) -> dict[str, Any]:
        """The place of each logger."""
        return {str(i): logger.state_dict() for i, logger in enumerate(self._logger_iterable)}

    def resume(self, step: int, state: Mapping[str, Any] | None = None) -> None:
        """Let each logger go on with an earlier run."""
        for i, logger in enumerate(self._logger_iterable):
            logger.resume(step, (state or {}).get(str(i)))

    def save(self) -> None:
        """Let each logger write what it holds."""
        for logger in self._logger_iterable:
            logger.save()

    def finalize(self, status: str) -> None:
        """Tell each logger that the run has ended."""
        for logger in self._logger_iterable:
            logger.finalize(status)

    def close(self) -> None:
        """Close each logger."""
        for logger in self._logger_iterable:
            logger.close()

    @property
    def name(self) -> str:
        """The names, joined by ``_``."""
        return "_".join(str(logger.name) for logger in self._logger_iterable)

    @property
    def version(self) -> str:
        """The versions, joined by ``_``."""
        return "_".join(str(logger.version) for logger in self._logger_iterable)

"""Keeps a failing logger from ending the run, and from failing in silence: `LoggerGuard`."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from leyden.engine.notice import warn
from leyden.handlers.loggers.base import LightningLoggerBase
from leyden.handlers.loggers.collection import LoggerCollection
from leyden.handlers.loggers.values import scalars

__all__ = ["MISTAKES", "GuardedLoggers", "LoggerGuard", "guarded", "safe_logger"]

# These come of code that is wrong, not of a disk or server; they end the run as everywhere else.
MISTAKES = (
    TypeError,
    ValueError,
    AttributeError,
    NameError,
    AssertionError,
    ImportError,
    NotImplementedError,
)


class LoggerGuard:
    """Stands between a run and its logger.

    When the logger fails, a warning says so, and what it should have written is kept. The next call
    tries again once the waiting time is over, which doubles with each failure. After ``retries``
    such failures in a row the logger is suspended and the run goes on without it. `finalize` and
    `close` try once more, suspended or not, and say what is lost.

    A wrong value and a mistake in a logger's own code (`TypeError`, `ValueError` and the like) are
    not failures of a disk or server: they are raised.

    Args:
        logger: The logger; it stays the one that ``trainer.logger`` is.
        retries: Failures in a row after the first one until the logger is suspended.
        wait: Seconds until the first new try.
        keep: Calls to keep for a new try; beyond that the oldest go, which is said.
        clock: What tells the time in seconds.

    Example:
        >>> from leyden.handlers.loggers import DummyLogger
        >>> guard = LoggerGuard(DummyLogger())
        >>> guard.log_metrics({"loss": 0.5}, step=1)
        >>> guard.suspended
        False
    """

    def __init__(
        self,
        logger: Any,
        *,
        retries: int = 5,
        wait: float = 1.0,
        keep: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value, least in (("retries", retries, 0), ("wait", wait, 0), ("keep", keep, 1)):
            if value < least:
                raise ValueError(f"{name}={value!r} is too small: pass {least} or more")
        self.logger = logger
        self.retries = retries
        self.wait = wait
        self.suspended = False
        self.lost = 0
        #: Whether something was logged since the logger wrote what it holds.
        self.dirty = False
        own = getattr(type(logger), "agg_and_log_metrics", None)
        self._gathers = own not in (None, LightningLoggerBase.agg_and_log_metrics)
        self._clock = clock
        self._kept: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._keep = keep
        self._failures = 0
        self._next_try = 0.0

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write metrics, or keep them for the next try.

        Raises:
            ValueError: If a value is no single number.
        """
        # Converted here: a wrong value is the caller's, and what is kept must hold no tensors.
        self._do("log_metrics", scalars(metrics), step)

    def log_row(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write what was logged at a step.

        A logger with an ``agg_and_log_metrics`` of its own gets it there, as in Lightning 1.1, and
        is saved at once: the next row may have the same step, and is not to be merged with it.
        """
        if not self._gathers:
            self.log_metrics(metrics, step)
            return
        self.agg_and_log_metrics(metrics, step)
        self._do("save")
        self.dirty = True

    def agg_and_log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Gather metrics of one step, or keep them for the next try."""
        self._do("agg_and_log_metrics", scalars(metrics), step)

    def log_hyperparams(self, params: Any) -> None:
        """Write hyper-parameters, or keep them for the next try."""
        self._do("log_hyperparams", params)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Record the model's graph; a failure is said once and not tried again."""
        try:
            if input_array is None:
                self.logger.log_graph(model)
            else:
                self.logger.log_graph(model, input_array)
        except MISTAKES:
            raise
        except Exception as error:
            self._warn(f"could not record the model's graph: {_text(error)}; the run goes on")

    def save(self) -> None:
        """Write what the logger holds."""
        self._do("save")

    def finalize(self, status: str) -> None:
        """End the run's log; tries once more to write everything that was kept."""
        self._last("finalize", status)

    def close(self) -> None:
        """Close the logger; tries once more to write everything that was kept."""
        self._last("close")

    def _do(self, method: str, *args: Any) -> None:
        self.dirty = method != "save"
        if self.suspended:
            self.lost += method != "save"
            return
        if not self._failures:
            self._try(method, args)
            return
        if method != "save":  # a later save does the same
            self._add(method, args)
        if self._clock() >= self._next_try:
            self._catch_up(method == "save")

    def _add(self, method: str, args: tuple[Any, ...]) -> None:
        if len(self._kept) >= self._keep:
            self._kept.popleft()
            self.lost += 1
        self._kept.append((method, args))

    def _call(self, method: str, args: tuple[Any, ...]) -> None:
        if method == "log_metrics":
            # By name, as Lightning 1.1 calls it: what stands in for a logger may look.
            self.logger.log_metrics(metrics=args[0], step=args[1])
        else:
            getattr(self.logger, method)(*args)

    def _try(self, method: str, args: tuple[Any, ...]) -> bool:
        try:
            self._call(method, args)
        except MISTAKES:
            raise
        except Exception as error:
            if method not in ("save", "finalize", "close"):
                # Kept at the front: what came before it is written, the rest waits behind it.
                self._kept.appendleft((method, args))
            self._failed(method, error)
            return False
        return True

    def _catch_up(self, save: bool) -> bool:
        while self._kept:
            if not self._try(*self._kept.popleft()):
                return False
        if save and not self._try("save", ()):
            return False
        if self._failures:
            count, lost = self._failures, self._lost_words()
            self._failures = 0
            self._warn(f"works again after {count} failed tries; {lost}")
            self.lost = 0
        return True

    def _failed(self, method: str, error: Exception) -> None:
        self._failures += 1
        if self._failures > self.retries:
            self.suspended = True
            self._warn(
                f"failed {self._failures} times in a row, last in {method}: {_text(error)}. It is "
                f"suspended: the run goes on, what is logged from now on is lost, and "
                f"{len(self._kept)} calls are kept for a last try at its end"
            )
            return
        delay = self.wait * 2 ** (self._failures - 1)
        self._next_try = self._clock() + delay
        self._warn(
            f"failed in {method}: {_text(error)}. The run goes on; {len(self._kept)} calls are "
            f"kept, and the next one after {delay:g} s tries again "
            f"({self.retries + 1 - self._failures} more failures suspend the logger)"
        )

    def _last(self, method: str, *args: Any) -> None:
        self.dirty = False
        troubled, failure = self._failures, ""
        try:
            while self._kept:
                kept, given = self._kept[0]
                getattr(self.logger, kept)(*given)
                self._kept.popleft()
            self._call(method, args)
        except MISTAKES:
            raise
        except Exception as error:
            failure = f"failed in {method} at the end of the run: {_text(error)}; "
        self.lost += len(self._kept)
        if failure:
            self._warn(failure + self._lost_words())
        elif troubled:
            self._warn(f"works again after {troubled} failed tries; {self._lost_words()}")
        self._kept.clear()
        self.lost = self._failures = 0
        self.suspended = False  # the next run tries anew

    def _lost_words(self) -> str:
        return f"{self.lost} calls are lost" if self.lost else "nothing is lost"

    def _warn(self, text: str) -> None:
        where = getattr(self.logger, "log_dir", None)
        name = f"the logger {type(self.logger).__name__}" + (f" in {where}" if where else "")
        warn(f"{name} {text}")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class GuardedLoggers:
    """Several loggers, each behind a guard of its own: where one fails the others go on.

    Args:
        loggers: the loggers.
    """

    def __init__(self, loggers: Iterable[Any]) -> None:
        self.guards = [LoggerGuard(logger) for logger in loggers]

    @property
    def dirty(self) -> bool:
        """Whether something was logged since all of them wrote what they hold."""
        return any(guard.dirty for guard in self.guards)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write metrics to each logger."""
        metrics = scalars(metrics)  # once for all of them
        for guard in self.guards:
            guard.log_metrics(metrics, step)

    def log_row(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write what was logged at a step to each logger."""
        metrics = scalars(metrics)
        for guard in self.guards:
            guard.log_row(metrics, step)

    def agg_and_log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Let each logger gather metrics of one step in its own way."""
        metrics = scalars(metrics)
        for guard in self.guards:
            guard.agg_and_log_metrics(metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        """Write hyper-parameters to each logger."""
        for guard in self.guards:
            guard.log_hyperparams(params)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Let each logger record the model's graph."""
        for guard in self.guards:
            guard.log_graph(model, input_array)

    def save(self) -> None:
        """Let each logger write what it holds."""
        for guard in self.guards:
            guard.save()

    def finalize(self, status: str) -> None:
        """Tell each logger that the run has ended."""
        for guard in self.guards:
            guard.finalize(status)

    def close(self) -> None:
        """Close each logger."""
        for guard in self.guards:
            guard.close()


def guarded(logger: Any) -> Any:
    """Put a guard before a logger, or before each one of a collection; None stays None."""
    if logger is None:
        return None
    several = isinstance(logger, LoggerCollection)
    return GuardedLoggers(logger) if several else LoggerGuard(logger)


def safe_logger(trainer: Any) -> Any:
    """The guard before a Trainer's logger, for handlers that log; else its logger as it is."""
    return getattr(trainer, "guarded_logger", None) or trainer.logger

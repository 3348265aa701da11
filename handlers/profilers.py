"""Profilers: where the time of a run goes, by the names of its actions."""

import cProfile
import io
import os
import pstats
import sys
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from leyden.handlers.loggers.ranks import is_rank_zero

__all__ = [
    "AdvancedProfiler",
    "BaseProfiler",
    "PassThroughProfiler",
    "SimpleProfiler",
]


class BaseProfiler(ABC):
    """Measures actions; a subclass writes ``start``, ``stop`` and ``summary``.

    Args:
        output_streams: Functions that take the report's text, such as a file's ``write``. Without
            any, the report goes to ``output_filename`` or, without that, to the standard output.
        output_filename: The report's file, below ``dirpath``.
        dirpath: Its folder; without it the folder of the logs, which the Trainer sets through
            `setup`, or the current one.
    """

    def __init__(
        self,
        output_streams: Any = None,
        *,
        output_filename: str | os.PathLike[str] | None = None,
        dirpath: str | os.PathLike[str] | None = None,
    ) -> None:
        if output_streams is None:
            streams: list[Any] = []
        else:
            single = not isinstance(output_streams, (list, tuple))
            streams = [output_streams] if single else list(output_streams)
        for stream in streams:
            if not callable(stream):
                raise TypeError(
                    f"output_streams holds {stream!r} of type {type(stream).__name__}: "
                    "pass functions that take text, such as open(...).write"
                )
        self.write_streams: list[Callable[[str], Any]] = streams
        self.output_fname = None if output_filename is None else os.fspath(output_filename)
        self.dirpath = None if dirpath is None else os.fspath(dirpath)
        self._log_dir: str | None = None
        self._written: str | None = None

    @abstractmethod
    def start(self, action_name: str) -> None:
        """Begin to measure an action."""

    @abstractmethod
    def stop(self, action_name: str) -> None:
        """End measuring it."""

    @abstractmethod
    def summary(self) -> str:
        """Return the report."""

    def setup(self, log_dir: str | None = None) -> None:
        """Note the folder of the logs, where a report's file goes that was given no ``dirpath``."""
        self._log_dir = log_dir

    @contextmanager
    def profile(self, action_name: str) -> Iterator[str]:
        """Measure what happens inside ``with``; an exception ends the measurement too.

        Example:
            >>> profiler = SimpleProfiler()
            >>> with profiler.profile("load"):
            ...     pass
            >>> len(profiler.recorded_durations["load"])
            1
        """
        self.start(action_name)
        try:
            yield action_name
        finally:
            self.stop(action_name)

    def profile_iterable(self, iterable: Iterable[Any], action_name: str) -> Iterator[Any]:
        """Measure how long each item takes to come, the end too."""
        iterator = iter(iterable)
        while True:
            self.start(action_name)
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.stop(action_name)
            yield item

    @property
    def report_path(self) -> str | None:
        """The report's file; None if it has none."""
        if self.output_fname is None:
            return None
        return os.path.join(self.dirpath or self._log_dir or "", self.output_fname)

    def describe(self) -> None:
        """Give out the report: to the file or the streams, else to the standard output.

        A second report of one profiler comes behind the first in its file.
        """
        if not is_rank_zero():
            return
        report = self.summary()
        for write in self.write_streams:
            write(report)
        path = self.report_path
        if path is not None:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with open(path, "a" if path == self._written else "w") as file:
                file.write(report)
            self._written = path
        elif not self.write_streams and report:
            sys.stdout.write(report)
            sys.stdout.flush()


class PassThroughProfiler(BaseProfiler):
    """Measures nothing: what a Trainer without a profiler has."""

    def start(self, action_name: str) -> None:
        """Do nothing."""

    def stop(self, action_name: str) -> None:
        """Do nothing."""

    def summary(self) -> str:
        """Return nothing."""
        return ""


class SimpleProfiler(BaseProfiler):
    """Measures the duration of each action.

    Args:
        output_filename: The report's file; without it the report is printed.
        extended: Whether the report counts calls and gives shares of the whole.
        dirpath: The file's folder; see `BaseProfiler`.

    Attributes:
        recorded_durations: The durations of each action in seconds, eight bytes each.
    """

    def __init__(
        self,
        output_filename: str | os.PathLike[str] | None = None,
        extended: bool = True,
        *,
        dirpath: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(output_filename=output_filename, dirpath=dirpath)
        self.extended = extended
        self.current_actions: dict[str, float] = {}
        self.recorded_durations: dict[str, array[float]] = {}
        self._start_time = time.perf_counter()

    def start(self, action_name: str) -> None:
        """Begin to measure an action.

        Raises:
            ValueError: If it is being measured already.
        """
        if action_name in self.current_actions:
            raise ValueError(
                f"the action {action_name!r} has been started already: stop it first, or give what "
                "runs inside it a name of its own"
            )
        self.current_actions[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """End measuring it.

        Raises:
            ValueError: If it was not started.
        """
        now = time.perf_counter()
        begun = self.current_actions.pop(action_name, None)
        if begun is None:
            raise _never_started(action_name, self.current_actions)
        try:
            self.recorded_durations[action_name].append(now - begun)
        except KeyError:
            self.recorded_durations[action_name] = array("d", [now - begun])

    def summary(self) -> str:
        """Return the table of actions, the longest in all first."""
        totals = {name: sum(values) for name, values in self.recorded_durations.items()}
        ordered = sorted(totals.items(), key=lambda item: item[1], reverse=True)
        rows: list[tuple[str, ...]] = []
        whole = time.perf_counter() - self._start_time
        if self.extended:
            rows.append(
                ("Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %")
            )
            calls = sum(map(len, self.recorded_durations.values()))
            rows.append(("Total", "-", str(calls), f"{whole:.5}", "100 %"))
        else:
            rows.append(("Action", "Mean duration (s)", "Total time (s)"))
        for name, total in ordered:
            count = len(self.recorded_durations[name])
            if self.extended:
                share = f"{100 * total / whole:.5}"
                rows.append((name, f"{total / count:.5}", str(count), f"{total:.5}", share))
            else:
                rows.append((name, f"{total / count:.5}", f"{total:.5}"))
        return f"\n\nProfiler Report\n\n{_table(rows)}\n"


class AdvancedProfiler(BaseProfiler):
    """Measures the functions called in each action, with ``cProfile``.

    An action includes what runs in the actions inside it. (In 1.1.8 an inner action ended the
    measurement of the outer one.)

    Args:
        output_filename: The report's file; without it the report is printed.
        line_count_restriction: How much of each action's table to show: a whole number is a number
            of lines, a number between 0 and 1 the share of all lines.
        dirpath: The file's folder; see `BaseProfiler`.
    """

    def __init__(
        self,
        output_filename: str | os.PathLike[str] | None = None,
        line_count_restriction: float = 1.0,
        *,
        dirpath: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(output_filename=output_filename, dirpath=dirpath)
        self.line_count_restriction = line_count_restriction
        # Only one cProfile can run at a time. So each nesting of actions has one of its own, of
        # which the innermost runs; an action's figures are the sum over the nestings it is part of.
        self._profiles: dict[tuple[str, ...], cProfile.Profile] = {}
        self._open: tuple[str, ...] = ()

    @property
    def profiled_actions(self) -> dict[str, pstats.Stats]:
        """The figures of each action."""
        actions: dict[str, pstats.Stats] = {}
        running = self._profiles.get(self._open)
        if running is not None:
            running.disable()  # its figures can be read only while it stands still
        for path, profile in self._profiles.items():
            for name in dict.fromkeys(path):
                if name not in actions:
                    actions[name] = pstats.Stats(stream=io.StringIO())
                if profile.getstats():
                    actions[name].add(profile)
        if running is not None:
            running.enable()
        return actions

    def start(self, action_name: str) -> None:
        """Begin to measure an action.

        Raises:
            ValueError: If another profiling tool is running (Python 3.12 and later notice).
        """
        self._switch((*self._open, action_name))

    def stop(self, action_name: str) -> None:
        """End measuring it.

        Raises:
            ValueError: If it was not started.
        """
        if action_name not in self._open:
            raise _never_started(action_name, self._open)
        last = len(self._open) - 1 - self._open[::-1].index(action_name)
        self._switch(self._open[:last] + self._open[last + 1 :])

    def _switch(self, path: tuple[str, ...]) -> None:
        if self._open:
            self._profiles[self._open].disable()
        if path:
            profile = self._profiles.get(path)
            if profile is None:
                profile = self._profiles[path] = cProfile.Profile()
            profile.enable()
        self._open = path

    def summary(self) -> str:
        """Return, for each action, the table of its functions by cumulative time."""
        parts = ["\n\nProfiler Report\n"]
        for name, stats in self.profiled_actions.items():
            text = io.StringIO()
            stats.stream = text  # type: ignore[attr-defined]
            stats.strip_dirs().sort_stats("cumulative")
            stats.print_stats(self.line_count_restriction)
            parts.append(f"\nProfile stats for: {name}\n{text.getvalue()}")
        return "".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        # What is being measured cannot travel to another process; measuring begins anew there.
        return {**self.__dict__, "_profiles": {}, "_open": ()}


def _never_started(action_name: str, running: Iterable[str]) -> ValueError:
    names = ", ".join(map(repr, running)) or "none"
    return ValueError(
        f"the action {action_name!r} was never started, so it cannot be stopped: "
        f"start({action_name!r}) comes first; running now: {names}"
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    """Lay out rows in columns as wide as their widest cell, a rule below the first row or two."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  |  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    rule = "-" * len(lines[0])
    lines.insert(1, rule)
    if len(rows) > 1 and rows[1][0] == "Total":
        lines.insert(3, rule)
    return "\n".join(line.rstrip() for line in lines)

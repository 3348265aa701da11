"""What the progress bar draws with: tqdm in a terminal or notebook, plain lines elsewhere."""

import functools
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["Bar", "begin", "expect", "make_bar"]


class Bar(Protocol):
    """What the progress bar needs of a bar; every tqdm has it."""

    n: Any
    total: Any
    disable: bool

    def update(self, n: float = 1) -> bool | None:
        """Count on; draw if it is time; tell whether it drew."""

    def reset(self, total: float | None = None) -> None:
        """Begin again at nought."""

    def refresh(self) -> Any:
        """Draw now."""

    def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Set what stands before the bar."""

    def set_postfix(self, ordered_dict: Any = None, refresh: bool | None = True) -> None:
        """Set what stands behind the bar."""

    def close(self) -> None:
        """Draw a last time and leave."""

    def write(self, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:
        """Print text above all bars."""


#: Seconds between two lines inside an epoch, and the least between the last lines of two epochs.
LINE_SECONDS = 10.0
EPOCH_LINE_SECONDS = 1.0

_TIMES = "[{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def make_bar(**kwargs: Any) -> Any:
    """Make a tqdm that reads its metrics only when it is drawn: set its attribute ``metrics``.

    In a terminal or notebook it is a moving bar; where output goes to a file or pipe, plain lines.

    Args:
        kwargs: Arguments of tqdm.
    """
    file = kwargs.setdefault("file", sys.stdout)
    if _in_notebook():
        return _notebook_class()(**kwargs)
    if _is_terminal(file):
        return _bar_class()(**kwargs)
    return _line_class()(**kwargs)


def begin(bar: Any, total: float | None, description: str, done: int = 0) -> None:
    """Start a bar again, for the next epoch.

    Our own bars are not drawn here unless it is time: redrawing at each epoch's start is what makes
    many tiny epochs slow. Another tqdm does what its ``reset`` does.
    """
    total = None if total is None or math.isinf(total) else total
    if hasattr(bar, "begin"):
        bar.begin(total, description, done)
        return
    bar.reset(total)
    bar.total = total
    bar.n = done
    bar.set_description(description)


def expect(bar: Any, total: float | None) -> None:
    """Tell a bar that is new how much is to come; None where nobody knows."""
    if total is not None and hasattr(bar, "container"):
        bar.reset(total)  # a widget keeps a total of its own
    bar.total = total


def _is_terminal(file: Any) -> bool:
    try:
        if not file.isatty():
            return False
    except (AttributeError, ValueError):  # no such method; a closed file
        return False
    try:
        # A terminal that says it has no columns, as in some containers: a bar in it has no width.
        return os.get_terminal_size(file.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):  # not a real file
        return True


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Metrics:
    """Mixed into a tqdm class: asks for the metrics when, and only when, it is drawn."""

    # tqdm's watching thread would draw, and so read tensors, at any moment beside the training.
    monitor_interval = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.metrics: Callable[[], Mapping[str, Any]] | None = None
        # miniters=1: look at the clock at each update; tqdm's guess of how many updates to wait
        # stays too high for minutes when batches get slower.
        kwargs.setdefault("miniters", 1)
        super().__init__(*args, **kwargs)
        # `begin` moves the start behind the last drawing; tqdm would then think it never drew.
        self.delay = -math.inf

    def display(self: Any, msg: Any = None, *args: Any, **kwargs: Any) -> Any:
        if msg is None and self.metrics is not None:
            self.set_postfix(self.metrics(), refresh=False)
        return super().display(msg, *args, **kwargs)  # type: ignore[misc]

    def begin(self: Any, total: float | None, description: str, done: int) -> None:
        now = self._time()
        if self.n != self.last_print_n and now - self.last_print_t >= self.mininterval:
            self.refresh()
            self.last_print_t = now
        self.n = self.last_print_n = self.initial = done
        self.total = total
        self.start_t = now
        self.set_description(description, refresh=False)


@functools.cache
def _bar_class() -> Any:
    from tqdm import tqdm

    class TerminalBar(_Metrics, tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        """A moving bar."""

    return TerminalBar


@functools.cache
def _notebook_class() -> Any:
    if importlib.util.find_spec("ipywidgets") is None:
        return _bar_class()  # a notebook's output understands the carriage return
    from tqdm.notebook import tqdm

    class NotebookBar(_Metrics, tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        """A widget."""

        def begin(self, total: float | None, description: str, done: int) -> None:
            self.reset(total)  # the widget keeps a total of its own
            self.n = self.last_print_n = self.initial = done
            self.set_description(description)

    return NotebookBar


@functools.cache
def _line_class() -> Any:
    from tqdm import tqdm

    class Lines(_Metrics, tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        """A line every `LINE_SECONDS`, one when an epoch is over, one at the end."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._written: Any = None
            self.disable: bool
            kwargs.update(mininterval=LINE_SECONDS, position=0, dynamic_ncols=False)
            super().__init__(*args, **kwargs)

        def display(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, msg: Any = None, *args: Any, **kwargs: Any
        ) -> bool:  # as tqdm does, whatever its stub says
            state = (self.n, self.desc)
            if msg is not None or not self.n or state == self._written:
                return False
            self._written = state
            if self.metrics is not None:
                self.set_postfix(self.metrics(), refresh=False)
            if self.desc and not self.desc.endswith(": "):
                self.desc += ": "  # as set_description does, and tqdm's constructor does not
            known, unknown = "{percentage:.0f}% {n_fmt}/{total_fmt} ", "{n_fmt} batches "
            self.ncols = None  # a line may be as long as it is
            self.bar_format = "{desc}" + (known if self.total else unknown) + _TIMES
            self.fp.write(f"{self}\n")
            self.fp.flush()
            return True

        def begin(self, total: float | None, description: str, done: int) -> None:
            now = self._time()  # pyright: ignore[reportAttributeAccessIssue]
            if self.n and now - self.last_print_t >= EPOCH_LINE_SECONDS and self.refresh():
                self.last_print_t = now
            self.n = self.last_print_n = self.initial = done
            self.total = total
            self.start_t = now
            self.set_description(description, refresh=False)

        def close(self) -> None:
            if self.disable:
                return
            self.disable = True
            self._decr_instances(self)  # pyright: ignore[reportAttributeAccessIssue]
            if self.leave:
                self.display()

        def clear(self, *args: Any, **kwargs: Any) -> None:
            """Do nothing: a line that is written stays."""

        @classmethod
        def write(cls, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:
            print(s, file=file, end=end)

    return Lines

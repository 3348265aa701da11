"""Progress bars drawn by rich: `RichProgressBar`."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from leyden.handlers.loggers.ranks import is_rank_zero
from leyden.handlers.progress import ProgressBar

__all__ = ["RichProgressBar"]


class RichProgressBar(ProgressBar):
    """Draws the bars of `ProgressBar` with rich, all in one block.

    Where output is no terminal it writes the same plain lines.

    Args:
        refresh_rate: Batches between two looks at the clock; 0 switches the bars off.
        console: A ``rich.console.Console`` to draw on; by default one on the standard output.
        redraw_seconds: Least time between two redraws; one takes rich about half a millisecond.

    Raises:
        ModuleNotFoundError: If rich is not installed.
        ValueError: If ``refresh_rate`` is negative or ``redraw_seconds`` is not positive.
    """

    def __init__(
        self, refresh_rate: int = 1, console: Any = None, redraw_seconds: float = 0.2
    ) -> None:
        super().__init__(refresh_rate)
        if redraw_seconds <= 0:
            raise ValueError(f"redraw_seconds={redraw_seconds!r}: pass a number above 0")
        try:
            import rich  # noqa: F401  # looked for here, not in the middle of a run
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "RichProgressBar needs the package rich, which is not installed: pip install rich",
                name="rich",
            ) from error
        self._console = console
        self.redraw_seconds = redraw_seconds
        self._block: Any = None
        self._open: list[RichBar] = []

    def __getstate__(self) -> dict[str, Any]:
        # What is drawn stays in this process.
        return {**super().__getstate__(), "_console": None, "_block": None, "_open": []}

    def _make(self, description: str, *, below: bool = False, **kwargs: Any) -> Any:
        from rich.console import Console

        off = self.is_disabled or not is_rank_zero()
        console = self._console or Console()
        if off or not (console.is_terminal or console.is_jupyter):
            return super()._make(description, below=below, **kwargs)
        if self._block is None:
            self._block = _block(console)
            self._block.start()
        bar = RichBar(self, description, **kwargs)
        self._open.append(bar)
        return bar

    def closed(self, bar: "RichBar") -> None:
        """Take a bar out of the block; with the last one the block ends."""
        self._open.remove(bar)
        if not self._open:
            self._block.stop()
            self._block = None


class RichBar:
    """One line of the block; has what the progress bar needs of a tqdm.

    Args:
        owner: Whose block it stands in.
        description: What stands before the bar.
        initial: The count it begins with.
        leave: Whether its last state stays on the screen.
    """

    def __init__(
        self, owner: RichProgressBar, description: str, initial: float = 0, leave: bool = True
    ) -> None:
        self.n = initial
        self.total: float | None = None
        self.disable = False
        self.metrics: Callable[[], Mapping[str, Any]] | None = None
        self.mininterval = owner.redraw_seconds
        self.last_print_t = 0.0
        self._time = time.monotonic
        self._owner = owner
        self._block = owner._block
        self._leave = leave
        self._postfix = ""
        self._description = description
        self._task = self._block.add_task(description, total=None, completed=initial, metrics="")

    def update(self, n: float = 1) -> bool:
        """Count on; draw if it is time."""
        self.n += n
        if self.disable or self._time() - self.last_print_t < self.mininterval:
            return False
        self.refresh()
        return True

    def begin(self, total: float | None, description: str, done: int) -> None:
        """Begin again, for the next epoch; drawn when it is time."""
        self.n, self.total, self._description = done, total, description
        self._block.reset(
            self._task, description=description, total=total, completed=done, metrics=""
        )

    def reset(self, total: float | None = None) -> None:
        """Begin again at nought."""
        self.begin(total, self._description, 0)

    def refresh(self) -> None:
        """Draw now, with the metrics of now."""
        if self.metrics is not None:
            self.set_postfix(self.metrics(), refresh=False)
        total = None if self.total is None or math.isinf(self.total) else self.total
        self._block.update(self._task, completed=self.n, total=total, metrics=self._postfix)
        self._block.refresh()
        self.last_print_t = self._time()

    def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Set what stands before the bar."""
        self._description = desc or ""
        self._block.update(self._task, description=self._description)
        if refresh:
            self.refresh()

    def set_postfix(self, ordered_dict: Any = None, refresh: bool | None = True) -> None:
        """Set the metrics behind the bar."""
        values = dict(ordered_dict or {})
        self._postfix = ", ".join(f"{key}={_short(value)}" for key, value in values.items())
        if refresh:
            self._block.update(self._task, metrics=self._postfix)
            self._block.refresh()

    def write(self, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:
        """Print text above the block."""
        if file is None:
            self._block.console.print(s, end=end, markup=False, highlight=False)
        else:
            print(s, file=file, end=end)

    def close(self) -> None:
        """Draw a last time and leave."""
        if self.disable:
            return
        self.disable = True
        if self._leave:
            self.refresh()
        else:
            self._block.remove_task(self._task)
        self._owner.closed(self)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _block(console: Any) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    def whole() -> Column:
        return Column(no_wrap=True)

    # Where the metrics need more than a line they get several: the bar and the counts stay whole.
    # Without rich's own thread, which would draw, and so read tensors, beside the training.
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=whole()),
        BarColumn(20, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        TimeElapsedColumn(table_column=whole()),
        TimeRemainingColumn(table_column=whole()),
        TextColumn("{task.fields[metrics]}", markup=False, table_column=Column(ratio=1)),
        console=console,
        auto_refresh=False,
        expand=True,
    )

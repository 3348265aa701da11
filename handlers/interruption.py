"""Ctrl-C: finish the step, then stop; a second one stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from leyden.engine import Engine

__all__ = ["Interruption"]


class Interruption:
    """Turns the first SIGINT into a request that the engines honour at their next event.

    No work is done inside the signal handler but setting flags. The second SIGINT raises
    ``KeyboardInterrupt`` where the program is. Outside the main thread nothing is installed:
    signals never arrive there.

    Attributes:
        requested: whether a SIGINT came.
        forced: whether a second one came, which asks to stop without ceremony.
    """

    def __init__(self, *engines: Engine) -> None:
        self.engines = engines
        self.requested = False
        self.forced = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen within the block; the handler that was there before is back afterwards."""
        self.requested = self.forced = False
        before: Any = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        if not main or before is not signal.default_int_handler:
            # A program with a handler of its own keeps it: it may raise KeyboardInterrupt itself.
            yield
            return
        signal.signal(signal.SIGINT, self._flag)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _flag(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self.forced = True
            raise KeyboardInterrupt
        self.requested = True
        for engine in self.engines:
            engine.should_interrupt = True

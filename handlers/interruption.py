"""Ctrl-C, SIGTERM and SIGUSR1: finish the step, then stop; a second signal stops at once."""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from leyden.engine import Engine
from leyden.handlers.callback import Callback

__all__ = ["Interruption"]

_ENDING = tuple(
    number for name in ("SIGTERM", "SIGUSR1") if (number := getattr(signal, name, None)) is not None
)


class Interruption(Callback):
    """Turns the first signal into a request that the engines honour at their next event.

    A Trainer has one. Another among its callbacks takes its place, to give a step more time or
    less: ``Trainer(callbacks=[Interruption(grace=30)])``.

    No work is done inside the signal handler but setting flags. A second signal, or the end of
    the grace period, raises ``KeyboardInterrupt`` where the program is. Outside the main thread
    nothing is installed: signals never arrive there. A program with a handler of its own for one
    of the signals keeps it.

    Runs on: no event; the signals set the requests that engines look at themselves.

    State: none; a signal belongs to one process.

    Args:
        engines: those that are told; :meth:`attach` adds more.
        grace: seconds from SIGTERM or SIGUSR1 to the moment when the step is given up. Clusters
            send SIGKILL 30 seconds after SIGTERM (Kubernetes and SLURM by default), and the
            checkpoint has to be written by then.

    Attributes:
        together: several processes train: a signal is noted, and acts where all know of it.
        requested: whether a signal came and acts.
        forced: whether a second one came, which asks to stop without ceremony.
        number: the first signal; 0 if none came.
    """

    def __init__(self, *engines: Engine, grace: float = 20.0) -> None:
        super().__init__()
        if isinstance(grace, bool) or not isinstance(grace, (int, float)):
            raise TypeError(f"grace={grace!r} is no number: pass seconds, such as 20.0")
        if not 0 < grace <= threading.TIMEOUT_MAX:
            raise ValueError(
                f"grace={grace!r} is not above 0 and finite: pass the seconds that a step may take "
                "after SIGTERM"
            )
        self.engines = engines
        self.grace = grace
        self.together = False
        self.requested = False
        self.forced = False
        self.number = 0
        self._clock: threading.Timer | None = None

    def attach(self, engine: Engine) -> None:
        """Tell this engine too."""
        self.make_ready(engine)
        if engine not in self.engines:
            self.engines = (*self.engines, engine)

    def detach(self) -> None:
        """Tell no engine any more."""
        self.engines = ()

    @property
    def attached(self) -> bool:
        """Whether an engine is told."""
        return bool(self.engines)

    @property
    def exit_code(self) -> int:
        """What a shell says of a process that such a signal ended: 143, 130; 0 if none came."""
        return 128 + self.number if self.number else 0

    @property
    def ends_process(self) -> bool:
        """Whether the process is to end after the run: not after Ctrl-C, as in Lightning 1.1."""
        return self.number in _ENDING

    @contextmanager
    def listening(self, *, ending: bool = False) -> Iterator[None]:
        """Listen within the block; the handlers that were there before are back afterwards.

        Args:
            ending: listen to SIGTERM and SIGUSR1 too.
        """
        self.requested = self.forced = False
        self.number = 0
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            wanted: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
            if ending:
                wanted.update(dict.fromkeys(_ENDING, signal.SIG_DFL))
            for number, untouched in wanted.items():
                if signal.getsignal(number) is untouched:
                    before[number] = signal.signal(number, self._flag)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

    def _flag(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            self.forced = True
            raise KeyboardInterrupt
        self.number = number
        if not self.together:
            self.act(number)
        if number in _ENDING:
            # As this signal, not as SIGINT, which a job in the background ignores.
            self._clock = threading.Timer(self.grace, _thread.interrupt_main, (number,))
            self._clock.daemon = True
            self._clock.start()

    def act(self, number: int) -> None:
        """Let the engines stop at their next event, for this signal."""
        self.requested = True
        self.number = self.number or number
        for engine in self.engines:
            engine.should_interrupt = True

    def out_of_danger(self) -> None:
        """The step is done: what follows is not given up when the grace period ends."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

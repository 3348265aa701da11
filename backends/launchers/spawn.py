"""Start processes that get the objects of this one: ``ddp_spawn`` and ``ddp_cpu``.

What they get is pickled by value (cloudpickle): classes of a notebook or of the script itself
arrive, the script is not run again, and no process shares the memory of another's weights. They
are never forked from this process: a fork after a parallel matrix product hangs in the next one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from types import FrameType, ModuleType
from typing import Any

from leyden.backends.environments import Environment, variables_of
from leyden.backends.launchers.ranks import RemoteTraceback, serve
from leyden.engine.errors import MisconfigurationException

__all__ = ["ProcessLauncher", "RankEnded", "pickler"]

#: What the server of processes imports once, for all that it starts.
PRELOADED = ("torch", "torch.distributed", "torch._dynamo", "leyden.launching", "leyden.trainer")
#: Seconds that the other ranks get to end by themselves after one failed.
GRACE = 10.0
_CLOSING = 5.0  # seconds for a process that has answered to close what it has open
_RELAYED = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if (number := getattr(signal, name, None)) is not None
)


class RankEnded(RuntimeError):
    """A process of the run ended without a word, or with an error that cannot be sent."""


def pickler() -> Any:
    """The package that pickles by value.

    Raises:
        MisconfigurationException: it is not installed.
    """
    try:
        import cloudpickle
    except ImportError:
        raise MisconfigurationException(
            "ddp_spawn and ddp_cpu send the model to other processes, which needs cloudpickle: "
            "pip install leyden[launch], or start the script with torchrun"
        ) from None
    return cloudpickle


class ProcessLauncher:
    """Calls a function in several new processes of this machine, and returns what each returned.

    Args:
        count: how many processes.
        grace: seconds that the others get to end after one failed.
        method: of multiprocessing; None: a server that forks, where there is one.
    """

    def __init__(self, count: int, *, grace: float = GRACE, method: str | None = None) -> None:
        self.count = count
        self.grace = grace
        self.method = method or _method()

    def run(self, payload: bytes) -> list[bytes]:
        """Start the processes, have each do what it gets, wait for all; none is left afterwards.

        Args:
            payload: a pickled function and its arguments; it returns bytes.

        Raises:
            BaseException: what the first process that failed raised, with its traceback as the
                cause.
            RankEnded: where that cannot be sent, or a process was killed.
        """
        folder = tempfile.mkdtemp(prefix="leyden-")
        group = _Group(self.count, folder, self.grace, self.method)
        try:
            with open(os.path.join(folder, "payload"), "wb") as file:
                file.write(payload)
            with group.relaying():
                group.start()
                return group.results()
        finally:
            group.kill()
            shutil.rmtree(folder, ignore_errors=True)


class _Group:
    """The processes of one launch."""

    def __init__(self, count: int, folder: str, grace: float, method: str) -> None:
        self.count = count
        self.folder = folder
        self.grace = grace
        self.method = method
        self.processes: list[Any] = []
        self.connections: dict[int, Connection] = {}
        self.numbers: list[int] = []  # signals that came
        self.answered = False

    def start(self) -> None:
        context: Any = multiprocessing.get_context(self.method)
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(list(PRELOADED))
        meeting = f"file://{os.path.join(self.folder, 'meet')}"
        with _no_main():
            for rank in range(self.count):
                place = Environment("leyden", rank, rank, 0, self.count, 1, meeting)
                ours, theirs = context.Pipe()
                variables = {**os.environ, **variables_of(place)}
                process = context.Process(
                    target=serve,
                    args=(os.path.join(self.folder, "payload"), variables, self.count, theirs),
                    name=f"leyden-rank-{rank}",
                )
                try:
                    process.start()
                except (EOFError, OSError) as error:
                    self._explain_start(error)
                    raise
                theirs.close()
                self.processes.append(process)
                missed = list(self.numbers)
                self.connections[rank] = ours
                for number in missed:
                    ours.send_bytes(str(number).encode())

    def _explain_start(self, error: Exception) -> None:
        """Raise what it means that a process cannot be started, where that is known."""
        # Ctrl-C in a terminal also reaches the server of processes, which dies of it as long as it
        # imports.
        if signal.SIGINT in self.numbers:
            raise KeyboardInterrupt from error
        if self.numbers:
            raise SystemExit(128 + self.numbers[0]) from error
        if isinstance(error, EOFError):
            raise RankEnded(
                "the server that starts processes ended before it had started them; what it "
                "printed is above. If it was killed, memory may have run out: use fewer processes"
            ) from error

    def results(self) -> list[bytes]:
        """What each process answered; the first error of one ends all."""
        found: dict[int, bytes] = {}
        failed: BaseException | None = None
        until = float("inf")
        waiting = dict(self.connections)
        while waiting and time.monotonic() < until:
            try:
                ready = wait(list(waiting.values()), min(until - time.monotonic(), 1.0))
            except KeyboardInterrupt:
                if len(self.numbers) < 3:  # of a handler that is not ours
                    self.signal(signal.SIGINT)
                    continue
                raise
            for rank in [rank for rank, end in waiting.items() if end in ready]:
                fine, value = self._answer(rank, waiting.pop(rank))
                if fine:
                    found[rank] = value
                elif failed is None or (_of_another(failed) and not _of_another(value)):
                    failed, until = value, time.monotonic() + self.grace
        self.answered = not waiting
        if failed is not None:
            raise failed
        return [found[rank] for rank in range(self.count)]

    def _answer(self, rank: int, connection: Connection) -> tuple[bool, Any]:
        try:
            kind, value, trace = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            process = self.processes[rank]
            process.join(5)
            return False, RankEnded(f"the process of rank {rank} {_how(process.exitcode)}")
        if kind == "returned":
            with open(value, "rb") as file:
                return True, file.read()
        try:
            error = pickle.loads(value) if value else None
        except Exception:  # whatever a user's class does when it is rebuilt
            error = None
        if not isinstance(error, BaseException):
            lines = trace.strip().splitlines()
            error = RankEnded(f"rank {rank} raised {lines[-1] if lines else 'an error'}")
        error.__cause__ = RemoteTraceback(rank, trace)
        return False, error

    # ------------------------------------------------------------------ signals, end

    @contextlib.contextmanager
    def relaying(self) -> Iterator[None]:
        """Pass signals on: the processes finish their step, save and end, as one would."""
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in _RELAYED:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    before[number] = signal.signal(number, self._relay)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _relay(self, number: int, frame: FrameType | None) -> None:
        self.signal(number)

    def signal(self, number: int) -> None:
        """Have a signal arrive in every process; the third one ends them at once."""
        self.numbers.append(int(number))
        if len(self.numbers) > 2:
            raise KeyboardInterrupt
        for connection in self.connections.values():
            with contextlib.suppress(OSError):  # it has ended
                connection.send_bytes(str(int(number)).encode())

    def kill(self) -> None:
        """End what still runs, and wait for its end."""
        until = time.monotonic() + (_CLOSING if len(self.numbers) < 3 and self.answered else 0)
        for process in self.processes:
            process.join(max(until - time.monotonic(), 0))
            if process.exitcode is None:
                process.kill()
        for process in self.processes:
            process.join()
            process.close()
        for connection in self.connections.values():
            connection.close()
        self.processes, self.connections = [], {}


def _method() -> str:
    """A server forks fast, and has run nothing that a fork would break; Windows has none."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Have new processes not run the script: what they need of it comes by value."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _of_another(error: BaseException) -> bool:
    """Whether a rank only says that another one failed; what that one says is better."""
    return hasattr(error, "ranks")


def _how(code: int | None) -> str:
    if code is None:
        return "closed its connection and did not end"
    if code == -signal.SIGKILL:
        return (
            "was killed (SIGKILL): by hand, or by the system because memory ran out; use fewer "
            "processes, or smaller batches"
        )
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code} before it had an answer; what it printed is above"

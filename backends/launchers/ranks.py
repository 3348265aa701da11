"""What runs in a process that :class:`ProcessLauncher` started."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from leyden.backends.launchers.lifeline import share_threads

__all__ = ["RemoteTraceback", "serve"]


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised in another process."""

    def __init__(self, rank: int, trace: str) -> None:
        super().__init__(rank, trace)
        self.rank = rank
        self.trace = trace

    def __str__(self) -> str:
        return f'\n"""\nin the process of rank {self.rank}:\n{self.trace}"""'


def serve(path: str, variables: Mapping[str, str], count: int, connection: Connection) -> None:
    """Do what the payload says, and answer with what it returned or raised."""
    if hasattr(os, "setpgid"):
        # A terminal sends Ctrl-C to its whole group; it comes once, from the parent.
        os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(variables)
    share_threads(count)
    # Loader workers start as in any process. Otherwise how this one was started is handed down:
    # each worker would import torch anew, and get the data set by pickling.
    multiprocessing.set_start_method(None, force=True)
    parent = threading.Thread(target=_listen, args=(connection,), name="leyden-parent", daemon=True)
    try:
        parent.start()  # a signal may be waiting
        with open(path, "rb") as file:
            function, args = pickle.load(file)
        value = function(*args)
        result = f"{path}.{os.environ['RANK']}"
        with open(result, "wb") as file:
            file.write(value)
        answer: tuple[str, Any, str] = ("returned", result, "")
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: the parent ends so
        trace = "".join(traceback.format_exception(error))
        answer = ("raised", _pickled(error), trace)
    with contextlib.suppress(OSError):  # nobody is there to hear it
        connection.send_bytes(pickle.dumps(answer))
    # What is left to close is closed now; what waits for other ranks meanwhile, the parent kills.


def _listen(connection: Connection) -> None:
    """Let signals arrive that the parent got; end when it is gone."""
    while True:
        try:
            number = int(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)
        os.kill(os.getpid(), number)


def _pickled(error: BaseException) -> bytes:
    """The error with what it holds, by value; nothing where that cannot be sent."""
    import cloudpickle

    error.__traceback__ = None
    try:
        sent: bytes = cloudpickle.dumps(error)
        pickle.loads(sent)
    except Exception:  # whatever a user's class does when it is copied
        return b""
    return sent

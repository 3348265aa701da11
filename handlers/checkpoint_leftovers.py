"""Unfinished files: what they are called, and which of them nobody writes any more.

The name says who writes: a process, and where it runs. Of a process of this machine it is known
whether it lives; its files go at once when it does not. The files of others (another machine on the
same disk, another container) go when they are a minute old and nobody holds their lock.
"""

import contextlib
import hashlib
import os
import platform
import secrets
import time
from functools import cache
from pathlib import Path
from typing import IO

__all__ = ["hold", "remove_leftovers", "unfinished_name"]

# A fixed short name, not one made from the target's: that may already fill the 255 bytes there are.
_PREFIX = ".leyden-"
_SUFFIX = ".part"
# Younger files of others are left alone: their writer may not hold the lock yet.
_AGE = 60.0  # seconds


def unfinished_name() -> str:
    """Give a new file of this process a name."""
    return f"{_PREFIX}{_place()}-{os.getpid():x}-{_begun('self')}-{secrets.token_hex(4)}{_SUFFIX}"


def hold(file: IO[bytes]) -> None:
    """Hold the file while it is written, as far as the file system knows locks."""
    with contextlib.suppress(ImportError, OSError):  # Windows; file systems without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_leftovers(directory: str) -> None:
    """Remove the unfinished files of writers that were killed; those of living ones stay."""
    try:
        import fcntl
    except ImportError:
        return
    with os.scandir(directory) as entries:
        paths = [
            entry.path
            for entry in entries
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX)
        ]
    for path in paths:
        lives = _writer_lives(os.path.basename(path))
        with contextlib.suppress(OSError):  # its writer is alive, or somebody else removed it
            if lives or (lives is None and time.time() - os.stat(path).st_mtime < _AGE):
                continue
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)


def _writer_lives(name: str) -> bool | None:
    """Whether the process that a name tells of is there; None: nobody here knows."""
    parts = name.removeprefix(_PREFIX).removesuffix(_SUFFIX).split("-")
    if len(parts) != 4 or parts[0] != _place():
        return None
    try:
        process = int(parts[1], 16)
    except ValueError:
        return None
    begun = _begun(str(process))
    # The number may be that of another process by now, which began later.
    return begun != "" and begun == parts[2]


@cache
def _place() -> str:
    """Where numbers of processes mean the same: this machine since it started, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        text = boot + os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux: nothing says when a process began, so nobody is known to be dead
        text = f"{platform.node()} {os.getpid()} {time.time_ns()}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _begun(process: str) -> str:
    """When a process began, in the clock ticks of the system; empty: there is none, or no more."""
    try:
        # The command in brackets may hold anything, brackets too.
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else f"{int(fields[18]):x}"

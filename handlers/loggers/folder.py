"""Loggers that write files into a folder of each run, on this machine or elsewhere."""

import contextlib
import os
import re
import shutil
import tempfile
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from leyden.handlers.checkpoint_archive import filesystem_of
from leyden.handlers.checkpoint_names import is_remote, join
from leyden.handlers.loggers.base import LightningLoggerBase, version_folder

__all__ = ["FolderLogger", "Mirror", "checked_folder", "next_version"]


class FolderLogger(LightningLoggerBase):
    """Writes below ``save_dir/name/version``.

    ``save_dir`` may be an address that fsspec knows, such as ``s3://bucket/runs``. No such store
    lets a file be appended to, so the files are written to a temporary folder here, and `save`,
    `finalize`, `close` and each checkpoint copy those that have changed. Copying takes a twentieth
    of the time at most: where it is slow, `save` leaves it out now and then.

    Args:
        save_dir: The folder for all experiments.
        name: The experiment's folder; None or empty for none.
        version: Text, taken as it is, or a number N for ``version_N``; None takes the next free
            number when it is first asked for.
        prefix: Put before each metric's name, with a ``-``.

    Raises:
        TypeError: If ``save_dir`` is no path.
        ModuleNotFoundError: If it is an address and fsspec is not installed.
    """

    NAME_HPARAMS_FILE = "hparams.yaml"
    LOGGER_JOIN_CHAR = "-"

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None,
        version: int | str | None,
        prefix: str,
    ) -> None:
        super().__init__()
        self._save_dir = checked_folder(save_dir, type(self).__name__)
        self._name = name or ""
        self._version = version
        self._prefix = prefix
        self._mirror: Mirror | None = None

    @property
    def root_dir(self) -> str:
        """The folder of the experiment, which holds one folder for each version."""
        return join(self._save_dir, self._name) if self._name else self._save_dir

    @property
    def log_dir(self) -> str:
        """The folder of this run."""
        return join(self.root_dir, version_folder(self.version))

    @property
    def save_dir(self) -> str:
        """The folder for all experiments."""
        return self._save_dir

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._name

    @property
    def version(self) -> int | str:
        """The version given, or the next free number, fixed when it is first asked for."""
        if self._version is None:
            self._version = next_version(self.root_dir)
        return self._version

    @property
    @abstractmethod
    def experiment(self) -> Any:
        """What writes the files; it is made with the folder `_folder`."""

    def _folder(self, *earlier: str) -> str:
        """Return the folder to write to: that of this run, or the temporary one.

        Args:
            earlier: Files that an earlier process may have left, and that are wanted here.
        """
        if not is_remote(self._save_dir):
            return self.log_dir
        if self._mirror is None:
            self._mirror = Mirror(self.log_dir)
            for name in earlier:
                self._mirror.pull(name)
        return self._mirror.folder

    def _deliver(self, *, force: bool = False) -> None:
        """Copy what has changed to where it belongs, if that is elsewhere."""
        if self._mirror is not None:
            self._mirror.push(force=force)

    def state_dict(self) -> dict[str, Any]:
        """Deliver what there is: whoever goes on from the checkpoint wants to find it."""
        with contextlib.suppress(Exception):  # the next save tries again, and says what is wrong
            self._deliver(force=True)
        return {}

    def __getstate__(self) -> dict[str, Any]:
        # A temporary folder cannot travel, nor what writes to it; another process begins its own.
        if self._mirror is None:
            return dict(self.__dict__)
        return {**self.__dict__, "_mirror": None, "_experiment": None}


class Mirror:
    """A temporary folder here that is copied to a remote one; it goes with this object.

    Args:
        remote: The remote folder, as an address.
        clock: What tells the time in seconds.

    Attributes:
        folder: The folder here.
    """

    #: Least time from one copy to the next, in times that the last one took.
    PAUSE = 20

    def __init__(self, remote: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._filesystem, self._remote = filesystem_of(remote)
        self.folder = tempfile.mkdtemp(prefix="leyden-logs-")
        self._release = weakref.finalize(self, _remove, self.folder, os.getpid())
        self._sent: dict[str, tuple[int, int]] = {}
        self._clock = clock
        self._next = 0.0

    def pull(self, name: str) -> None:
        """Fetch a file if it is there."""
        target = os.path.join(self.folder, name)
        with contextlib.suppress(FileNotFoundError):
            data = self._filesystem.cat_file(f"{self._remote}/{name}")
            with open(target, "wb") as file:
                file.write(data)
            self._sent[name] = _stamp(target)

    def push(self, *, force: bool = False) -> None:
        """Copy the files that have changed, and remove those that are gone.

        Args:
            force: Copy even if the last copy was just now.
        """
        started = self._clock()
        if not force and started < self._next:
            return
        found = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                found[os.path.relpath(path, self.folder).replace(os.sep, "/")] = path
        for name, path in found.items():
            stamp = _stamp(path)
            if self._sent.get(name) != stamp:
                target = f"{self._remote}/{name}"
                with contextlib.suppress(NotImplementedError):  # object stores have no folders
                    self._filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._filesystem.put_file(path, target)
                self._sent[name] = stamp
        for name in self._sent.keys() - found.keys():
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(f"{self._remote}/{name}")
            del self._sent[name]
        ended = self._clock()
        self._next = ended + self.PAUSE * (ended - started)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not a fork of it that ends
        shutil.rmtree(folder, ignore_errors=True)


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def next_version(folder: str) -> int:
    """Return one more than the highest N of the ``version_N`` folders in ``folder``; else 0."""
    taken = [-1]
    for name in _folders(folder):
        match = re.fullmatch(r"version_(\d+)", name)
        if match:
            taken.append(int(match[1]))
    return max(taken) + 1


def _folders(folder: str) -> list[str]:
    if not is_remote(folder):
        if not os.path.isdir(folder):
            return []
        return [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    filesystem, path = filesystem_of(folder)
    filesystem.invalidate_cache()
    try:
        entries = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return [
        entry["name"].rstrip("/").rpartition("/")[2]
        for entry in entries
        if entry["type"] == "directory"
    ]


def checked_folder(save_dir: str | os.PathLike[str], who: str, *, local: str = "") -> str:
    """Return the folder that a logger is given, as text.

    Args:
        save_dir: What was given.
        who: The logger's name, for messages.
        local: What to do in place of an address, where the folder has to be on this machine.

    Raises:
        TypeError: If it is no path.
        ValueError: If it is an address and must not be one.
        ModuleNotFoundError: If it is an address and fsspec is not installed.
    """
    try:
        folder = os.fspath(save_dir)
    except TypeError:
        raise TypeError(
            f"{who}(save_dir={save_dir!r}) is of type {type(save_dir).__name__}: "
            "pass the folder below which logs are written, as text or a path"
        ) from None
    if is_remote(folder):
        if local:
            raise ValueError(
                f"{who}(save_dir={folder!r}) is an address, and its files have to be on this "
                f"machine: {local}"
            )
        filesystem_of(folder)  # a missing package is told here, not in the first epoch
    return folder

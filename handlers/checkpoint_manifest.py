"""Which checkpoint files a run owns: the record that retention and resuming go by.

``manifest.jsonl`` beside the checkpoints, one JSON object a line, only ever appended to. A run
deletes nothing that its record does not name.
"""

import contextlib
import json
import os
import posixpath
import time
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

from leyden.handlers.checkpoint_archive import DamagedCheckpoint, filesystem_of, verify
from leyden.handlers.checkpoint_names import is_remote

__all__ = ["Manifest", "NotOwned"]


class NotOwned(RuntimeError):
    """The file is not this run's to delete."""


class Manifest:
    """The record of the checkpoints in one directory.

    Call :meth:`claim` before a file is written and :meth:`add` when it is durable: if the process
    dies between the two, the file is still known to be this run's.

    Args:
        dirpath: The directory; made when the first line is written.
        run_id: The run that owns what is added. A resumed run passes the id that it had. New by
            default.
    """

    FILE = "manifest.jsonl"

    def __init__(self, dirpath: str | os.PathLike[str], *, run_id: str | None = None) -> None:
        self._remote = is_remote(dirpath)
        text = os.fspath(dirpath)
        self.dirpath = text.rstrip("/") if self._remote else os.path.abspath(text)
        self.run_id = run_id if run_id is not None else uuid.uuid4().hex
        self.path = self._full(self.FILE)

    def claim(self, path: str | os.PathLike[str]) -> None:
        """Say that this run is about to write ``path``; a file that is there already is not its."""
        name = self._name(path)
        if name not in self._state()[0]:
            self._append("claim", name, existed=self._exists(self._full(name)))

    def add(self, path: str | os.PathLike[str], **facts: Any) -> None:
        """Say that ``path`` is written and durable; ``facts`` (epoch, step, score) are kept."""
        self._append("add", self._name(path), **facts)

    def owned(self) -> list[str]:
        """List this run's files that exist, oldest first."""
        return [path for path in map(self._full, self._state()[0]) if self._exists(path)]

    def facts(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return what :meth:`add` kept about ``path``, of whichever run."""
        return self._state(every_run=True)[0].get(self._name(path)) or {}

    def delete(self, path: str | os.PathLike[str]) -> None:
        """Delete one of this run's files. One that is gone already is no error.

        Raises:
            NotOwned: This run did not write it.
        """
        name = self._name(path)
        if name not in self._state()[0]:
            raise NotOwned(
                f"{str(path)!r} is not a checkpoint of this run (run {self.run_id}), and so it is "
                f"not deleted: {self.path} does not name it"
            )
        with contextlib.suppress(FileNotFoundError):
            if self._remote:
                filesystem, key = filesystem_of(self._full(name))
                filesystem.rm_file(key)
            else:
                os.unlink(self._full(name))
        self._append("delete", name)

    def newest_valid(self, *, any_run: bool = False) -> str | None:
        """Return the newest checkpoint that verifies, or None.

        Damaged ones are skipped, each with a warning.

        Args:
            any_run: Look at the files of all runs in the directory.
        """
        names, order = self._state(every_run=any_run)
        for name in sorted(names, key=order.__getitem__, reverse=True):
            path = self._full(name)
            try:
                verify(path)
            except FileNotFoundError:
                continue
            except (DamagedCheckpoint, OSError) as error:
                warnings.warn(f"skipped: {error}", stacklevel=2)
                continue
            return path
        return None

    # ----------------------------------------------------------------------------------- private

    def _state(self, *, every_run: bool = False) -> tuple[dict[str, Any], dict[str, int]]:
        """Return the facts of each file that is owned, and when it was last written."""
        files: dict[str, Any] = {}
        order: dict[str, int] = {}
        for number, line in enumerate(self._lines()):
            if not every_run and line["run"] != self.run_id:
                # Whoever writes a file last has it.
                if line["op"] == "add":
                    files.pop(line["path"], None)
                continue
            name = line["path"]
            if line["op"] == "add" or (line["op"] == "claim" and not line.get("existed")):
                files[name] = line.get("facts", {})
                order[name] = number
            elif line["op"] == "delete":
                files.pop(name, None)
        return files, order

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self._read().splitlines():
            # The last line of a process that was killed may be half there.
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and {"op", "run", "path"} <= found.keys():
                    yield found

    def _read(self) -> bytes:
        try:
            if self._remote:
                filesystem, key = filesystem_of(self.path)
                return bytes(filesystem.cat_file(key))
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def _append(self, op: str, name: str, *, existed: bool | None = None, **facts: Any) -> None:
        line: dict[str, Any] = {"op": op, "run": self.run_id, "path": name, "time": time.time()}
        if existed is not None:
            line["existed"] = existed
        if facts:
            line["facts"] = facts
        data = (json.dumps(line, default=str) + "\n").encode()
        if self._remote:  # object stores cannot append
            filesystem, key = filesystem_of(self.path)
            filesystem.pipe_file(key, self._read() + data)
            return
        os.makedirs(self.dirpath, exist_ok=True)
        # Unbuffered, one write: two processes that append do not tear each other's lines.
        with open(self.path, "ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # somebody died in the middle of a line
                    data = b"\n" + data
            file.write(data)
            os.fsync(file.fileno())

    def _name(self, path: str | os.PathLike[str]) -> str:
        """Return the path below the directory, or refuse."""
        if self._remote:
            text = os.fspath(path)
            name = text.removeprefix(f"{self.dirpath}/")
            if is_remote(name) or posixpath.normpath(name).startswith(("..", "/")):
                raise NotOwned(f"{text!r} is not below {self.dirpath!r}: no file of this run is")
            return posixpath.normpath(name)
        # The directory a link leads to, but the file itself may be a link: that is what is deleted.
        full = os.path.join(self.dirpath, os.fspath(path))
        parent, base = os.path.split(os.path.normpath(full))
        root = os.path.realpath(self.dirpath)
        real = os.path.join(os.path.realpath(parent), base)
        if real == root or os.path.commonpath([real, root]) != root:
            raise NotOwned(f"{str(path)!r} is not below {self.dirpath!r}: no file of this run is")
        name = os.path.relpath(real, root)
        if name == self.FILE:
            raise NotOwned(f"{str(path)!r} is the record itself, not a checkpoint")
        return name

    def _full(self, name: str) -> str:
        return f"{self.dirpath}/{name}" if self._remote else os.path.join(self.dirpath, name)

    def _exists(self, path: str) -> bool:
        if self._remote:
            filesystem, key = filesystem_of(path)
            return bool(filesystem.exists(key))
        return os.path.lexists(path)

"""What is done to checkpoint files beside reading and writing them; remote paths included."""

import contextlib
import os
import shutil

from leyden.handlers.checkpoint_archive import filesystem_of
from leyden.handlers.checkpoint_folder import is_folder
from leyden.handlers.checkpoint_names import is_remote

__all__ = ["exists", "make_directory", "remove", "write_text"]


def exists(path: str) -> bool:
    """Whether there is a file of this name."""
    if is_remote(path):
        filesystem, name = filesystem_of(path)
        return bool(filesystem.exists(name))
    return os.path.exists(path)


def remove(path: str) -> None:
    """Remove a checkpoint, file or directory; one that is gone already is fine."""
    if is_remote(path):
        filesystem, name = filesystem_of(path)
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(name)
        return
    if is_folder(path):
        shutil.rmtree(path)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def make_directory(path: str) -> None:
    """Make a directory and those above it; object stores have none."""
    if is_remote(path):
        filesystem, name = filesystem_of(path)
        with contextlib.suppress(NotImplementedError):
            filesystem.makedirs(name, exist_ok=True)
        return
    os.makedirs(path, exist_ok=True)


def write_text(path: str, text: str) -> None:
    """Write a small text file."""
    if is_remote(path):
        filesystem, name = filesystem_of(path)
        filesystem.pipe_file(name, text.encode())
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)

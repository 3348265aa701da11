"""Tensors that many processes write into one directory, each its part: torch's distributed files.

The format is that of ``torch.distributed.checkpoint``, whose index is a pickle; it is read here by
an unpickler that knows the few classes an index is made of, so that a directory runs no code. The
directory appears under its name when all of it is on the disk.
"""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

__all__ = [
    "checksums",
    "is_sharded",
    "is_spread",
    "put_in_place",
    "read",
    "shapes",
    "verify",
    "write",
]

_INDEX = ".metadata"
_PART = ".part"
_METADATA = "torch.distributed.checkpoint.metadata"
_KNOWN = {
    (_METADATA, name)
    for name in (
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}


class _Index(pickle.Unpickler):
    """Reads an index, and nothing that is not one."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"the index names {module}.{name}, which no index needs: it was not read"
            )
        if module.startswith("pathlib"):
            return Path  # one written on another system
        return super().find_class(module, name)


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is such a directory."""
    return os.path.isfile(os.path.join(os.fspath(path), _INDEX))


def is_spread(value: object) -> bool:
    """Whether a value is this process's part of a tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def write(tensors: Mapping[str, Any], folder: str | os.PathLike[str], group: Any = None) -> str:
    """Write tensors, the part of this process; every process of the group calls it.

    Args:
        tensors: by name; DTensors are written by who holds a part, plain tensors once.
        folder: the name that the directory will have; :func:`put_in_place` gives it to it.
        group: the processes; None: all there are, or this one alone.

    Returns:
        The directory that was written beside it.
    """
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict_saver import save

    part = os.fspath(folder) + _PART
    alone = not dist.is_initialized()
    if alone or dist.get_rank(group) == 0:
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
    if not alone:
        dist.barrier(group)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to save")
        # torch's own use of its deprecated storages.
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")
        save(dict(tensors), checkpoint_id=part, process_group=group)
    return part


def checksums(folder: str | os.PathLike[str]) -> dict[str, list[int]]:
    """Return size and CRC-32 of every file of a directory that :func:`write` wrote."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if name == _INDEX or name.endswith(".distcp"):
            found[name] = _checksum(os.path.join(os.fspath(folder), name))
    return found


def _checksum(path: str) -> list[int]:
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def put_in_place(part: str | os.PathLike[str]) -> None:
    """Give a whole directory its name; called by one process when all have written."""
    part = os.fspath(part)
    folder, old = part.removesuffix(_PART), part.removesuffix(_PART) + ".old" + _PART
    for name in os.listdir(part):
        _sync(os.path.join(part, name))
    _sync(part)
    shutil.rmtree(old, ignore_errors=True)
    if os.path.isdir(folder):
        os.replace(folder, old)
    elif os.path.exists(folder):
        os.remove(folder)
    os.replace(part, folder)
    _sync(os.path.dirname(os.path.abspath(folder)))
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(folder: str | os.PathLike[str], known: Mapping[str, Any]) -> str:
    """Compare a directory with the checksums of its files; "" where all is as written.

    Returns:
        What is wrong, in words.
    """
    for name, (size, crc) in known.items():
        path = os.path.join(os.fspath(folder), os.path.basename(name))
        if not os.path.isfile(path):
            return f"{name} is missing"
        found = _checksum(path)
        if found != [size, crc]:
            return f"{name} is not what was written"
    return ""


def _reader(folder: str | os.PathLike[str]) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import StorageMeta

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            path = os.path.join(os.fspath(folder), _INDEX)
            with open(path, "rb") as file:
                found = _load_index(file)
            if found.storage_meta is None:
                found.storage_meta = StorageMeta()
            found.storage_meta.load_id = self.load_id
            return found

    return Reader(folder)


def _load_index(file: IO[bytes]) -> Any:
    found: Any = _Index(file).load()
    for info in found.storage_data.values():
        name = str(info.relative_path)
        if os.path.basename(name) != name:
            raise pickle.UnpicklingError(f"the index names {name!r}, which is not a file beside it")
    return found


def shapes(folder: str | os.PathLike[str]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the shape and type of every tensor in a directory, by name."""
    found = _reader(folder).read_metadata().state_dict_metadata
    return {name: (entry.size, entry.properties.dtype) for name, entry in found.items()}


def read(
    folder: str | os.PathLike[str], into: Mapping[str, Any] | None = None, group: Any = None
) -> dict[str, Any]:
    """Read tensors; each process reads what its part needs.

    Args:
        folder: the directory.
        into: tensors to fill, by name, spread as they shall be, over as many processes as there are
            now; names that are missing are read whole.
        group: the processes; None: all there are, or this one alone.

    Returns:
        All tensors of the directory.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    into = into or {}
    found: dict[str, Any] = {}
    for name, (size, dtype) in shapes(folder).items():
        given = into.get(name)
        fits = isinstance(given, Tensor) and given.shape == size and given.dtype == dtype
        found[name] = given if fits else torch.empty(size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to load")
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")
        load(found, storage_reader=_reader(folder), process_group=group)
    return found

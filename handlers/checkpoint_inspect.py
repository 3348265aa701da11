"""Look into a checkpoint without torch: its keys, its tensors, and what wrote it.

Only the standard library is imported here. The pickle inside the file is read by a reader that
knows no classes: whatever the file names becomes a :class:`Unknown`, and nothing of it runs.
"""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["TensorInfo", "Unknown", "inspect", "peek"]

_DTYPES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
}
_VERSION_KEYS = ("leyden_version", "pytorch-lightning_version")


class TensorInfo:
    """What is known of a tensor without its values.

    Attributes:
        shape: Its sizes.
        dtype: Name of its number type.
        nbytes: Bytes of its values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, size: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self.numel = 1
        for length in shape:
            self.numel *= length
        self.nbytes = self.numel * size

    def __repr__(self) -> str:
        return f"tensor({'x'.join(map(str, self.shape)) or 'scalar'}, {self.dtype})"


class Unknown:
    """Stands for an object of anything that the file names and that is no plain data."""

    name = "?"

    def __new__(cls, *args: Any, **kwargs: Any) -> "Unknown":  # pickle calls no __init__
        made = super().__new__(cls)
        made.items = []
        return made

    items: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take whatever the class would."""

    # What a pickle may do to an object it made: set its state, fill it.

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Take an element."""
        self.items.append(value)

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _name(full: str) -> type[Unknown]:
    """Make what a name in the file becomes: a class, for pickle insists on one, that is inert."""
    return type(full.rpartition(".")[2], (Unknown,), {"name": full})


def _file_of(path: str | os.PathLike[str]) -> str:
    """The file that holds all but the tensors, where a checkpoint is a directory."""
    name = os.fspath(path)
    return os.path.join(name, "leyden.ckpt") if os.path.isdir(name) else name


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe the checkpoint at ``path``.

    Returns:
        ``file`` (path, bytes, records, damaged: the first record with a wrong checksum or None),
        ``keys`` (of the top level, each with a word of what it holds), ``values`` (plain ones of
        the top level), ``versions``, ``tensors`` (full name -> :class:`TensorInfo`),
        ``parameters`` (numbers in ``state_dict``) and ``names`` (what the file names beyond data).

    Raises:
        ValueError: It is no zip archive of torch's, with the reason.
        OSError: It cannot be read.
    """
    path = _file_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            main = next((name for name in names if name.endswith("/data.pkl")), None)
            if main is None:
                raise ValueError(f"{str(path)!r} is a zip, but holds no data.pkl: no checkpoint")
            content = archive.read(main) if damaged != main else None
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be looked into ({error}): it is damaged, or from before "
            "torch 1.6"
        ) from error
    result: dict[str, Any] = {
        "file": {
            "path": os.fspath(path),
            "bytes": os.path.getsize(path),
            "records": len(names),
            "damaged": damaged,
        },
        "keys": {},
        "values": {},
        "versions": {},
        "tensors": {},
        "parameters": 0,
        "names": [],
    }
    if content is None:
        return result
    reader = _Reader(io.BytesIO(content))
    try:
        found = reader.load()
    except Exception as error:  # a pickle may fail in any way
        raise ValueError(f"{str(path)!r} cannot be looked into ({error})") from error
    if not isinstance(found, dict):
        found = {"(the whole file)": found}
    result["names"] = sorted(reader.named)
    for key, value in found.items():
        result["keys"][_label(key)] = _word(value)
        if value is None or isinstance(value, (bool, int, float, str)):
            result["values"][_label(key)] = value
    result["versions"] = {key: found[key] for key in _VERSION_KEYS if key in found}
    result["tensors"] = dict(_tensors(found, "", set()))
    result["parameters"] = sum(
        info.numel for _, info in _tensors(found.get("state_dict"), "", set())
    )
    return result


def peek(path: str | os.PathLike[str] | IO[bytes]) -> dict[str, Any]:
    """Read the plain data of a checkpoint, with a :class:`TensorInfo` for each tensor.

    Nothing is checked, and no tensor is read: this is quick however large the file.

    Raises:
        ValueError: It is no zip archive of torch's that holds a dict.
        OSError: It cannot be read.
    """
    if isinstance(path, (str, os.PathLike)):
        path = _file_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            main = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            found = _Reader(io.BytesIO(archive.read(main))).load()
    except OSError:
        raise
    except Exception as error:  # a pickle may fail in any way
        raise ValueError(f"{str(path)!r} cannot be looked into ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds a {type(found).__name__}, not a dict")
    return found


class _Reader(pickle.Unpickler):
    """Reads torch's pickle without importing anything that the file names."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.named: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        known = _KNOWN.get(full)
        if known is not None:
            return known
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return _name(name)
        # dtypes are data
        if module != "torch":
            self.named.add(full)
        return _name(full)

    def persistent_load(self, pid: Any) -> Any:
        kind = pid[1]
        name = getattr(kind, "name", str(kind))
        return _DTYPES.get(name, (name.removesuffix("Storage").lower() or "unknown", 0))


def _tensor(storage: Any, offset: int, size: tuple[int, ...], *rest: Any) -> TensorInfo:
    dtype, width = storage
    return TensorInfo(tuple(size), dtype, width)


def _tensor_with_dtype(
    storage: Any, offset: int, size: tuple[int, ...], stride: Any, grad: Any, hooks: Any, dtype: Any
) -> TensorInfo:
    name = getattr(dtype, "name", str(dtype)).removeprefix("torch.")
    widths = {"uint16": 2, "uint32": 4, "uint64": 8, "complex32": 4}
    return TensorInfo(tuple(size), name, widths.get(name, 1))


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,  # as protocol 2 says it
    "__builtin__.frozenset": frozenset,
    "__builtin__.complex": complex,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
    "torch._utils._rebuild_parameter": _parameter,
}


def _tensors(value: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, TensorInfo]]:
    if isinstance(value, TensorInfo):
        yield prefix, value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _tensors(item, f"{prefix}.{_label(key)}" if prefix else _label(key), seen)


def _label(key: Any) -> str:
    return key.name if isinstance(key, type) and issubclass(key, Unknown) else str(key)


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return f"dict of {len(value)}"
    if isinstance(value, (list, tuple, set)):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, (TensorInfo, Unknown)):
        return repr(value)
    if isinstance(value, type) and issubclass(value, Unknown):
        return f"<{value.name}>"
    return type(value).__name__

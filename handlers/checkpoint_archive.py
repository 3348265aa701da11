"""Checkpoint files that survive: written whole or not at all, checked before they are read.

A checkpoint is what ``torch.save`` writes, a zip archive. :func:`save` writes it beside its name,
syncs it, and moves it, so that a reader never meets half a file. :func:`load` checks every record
against its CRC first, because ``torch.load`` does not (of 400 single bit flips it returned wrong
data for 356), and then reads data only: nothing in the file is executed.

Paths with a scheme (``s3://``, ``gs://``, ``memory://``) go through fsspec; what ``http://`` and
``https://`` name is fetched without it.
"""

import contextlib
import io
import os
import pickle
import re
import shutil
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import torch

from leyden.handlers.checkpoint_leftovers import hold, remove_leftovers, unfinished_name
from leyden.handlers.checkpoint_legacy import STAND_INS, load_trusted, stand_in, upgrade
from leyden.handlers.checkpoint_names import is_remote
from leyden.handlers.checkpoint_objects import revive

__all__ = [
    "CheckpointError",
    "DamagedCheckpoint",
    "UnsafeCheckpoint",
    "filesystem_of",
    "load",
    "save",
    "verify",
]

# In the page of advice that torch gives, what the matter is.
_UNSUPPORTED = re.compile(r"GLOBAL [\w.<>]+|Unsupported operand \d+")

# How the format before torch 1.6 begins: a pickled magic number.
_OLD_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used.

    ::

        CheckpointError
        ├── DamagedCheckpoint    the file is not what was written
        └── UnsafeCheckpoint     the file holds more than data
    """


class DamagedCheckpoint(CheckpointError):
    """The file is truncated, changed, or no checkpoint at all."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(
            f"checkpoint {str(path)!r} is damaged: {why}. It was not read; use an earlier one"
        )
        self.path = str(path)
        self.why = why


class UnsafeCheckpoint(CheckpointError):
    """Reading the file would run code from it, and nobody said that is all right."""


def save(obj: Any, path: str | os.PathLike[str], *, fsync: bool = True) -> None:
    """Write ``obj`` to ``path``, whole or not at all.

    The bytes go to a temporary file in the same directory, which is synced and then moved over
    ``path``; the directory is synced last. A process killed at any moment leaves the previous file
    or the new one. Missing directories are made. At a remote path the file is uploaded in one go
    after it was written completely here.

    Args:
        obj: What ``torch.save`` takes; plain data and tensors can be read back by :func:`load`.
        path: Where to.
        fsync: Wait until the disk has it. Without, the file survives the process but maybe not the
            machine.

    Raises:
        OSError: The disk is full, the directory may not be written to, ...: the error of the
            operating system, with ``path`` as its file name. The previous file is untouched and no
            temporary file is left.
    """
    if is_remote(path):
        _upload(obj, str(path))
        return
    target = os.path.abspath(os.fspath(path))
    directory = os.path.dirname(target)
    try:
        os.makedirs(directory, exist_ok=True)
        remove_leftovers(directory)
        temporary = os.path.join(directory, unfinished_name())
        with open(temporary, "xb") as file:
            try:
                hold(file)
                _serialize(obj, file)
                file.flush()
                if fsync:
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                # What is still in the file's buffer would fail again when it is closed, and that
                # error would hide this one.
                with contextlib.suppress(OSError):
                    file.close()
                raise
        if fsync:
            _sync_directory(directory)
    except Exception as error:
        real = _os_error(error)
        if real is None:
            raise
        raise _named(real, target) from error


def verify(path: str | os.PathLike[str]) -> bool:
    """Check that the file is what was written.

    Returns:
        True if every record's CRC was right. False for a file in torch's format before 1.6, which
        holds nothing to check it by.

    Raises:
        DamagedCheckpoint: It is not, with the reason.
        OSError: It cannot be read: it does not exist, permission, ...
    """
    with _open(path) as file:
        return _verify(file, path)


def load(
    path: str | os.PathLike[str] | IO[bytes],
    *,
    map_location: Any = None,
    trust: bool = False,
    allow: Iterable[str] = (),
) -> dict[str, Any]:
    """Read a checkpoint, verified, and as data only.

    Files of Lightning 1.1 are brought to today's form (:func:`leyden.handlers.checkpoint_legacy.
    upgrade`): the few classes they name are replaced by inert stand-ins, so that Lightning need not
    be installed and nothing of it runs.

    Args:
        path: Where from; an open file is read from where it stands.
        map_location: As in ``torch.load``.
        trust: Read the file even if that runs code from it. Say so only of files whose author you
            know.
        allow: Further full names (``"my.module.MyCallback"``) that the file may hold as keys; they
            too become inert stand-ins.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedCheckpoint: It failed :func:`verify`, or is no dict.
        UnsafeCheckpoint: It holds more than data.
    """
    # One handle for both, so that what was verified is what is read, whoever replaces the file.
    with _open(path) as file:
        verified = _verify(file, path)
        file.seek(0)
        try:
            found = _read(file, path, map_location, trust, allow, verified)
        except (CheckpointError, OSError, MemoryError):
            raise
        except Exception as error:
            # A file whose checksums are right fails for other reasons (its device is not here), and
            # a trusted one for those of its own code. The old format shows damage in any way.
            text = str(error)
            torn = "PytorchStreamReader" in text or "inline_container" in text or not verified
            if trust or "map_location" in text or not torn:
                raise
            raise DamagedCheckpoint(path, f"torch cannot read it ({_first_line(error)})") from error
    if not isinstance(found, dict):
        raise DamagedCheckpoint(path, f"it holds a {type(found).__name__}, not a dict")
    found = upgrade(found)
    revive(found, trust=trust, map_location=map_location)
    return found


# ---------------------------------------------------------------------------------------- writing


def _serialize(obj: Any, file: IO[bytes]) -> None:
    # The CRC is what verify() works with; somebody may have switched it off for speed.
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        torch.save(obj, file)
    finally:
        torch.serialization.set_crc32_options(before)


def _sync_directory(directory: str) -> None:
    if os.name == "nt":  # a directory cannot be opened there
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _os_error(error: BaseException | None) -> OSError | None:
    """Find what the operating system said: torch reports a failed write as "unexpected pos"."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _named(error: OSError, path: str) -> OSError:
    if error.errno is None:
        return error
    return type(error)(error.errno, error.strerror or os.strerror(error.errno), path)


# ---------------------------------------------------------------------------------------- reading


def _verify(file: IO[bytes], path: object) -> bool:
    head = file.read(64)
    if not head:
        raise DamagedCheckpoint(path, "it is empty")
    if _OLD_MAGIC in head:
        return False
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except (
        Exception
    ) as error:  # damage shows as BadZipFile, EOFError, struct.error, zlib.error, ...
        raise DamagedCheckpoint(path, f"it is no complete zip ({_first_line(error)})") from error
    if bad is not None:
        raise DamagedCheckpoint(path, f"the checksum of its record {bad!r} is wrong")
    return True


def _read(
    file: IO[bytes],
    path: object,
    map_location: Any,
    trust: bool,
    allow: Iterable[str],
    verified: bool,
) -> Any:
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        file.seek(0)
    pairs: list[Any] = [(kind, name) for name, kind in STAND_INS.items()]
    pairs += [(stand_in(name), name) for name in allow]
    try:
        with torch.serialization.safe_globals(pairs):
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if _UNSUPPORTED.search(str(error)) is None and not verified:
            raise DamagedCheckpoint(path, f"torch cannot read it ({_reason(error)})") from error
        if not trust:
            raise UnsafeCheckpoint(
                f"checkpoint {str(path)!r} holds more than data ({_reason(error)}), so that "
                "reading it could run any code. It was not read. If you know who wrote it, "
                "pass trust_checkpoint=True: to fit, test, validate, predict or "
                "load_from_checkpoint (trust=True to load)"
            ) from error
        file.seek(0)
    return load_trusted(file, map_location)


def _reason(error: BaseException) -> str:
    """Pick what is wrong out of torch's page of advice."""
    text = str(error)
    found = _UNSUPPORTED.search(text)
    if found:
        return found[0]
    return text.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0][:200]


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:200]


# ----------------------------------------------------------------------------------- file systems


@contextlib.contextmanager
def _open(path: str | os.PathLike[str] | IO[bytes]) -> Iterator[IO[bytes]]:
    if not isinstance(path, (str, os.PathLike)):
        # An open file may be a stream, and the reader seeks.
        with tempfile.TemporaryFile() as local:
            shutil.copyfileobj(path, local, 1 << 20)
            local.seek(0)
            yield local
        return
    if not is_remote(path):
        with open(path, "rb") as file:
            yield file
        return
    # The reader seeks to and fro, which over a network is slow: fetch it once.
    with tempfile.TemporaryFile() as local:
        with _fetched(str(path)) as remote:
            shutil.copyfileobj(remote, local, 1 << 20)
        local.seek(0)
        yield local


def _fetched(path: str) -> Any:
    if path.startswith(("http://", "https://")):
        return urllib.request.urlopen(path)  # fsspec would need two more packages for these
    filesystem, name = filesystem_of(path)
    return filesystem.open(name, "rb")


def _upload(obj: Any, path: str) -> None:
    filesystem, name = filesystem_of(path)
    buffer = io.BytesIO()
    _serialize(obj, buffer)
    with contextlib.suppress(NotImplementedError):  # object stores have no directories
        filesystem.makedirs(filesystem._parent(name), exist_ok=True)
    # One put: object stores show the object when it is complete, and never half of it.
    filesystem.pipe_file(name, buffer.getbuffer().tobytes())


def filesystem_of(path: str) -> tuple[Any, str]:
    """Return fsspec's file system for a remote path, and the path's name in it."""
    try:
        import fsspec
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the path {path!r} needs the package fsspec: pip install fsspec"
        ) from error
    filesystem, name = fsspec.core.url_to_fs(path)
    return filesystem, name

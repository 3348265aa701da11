"""TensorBoard event files, written at once: tensorboardX's `SummaryWriter` without its queue.

tensorboardX hands each event through a bounded inter-process queue to a thread. That has three
faults here: an event costs two pickles and a thread switch; `flush` does not wait for the queue, so
a killed run loses its last rows; and when the thread dies of a full disk, the training loop blocks
for ever as soon as the queue is full. So the events go straight to the file: one unbuffered write
each, whose error reaches the caller.
"""

import contextlib
import errno
import functools
import itertools
import math
import os
import re
import socket
import struct
import time
import weakref
from collections.abc import Iterable
from typing import Any

__all__ = ["EventFile", "is_direct", "restart_event", "scalar_event", "summary_writer"]

_serial = itertools.count()


class EventFile:
    """One event file; has the methods of tensorboardX's ``EventFileWriter``.

    Args:
        logdir: The folder; made if it does not exist.
        suffix: Put behind the file's name.
    """

    def __init__(self, logdir: str, suffix: str = "") -> None:
        self._logdir = logdir
        self._suffix = suffix
        self._release: Any = None
        self._fd = -1
        self._size = 0
        os.makedirs(logdir, exist_ok=True)
        self.reopen()

    def get_logdir(self) -> str:
        """Return the folder."""
        return self._logdir

    def reopen(self) -> None:
        """Begin a new file after `close`; does nothing on an open one."""
        if self._fd >= 0:
            return
        from tensorboardX.proto.event_pb2 import Event

        # Readers take the files of a folder in the order of their names, so the names follow the
        # clock; process and number tell apart what the clock does not.
        now = time.time_ns()
        name = (
            f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}"
            f".{now % 10**9:09d}.{os.getpid()}.{next(_serial)}{self._suffix}"
        )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._fd = os.open(os.path.join(self._logdir, name), flags, 0o666)
        self._release = weakref.finalize(self, os.close, self._fd)
        self._size = 0
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_event(self, event: Any) -> None:
        """Write one event.

        Raises:
            OSError: If it cannot be written; the file then holds what it held before.
        """
        self.write(event.SerializeToString())

    def write(self, data: bytes) -> None:
        """Write one event that is encoded already; see `add_event`."""
        if self._fd < 0:
            self.reopen()
        record = _header(len(data)) + data + _checksum(data)
        try:
            written = os.write(self._fd, record)
            if written != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._logdir)
        except OSError:
            # Half a record would make everything behind it unreadable.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            raise
        self._size += len(record)

    def flush(self) -> None:
        """Do nothing: there is no buffer in this process."""

    def close(self) -> None:
        """Close the file; the next event begins a new one."""
        if self._fd >= 0:
            self._release()
            self._fd = -1


def summary_writer(log_dir: str, **kwargs: Any) -> Any:
    """Make a tensorboardX ``SummaryWriter`` that writes at once.

    Args:
        log_dir: The folder of the event file.
        kwargs: Further arguments of ``SummaryWriter``; those about its queue have no meaning here.

    Raises:
        ModuleNotFoundError: If tensorboardX is not installed.
    """
    return _writer_class()(logdir=log_dir, **kwargs)


def is_direct(writer: Any) -> bool:
    """Whether `summary_writer` made it."""
    return isinstance(writer, _writer_class())


@functools.cache
def _writer_class() -> Any:
    try:
        from tensorboardX import SummaryWriter
        from tensorboardX.writer import FileWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "TensorBoardLogger needs tensorboardX, which is not installed: "
            "pip install tensorboardX, or pass logger=False or logger=CSVLogger(...)"
        ) from error

    class DirectFileWriter(FileWriter):  # type: ignore[misc]  # tensorboardX has no annotations
        """Writes events to an `EventFile`; the base class's constructor would start a thread."""

        def __init__(self, logdir: str, filename_suffix: str = "") -> None:
            self.event_writer = EventFile(logdir, filename_suffix)
            self._default_metadata: dict[str, Any] = {}

    class DirectSummaryWriter(SummaryWriter):  # type: ignore[misc]
        """Makes its file writer a `DirectFileWriter`."""

        all_writers: Any
        file_writer: Any

        def _get_file_writer(self) -> Any:
            if self._write_to_disk and (self.all_writers is None or self.file_writer is None):
                writer = DirectFileWriter(str(self.logdir), self._filename_suffix or "")
                self.file_writer = writer
                self.all_writers = {writer.get_logdir(): writer}
                if self.purge_step is not None:
                    writer.add_event(restart_event(self.purge_step))
            return super()._get_file_writer()

        def add_scalars(
            self, main_tag: str, tag_scalar_dict: Any, *args: Any, **kwargs: Any
        ) -> None:
            for tag in tag_scalar_dict:
                self.curve(main_tag, tag)  # else the base class makes one with a queue
            super().add_scalars(main_tag, tag_scalar_dict, *args, **kwargs)

        def curve(self, chart: str, tag: str) -> Any:
            """Return the file writer of one of several curves in a chart."""
            main = self._get_file_writer()
            folder = os.path.join(str(main.get_logdir()), chart, tag)
            if folder not in self.all_writers and self._write_to_disk:
                writer = DirectFileWriter(folder, self._filename_suffix or "")
                self.all_writers[folder] = writer
            return self.all_writers.get(folder, main)

        def write_scalars(self, writer: Any, values: Any, step: int | None) -> None:
            """Write scalars as one event through a file writer of this object."""
            if not self._write_to_disk:
                return
            told = writer._default_metadata
            wall_time = told.get("walltime") or time.time()
            step = told.get("global_step") or 0 if step is None else step
            writer.event_writer.write(scalar_event(values, int(step), wall_time))

    return DirectSummaryWriter


@functools.lru_cache(maxsize=1024)
def _header(size: int) -> bytes:
    """What stands before an event of so many bytes; most rows of a run have the same."""
    length = struct.pack("<Q", size)
    return length + _checksum(length)


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # the polynomial of CRC-32C
        table.append(byte)
    return tuple(table)


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of TensorBoard's files.

    A row of a few metrics takes a third of the time that tensorboardX's function does, which for
    pictures and graphs may be native, where the package crc32c is installed.
    """
    if len(data) > 4096:
        from tensorboardX.record_writer import masked_crc32c

        return struct.pack("<I", masked_crc32c(data))
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def restart_event(step: int) -> Any:
    """Make the event that tells a reader to drop what came before for ``step`` and later."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    return Event(step=step, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START))


def scalar_event(values: Iterable[tuple[str, float]], step: int, wall_time: float) -> bytes:
    """Encode one event with several scalars, byte for byte as protobuf does.

    Protobuf's objects take five times as long, and what they need is not in the caches any more
    when a row comes after fifty training steps.

    Args:
        values: tags and numbers; a number beyond float32 becomes infinite.
        step: the step they belong to.
        wall_time: seconds since 1970.

    Raises:
        ValueError: If the step is no 64-bit number.
    """
    pieces: list[bytes] = []
    for tag, value in values:
        try:
            number = _FLOAT.pack(value)
        except OverflowError:
            number = _FLOAT.pack(math.copysign(math.inf, value))
        pieces += (_scalar_head(tag), number)
    summary = b"".join(pieces)
    # Event: wall_time = 1 (double), step = 2 (varint), summary = 5 (message).
    if step:
        if not -(2**63) <= step < 2**63:
            raise ValueError(f"step={step} does not fit in 64 bits, which is all TensorBoard takes")
        counted = b"\x10" + _varint(step & (2**64 - 1))
    else:
        counted = b""  # what is nought is not written
    return b"".join(
        (b"\x09", _DOUBLE.pack(wall_time), counted, b"\x2a", _varint(len(summary)), summary)
    )


_FLOAT = struct.Struct("<f")
_DOUBLE = struct.Struct("<d")


def _varint(number: int) -> bytes:
    """Seven bits in a byte, the lowest first; the eighth tells that there are more."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@functools.lru_cache(maxsize=4096)
def _scalar_head(tag: str) -> bytes:
    """Encode all of a scalar but its number, which is its last four bytes.

    A summary's value: value = 1 (message), in it tag = 1 (text) and simple_value = 2 (float). For
    what a tag may not hold there is ``_``, as in both TensorBoard writers.
    """
    name = re.sub(r"[^-/\w.]", "_", tag).lstrip("/").encode()
    value = b"\x0a" + _varint(len(name)) + name + b"\x15" if name else b"\x15"
    return b"\x0a" + _varint(len(value) + 4) + value

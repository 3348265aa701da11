"""Checkpoint files: whole or not at all, verified, and never executed."""

import errno
import functools
import http.server
import os
import pathlib
import pickle
import random
import resource
import signal
import threading
import zipfile
from typing import Any

import pytest
import torch

from leyden.handlers import checkpoint_archive, checkpoint_io
from leyden.handlers.checkpoint_io import DamagedCheckpoint, UnsafeCheckpoint
from tests.handlers.checkpoint_cases import contents, names

# ------------------------------------------------------------------------------------ round trip


def test_what_is_saved_is_loaded_and_nothing_else_is_left(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "made" / "for it" / "a.ckpt"
    saved = contents(3)
    checkpoint_io.save(saved, path)
    assert names(path.parent) == ["a.ckpt"]
    assert checkpoint_io.verify(path)
    loaded = checkpoint_io.load(path)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded["state_dict"][k], v) for k, v in saved["state_dict"].items())
    assert (
        loaded["optimizer_states"][0]["param_groups"]
        == (saved["optimizer_states"][0]["param_groups"])
    )
    # Nobody else needs us to read it, and Lightning 2 reads it so.
    assert torch.load(path, weights_only=True)["epoch"] == 3


def test_saving_without_sync_writes_the_same(tmp_path: pathlib.Path) -> None:
    checkpoint_io.save(contents(3), tmp_path / "a", fsync=False)
    assert checkpoint_io.load(tmp_path / "a")["epoch"] == 3


def test_the_file_has_the_permissions_that_files_get(tmp_path: pathlib.Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint_io.save({}, tmp_path / "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_map_location_reaches_torch(tmp_path: pathlib.Path) -> None:
    checkpoint_io.save(contents(), tmp_path / "a")
    loaded = checkpoint_io.load(tmp_path / "a", map_location="meta")
    assert loaded["numbers"].device.type == "meta"


def test_what_a_web_server_has_is_read(tmp_path: pathlib.Path) -> None:
    checkpoint_io.save(contents(3), tmp_path / "a.ckpt")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    files = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        loaded = checkpoint_io.load(f"http://127.0.0.1:{server.server_port}/a.ckpt")
        server.shutdown()
    assert loaded["epoch"] == 3


def test_a_checksum_is_written_even_if_switched_off(tmp_path: pathlib.Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        checkpoint_io.save(contents(), tmp_path / "a")
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert checkpoint_io.verify(tmp_path / "a")


def test_a_remote_file_system_is_read_and_written() -> None:
    path = "memory://bucket/deep/a.ckpt"
    checkpoint_io.save(contents(2), path)
    assert checkpoint_io.verify(path)
    assert checkpoint_io.load(path)["epoch"] == 2
    with pytest.raises(FileNotFoundError):
        checkpoint_io.load("memory://bucket/none.ckpt")


def test_a_file_url_scheme_that_is_unknown_says_so() -> None:
    with pytest.raises(ValueError, match="nosuchscheme"):
        checkpoint_io.save({}, "nosuchscheme://x/y")


# ----------------------------------------------------------------------------------- failed saves


class FullDisk:
    """Passes some bytes on to a file and then has no more room."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self._room = room

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def flush(self) -> None:
        self._file.flush()


@pytest.fixture
def previous(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "last.ckpt"
    checkpoint_io.save(contents(1), path)
    return path


# In the first header, within the pickle, the numbers, the directory at the end, and the last byte.
@pytest.mark.parametrize("room", [0, 40, 900, 3000, 6000, -600, -1])
def test_a_full_disk_is_loud_and_leaves_the_previous_file(
    previous: pathlib.Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    size = previous.stat().st_size
    write = checkpoint_archive._serialize
    monkeypatch.setattr(
        checkpoint_archive,
        "_serialize",
        lambda obj, file: write(obj, FullDisk(file, room if room >= 0 else size + room)),
    )
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint_io.save(contents(2), previous)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(previous)
    monkeypatch.undo()
    assert names(previous.parent) == ["last.ckpt"]
    assert checkpoint_io.load(previous)["epoch"] == 1


@pytest.mark.parametrize("limit", [100, 100_000])
def test_the_limit_of_the_operating_system_is_loud(previous: pathlib.Path, limit: int) -> None:
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            checkpoint_io.save({"big": torch.zeros(50_000)}, previous)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG
    assert names(previous.parent) == ["last.ckpt"]
    assert checkpoint_io.load(previous)["epoch"] == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_any_step_may_fail(
    previous: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output error"):
            checkpoint_io.save(contents(2), previous)
    assert names(previous.parent) == ["last.ckpt"]
    assert checkpoint_io.load(previous)["epoch"] == 1


def test_a_directory_that_may_not_be_written_to(
    previous: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:  # root may write anywhere: let the system refuse as it would
        real = open

        def refuse(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if "x" in mode:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return real(path, mode, *args, **kwargs)

        monkeypatch.setattr(checkpoint_archive, "open", refuse, raising=False)
    else:
        previous.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError) as caught:
            checkpoint_io.save(contents(2), previous)
    finally:
        previous.parent.chmod(0o700)
    assert caught.value.filename == str(previous)
    monkeypatch.undo()
    assert checkpoint_io.load(previous)["epoch"] == 1


def test_a_directory_in_the_way_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OSError, match="b.ckpt"):
        checkpoint_io.save({}, tmp_path / "a" / "b.ckpt")


def test_what_cannot_be_pickled_leaves_the_previous_file(previous: pathlib.Path) -> None:
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        checkpoint_io.save({"f": lambda: 0}, previous)
    assert names(previous.parent) == ["last.ckpt"]
    assert checkpoint_io.load(previous)["epoch"] == 1


def test_an_interrupt_leaves_no_temporary_file(
    previous: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(obj: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_archive, "_serialize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint_io.save(contents(2), previous)
    assert names(previous.parent) == ["last.ckpt"]


@pytest.mark.slow
def test_forty_kills_in_forked_savers(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint_io.save({"w": torch.zeros(1), "step": 0}, path)
    pick = random.Random(1)
    for _ in range(40):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            number = 0
            while True:
                number += 1
                value = {"w": torch.full((20_000,), float(number)), "step": number}
                checkpoint_io.save(value, path, fsync=False)
                os.write(writer, b".")
        os.close(writer)
        os.read(reader, 1)
        for _ in range(pick.randrange(20_000)):
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        loaded = checkpoint_io.load(path)
        assert bool((loaded["w"] == loaded["step"]).all())
        assert len(names(tmp_path)) <= 2, "each writer clears up after the one before"


# ------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_damaged(previous: pathlib.Path, share: float) -> None:
    data = previous.read_bytes()
    previous.write_bytes(data[: int(len(data) * share)])
    for read in (checkpoint_io.verify, checkpoint_io.load):
        with pytest.raises(DamagedCheckpoint, match="last.ckpt' is damaged") as caught:
            read(previous)
        assert caught.value.path == str(previous)


def test_every_flipped_bit_that_matters_is_found(previous: pathlib.Path) -> None:
    data = previous.read_bytes()
    expected = checkpoint_io.load(previous)
    pick = random.Random(0)
    found = 0
    for _ in range(150):
        changed = bytearray(data)
        changed[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
        previous.write_bytes(changed)
        try:
            loaded = checkpoint_io.load(previous)
        except DamagedCheckpoint:
            found += 1
            continue
        # Padding between the records, or a field of the archive that nobody reads.
        assert torch.equal(loaded["numbers"], expected["numbers"])
        assert loaded["epoch"] == expected["epoch"] and loaded["note"] == expected["note"]
        for key, value in expected["state_dict"].items():
            assert torch.equal(loaded["state_dict"][key], value)
    assert found > 100


@pytest.mark.parametrize("content", [b"no checkpoint at all", b"\0" * 5000, b"PK\x03\x04" * 40])
def test_other_files_are_damaged(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DamagedCheckpoint):
        checkpoint_io.load(tmp_path / "a")


def test_another_zip_and_no_dict_are_no_checkpoint(tmp_path: pathlib.Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(DamagedCheckpoint, match="torch cannot read it"):
        checkpoint_io.load(tmp_path / "a")
    checkpoint_io.save([1, 2], tmp_path / "b")
    with pytest.raises(DamagedCheckpoint, match="holds a list, not a dict"):
        checkpoint_io.load(tmp_path / "b")


def test_a_missing_file_is_what_the_system_says(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint_io.load(tmp_path / "none.ckpt")
    with pytest.raises(FileNotFoundError):
        checkpoint_io.verify(tmp_path / "none.ckpt")


def test_the_format_before_1_6_is_read_unverified(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "old"
    torch.save({"epoch": 4}, path, _use_new_zipfile_serialization=False)
    assert checkpoint_io.verify(path) is False
    assert checkpoint_io.load(path) == {"epoch": 4}
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedCheckpoint):
        checkpoint_io.load(path)


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_does_not_go_off(tmp_path: pathlib.Path, zipped: bool) -> None:
    torch.save(
        {"callbacks": Bomb(str(tmp_path / "gone off"))},
        tmp_path / "a",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(UnsafeCheckpoint, match=r"GLOBAL \w+.mkdir.*trust_checkpoint=True"):
        checkpoint_io.load(tmp_path / "a")
    if zipped:
        assert checkpoint_io.inspect(tmp_path / "a")["names"] == ["posix.mkdir"]
    assert names(tmp_path) == ["a"]
    checkpoint_io.load(tmp_path / "a", trust=True)
    assert "gone off" in names(tmp_path)

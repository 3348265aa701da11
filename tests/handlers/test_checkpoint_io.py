"""Checkpoint files: whole or not at all, verified, and never executed."""

import argparse
import collections
import contextlib
import enum
import errno
import os
import pathlib
import pickle
import random
import resource
import signal
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.handlers import checkpoint_archive, checkpoint_io
from leyden.handlers.checkpoint_io import DamagedCheckpoint, UnsafeCheckpoint, plain


def contents(value: int = 0) -> dict[str, Any]:
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return {
        "epoch": value,
        "state_dict": layer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "note": "text",
        "numbers": torch.full((1000,), float(value)),
    }


def names(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


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


def test_leftovers_of_killed_writers_go_and_work_in_progress_stays(
    tmp_path: pathlib.Path,
) -> None:
    import fcntl

    old, busy, young = (tmp_path / f".leyden-1-{name}.part" for name in ("old", "busy", "young"))
    for path in (old, busy, young):
        path.write_bytes(b"half")
    for path in (old, busy):
        os.utime(path, (1, 1))
    with open(busy, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        checkpoint_io.save({}, tmp_path / "a.ckpt")
    assert names(tmp_path) == sorted([busy.name, young.name, "a.ckpt"])


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


# --------------------------------------------------------------------------------- files of 1.1.8


@contextlib.contextmanager
def lightning() -> Iterator[types.SimpleNamespace]:
    """Stand in for an installed pytorch_lightning 1.1, as far as its files name it."""
    places = {
        "callbacks.model_checkpoint": "ModelCheckpoint",
        "callbacks.early_stopping": "EarlyStopping",
        "utilities.parsing": "AttributeDict",
        "my_callbacks": "Mine",
    }
    found = types.SimpleNamespace()
    kept = {name: module for name, module in sys.modules.items() if "pytorch_lightning" in name}
    for name in kept:
        del sys.modules[name]
    for place, name in places.items():
        parts = ["pytorch_lightning", *place.split(".")]
        for end in range(1, len(parts) + 1):
            full = ".".join(parts[:end])
            sys.modules.setdefault(full, types.ModuleType(full))
        base = dict if name == "AttributeDict" else object
        made = type(name, (base,), {"__module__": ".".join(parts)})
        setattr(sys.modules[".".join(parts)], name, made)
        setattr(found, name, made)
    try:
        yield found
    finally:
        for name in [name for name in sys.modules if "pytorch_lightning" in name]:
            del sys.modules[name]
        sys.modules.update(kept)


def test_checkpoints_of_1_1_load_without_lightning(tmp_path: pathlib.Path) -> None:
    with lightning() as pl:
        torch.save(
            {
                **contents(2),
                "pytorch-lightning_version": "1.1.8",
                "callbacks": {
                    pl.EarlyStopping: {"wait_count": 1},
                    pl.ModelCheckpoint: {"best_model_score": torch.tensor(0.5)},
                },
                "hyper_parameters": pl.AttributeDict(
                    width=2, nested=argparse.Namespace(rate=0.1, names=["a"])
                ),
            },
            tmp_path / "a.ckpt",
        )
    loaded = checkpoint_io.load(tmp_path / "a.ckpt")
    assert loaded["epoch"] == 2
    assert list(loaded["callbacks"]) == ["EarlyStopping", "ModelCheckpoint"]
    assert loaded["callbacks"]["EarlyStopping"] == {"wait_count": 1}
    assert loaded["hyper_parameters"] == {"width": 2, "nested": {"rate": 0.1, "names": ["a"]}}
    assert type(loaded["hyper_parameters"]["nested"]) is dict


def test_older_forms_are_brought_to_todays(tmp_path: pathlib.Path) -> None:
    torch.save(
        {
            "epoch": 1,
            "hparams": argparse.Namespace(width=3),
            "checkpoint_callback_best_model_score": 0.25,
            "checkpoint_callback_best_model_path": "x.ckpt",
            "early_stop_callback_wait": 2,
            "early_stop_callback_patience": 5,
        },
        tmp_path / "a.ckpt",
    )
    assert checkpoint_io.load(tmp_path / "a.ckpt") == {
        "epoch": 1,
        "hyper_parameters": {"width": 3},
        "callbacks": {
            "ModelCheckpoint": {"best_model_score": 0.25, "best_model_path": "x.ckpt"},
            "EarlyStopping": {"wait_count": 2, "patience": 5},
        },
    }


def test_a_callback_of_the_users_needs_its_name(tmp_path: pathlib.Path) -> None:
    with lightning() as pl:
        torch.save({"callbacks": {pl.Mine: {"x": 1}}}, tmp_path / "a.ckpt")
    with pytest.raises(UnsafeCheckpoint, match=r"pytorch_lightning.my_callbacks.Mine"):
        checkpoint_io.load(tmp_path / "a.ckpt")
    loaded = checkpoint_io.load(tmp_path / "a.ckpt", allow=["pytorch_lightning.my_callbacks.Mine"])
    assert loaded == {"callbacks": {"Mine": {"x": 1}}}


def test_what_needs_trust_is_refused_and_says_how(tmp_path: pathlib.Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
    with lightning() as pl:
        # torch 1.7 kept the bound method in the state.
        state = {"anneal_func": scheduler.step, "callbacks": {pl.ModelCheckpoint: {}}}
        torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(UnsafeCheckpoint, match=r"a.ckpt.*getattr.*trust_checkpoint=True"):
        checkpoint_io.load(tmp_path / "a.ckpt")
    loaded = checkpoint_io.load(tmp_path / "a.ckpt", trust=True)
    assert list(loaded["callbacks"]) == ["ModelCheckpoint"]
    assert callable(loaded["anneal_func"])


# ------------------------------------------------------------------------------------ plain data


class Colour(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    BIG = 3


def test_plain_keeps_data_and_turns_its_relatives_into_it() -> None:
    found = plain(
        {
            "a": [1, 2.5, None, True, "x", b"y", (1, {2})],
            "b": argparse.Namespace(c=collections.OrderedDict(d=np.float32(0.5))),
            "e": pathlib.PurePosixPath("/x/y"),
            "f": np.arange(3),
            "g": np.int64(4),
            3: torch.nn.Parameter(torch.ones(2)),
        }
    )
    with pytest.warns(UserWarning, match="is no plain|are no plain"):
        assert plain(b"") == "b''"
    assert found["a"] == [1, 2.5, None, True, "x", b"y", (1, {2})]
    assert found["b"] == {"c": {"d": 0.5}} and type(found["b"]["c"]) is dict
    assert found["e"] == "/x/y" and found["f"] == [0, 1, 2] and type(found["g"]) is int
    assert type(found[3]) is torch.Tensor and not found[3].requires_grad


def test_plain_warns_once_of_all_that_becomes_text(recwarn: pytest.WarningsRecorder) -> None:
    found = plain({"model": torch.nn.ReLU(), "deep": [{"colour": Colour.RED, "size": Size.BIG}]})
    assert found["model"] == "ReLU()"
    assert found["deep"] == [{"colour": "Colour.RED", "size": "3"}]
    (warning,) = recwarn.list
    for where in ("['model']", "['deep'][0]['colour']", "['deep'][0]['size']"):
        assert f"hyper_parameters{where}" in str(warning.message)


def test_plain_refuses_what_contains_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"hyper_parameters\[0\] contains itself"):
        plain(endless)
    twice = [1]
    assert plain([twice, twice]) == [[1], [1]]


_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_leaves |= st.binary() | st.sampled_from([Colour.RED, Size.BIG, np.float64(1), object(), int])
_values = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.sampled_from([Size.BIG, 2.5]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:these values are no plain data")
@settings(max_examples=60, deadline=None)
@given(value=_values)
def test_whatever_becomes_plain_can_be_loaded(value: Any) -> None:
    path = "memory://plain/a.ckpt"
    found = plain(value)
    assert plain(found) == found
    checkpoint_io.save({"x": found}, path)
    assert checkpoint_io.load(path)["x"] == found


# --------------------------------------------------------------------------------------- inspect


def test_inspect_describes_without_loading(tmp_path: pathlib.Path) -> None:
    checkpoint_io.save(
        {**contents(3), "half": torch.zeros(2, 5, dtype=torch.bfloat16), "leyden_version": "9"},
        tmp_path / "a.ckpt",
    )
    found = checkpoint_io.inspect(tmp_path / "a.ckpt")
    assert found["file"]["damaged"] is None
    assert found["file"]["bytes"] == (tmp_path / "a.ckpt").stat().st_size
    assert found["keys"]["state_dict"] == "dict of 2"
    assert found["values"] == {"epoch": 3, "note": "text", "leyden_version": "9"}
    assert found["versions"] == {"leyden_version": "9"}
    assert repr(found["tensors"]["state_dict.weight"]) == "tensor(3x4, float32)"
    assert found["tensors"]["state_dict.weight"].nbytes == 48
    assert repr(found["tensors"]["optimizer_states.0.state.0.step"]) == "tensor(scalar, float32)"
    assert repr(found["tensors"]["half"]) == "tensor(2x5, bfloat16)"
    assert found["parameters"] == 15
    assert found["names"] == []


def test_inspect_shows_what_an_old_file_names(tmp_path: pathlib.Path) -> None:
    with lightning() as pl:
        hparams = pl.AttributeDict(a=argparse.Namespace(b=1))
        callbacks = {pl.ModelCheckpoint: {"best": torch.zeros(2)}}
        torch.save({"callbacks": callbacks, "hparams": hparams}, tmp_path / "a")
    found = checkpoint_io.inspect(tmp_path / "a")
    name = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    assert list(found["tensors"]) == [f"callbacks.{name}.best"]
    assert found["names"] == [
        "argparse.Namespace",
        name,
        "pytorch_lightning.utilities.parsing.AttributeDict",
    ]


def test_inspect_names_the_damaged_record(previous: pathlib.Path) -> None:
    data = bytearray(previous.read_bytes())
    data[data.index(torch.full((4,), 1.0).numpy().tobytes()) + 3] ^= 1
    previous.write_bytes(data)
    assert "/data/" in checkpoint_io.inspect(previous)["file"]["damaged"]
    previous.write_bytes(data[:100])
    with pytest.raises(ValueError, match="cannot be looked into"):
        checkpoint_io.inspect(previous)
    with zipfile.ZipFile(previous, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(ValueError, match="no data.pkl"):
        checkpoint_io.inspect(previous)


def test_inspect_needs_no_torch(previous: pathlib.Path) -> None:
    from leyden.handlers import checkpoint_inspect

    code = (
        "import sys, runpy; found = runpy.run_path(sys.argv[1])['inspect'](sys.argv[2])\n"
        "assert 'torch' not in sys.modules and found['values']['epoch'] == 1\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, checkpoint_inspect.__file__, str(previous)], check=True
    )

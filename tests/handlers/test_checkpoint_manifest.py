"""The record of a run's files: nothing is deleted that it does not name."""

import os
import pathlib

import pytest

from leyden.handlers.checkpoint_io import Manifest, NotOwned, save


def write(manifest: Manifest, name: str, epoch: int = 0) -> str:
    path = os.path.join(manifest.dirpath, name)
    manifest.claim(path)
    save({"epoch": epoch}, path, fsync=False)
    manifest.add(path, epoch=epoch)
    return path


def test_only_files_of_the_run_are_deleted(tmp_path: pathlib.Path) -> None:
    mine, other = Manifest(tmp_path), Manifest(tmp_path)
    path = write(mine, "a.ckpt", 3)
    theirs = write(other, "b.ckpt")
    foreign = tmp_path / "best.ckpt"
    foreign.write_text("kept by hand")
    assert mine.owned() == [path]
    assert mine.facts("a.ckpt") == {"epoch": 3}
    for kept in (theirs, foreign):
        with pytest.raises(NotOwned, match=f"is not a checkpoint of this run.*{mine.run_id}"):
            mine.delete(kept)
        assert os.path.exists(kept)
    mine.delete(path)
    assert not os.path.exists(path) and mine.owned() == []
    with pytest.raises(NotOwned):
        mine.delete(path)


def test_a_resumed_run_owns_what_it_wrote_before(tmp_path: pathlib.Path) -> None:
    first = Manifest(tmp_path)
    path = write(first, "a.ckpt")
    again = Manifest(tmp_path, run_id=first.run_id)
    os.unlink(path)
    assert again.owned() == []
    again.delete(path)  # gone already: nothing to complain of


def test_a_file_written_over_belongs_to_who_wrote_it_last(tmp_path: pathlib.Path) -> None:
    first, second = Manifest(tmp_path), Manifest(tmp_path)
    path = write(first, "last.ckpt")
    write(second, "last.ckpt")
    with pytest.raises(NotOwned):
        first.delete(path)
    second.delete(path)


def test_a_claim_holds_for_a_run_that_died_before_it_could_add(tmp_path: pathlib.Path) -> None:
    run = Manifest(tmp_path)
    (tmp_path / "there.ckpt").write_text("somebody's")
    run.claim("new.ckpt")
    run.claim("there.ckpt")
    save({}, tmp_path / "new.ckpt", fsync=False)
    again = Manifest(tmp_path, run_id=run.run_id)
    assert again.owned() == [str(tmp_path / "new.ckpt")]
    with pytest.raises(NotOwned):
        again.delete("there.ckpt")


def test_the_newest_that_verifies_is_taken(tmp_path: pathlib.Path) -> None:
    run = Manifest(tmp_path)
    assert run.newest_valid() is None
    paths = [write(run, f"{k}.ckpt", k) for k in range(4)]
    write(run, "0.ckpt", 9)  # newer than the rest now
    assert run.newest_valid() == paths[0]
    pathlib.Path(paths[0]).write_bytes(b"half")
    os.unlink(paths[3])
    with pytest.warns(UserWarning, match=r"skipped: checkpoint '.*0.ckpt' is damaged"):
        assert run.newest_valid() == paths[2]
    assert Manifest(tmp_path).newest_valid() is None
    with pytest.warns(UserWarning, match="skipped"):
        assert Manifest(tmp_path).newest_valid(any_run=True) == paths[2]


def test_a_half_written_line_is_no_harm(tmp_path: pathlib.Path) -> None:
    run = Manifest(tmp_path)
    first = write(run, "a.ckpt")
    with open(run.path, "ab") as file:
        file.write(b'{"op": "add", "ru')
    second = write(run, "b.ckpt")
    with open(run.path, "ab") as file:
        file.write(b'\xff\xfe\n[]\n{"op": "add"}\n')
    assert Manifest(tmp_path, run_id=run.run_id).owned() == [first, second]


@pytest.mark.parametrize("path", ["../a.ckpt", "/etc/hostname", "", ".", "manifest.jsonl"])
def test_paths_elsewhere_are_refused(tmp_path: pathlib.Path, path: str) -> None:
    run = Manifest(tmp_path / "run")
    for act in (run.claim, run.add, run.delete):
        with pytest.raises(NotOwned):
            act(path)
    assert not (tmp_path / "run").exists()


def test_links_lead_nowhere(tmp_path: pathlib.Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    precious = tmp_path / "elsewhere" / "a.ckpt"
    precious.write_text("precious")
    run = Manifest(tmp_path / "run")
    write(run, "first.ckpt")
    os.symlink(tmp_path / "elsewhere", tmp_path / "run" / "out")
    with pytest.raises(NotOwned, match="is not below"):
        run.add("out/a.ckpt")
    os.symlink(precious, tmp_path / "run" / "b.ckpt")
    run.add("b.ckpt")
    run.delete("b.ckpt")  # the link, not what it leads to
    assert precious.read_text() == "precious"


def test_a_remote_directory_is_recorded_too() -> None:
    import fsspec

    run = Manifest("memory://manifest/run")
    path = "memory://manifest/run/a.ckpt"
    run.claim(path)
    save({}, path)
    run.add(path, epoch=1)
    assert run.owned() == [path] and run.newest_valid() == path
    with pytest.raises(NotOwned):
        run.delete("memory://manifest/b.ckpt")
    with pytest.raises(NotOwned):
        run.delete("../b.ckpt")
    run.delete(path)
    assert run.owned() == []
    assert not fsspec.filesystem("memory").exists("/manifest/run/a.ckpt")

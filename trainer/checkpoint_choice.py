"""Which file ``"last"`` and ``"best"`` stand for: the newest, or best, that is whole."""

import glob
import os
import re
from typing import Any

from leyden.engine.notice import warn
from leyden.handlers.checkpoint_archive import DamagedCheckpoint, filesystem_of
from leyden.handlers.checkpoint_folder import load, verify
from leyden.handlers.checkpoint_inspect import peek
from leyden.handlers.checkpoint_names import default_directory, is_remote

__all__ = ["WORDS", "choose", "is_whole"]

#: what may stand in the place of a path.
WORDS = ("last", "best")

_VERSION = re.compile(r"version_(\d+)$")


def choose(trainer: Any, word: str, *, trust: bool = False) -> str | None:
    """Find the checkpoint to continue from, or None.

    Looked at are the directories of the run's ModelCheckpoints. Where the logger numbers them, and
    this run has a new number, those of the earlier runs follow, the latest first. A damaged file is
    named in a warning and skipped; one that an exception left in the middle of a step comes last,
    since no run goes on exactly from there. ``"best"`` is what the newest whole file remembers as
    best; ``trust`` lets reading that run code.
    """
    for files in map(_checkpoints, _directories(trainer)):
        newest = _newest(files)
        if newest is not None:
            return newest if word == "last" else _best(trainer, newest, trust)
    return None


def _newest(files: list[str]) -> str | None:
    halves = []
    for path in files:
        if not is_whole(path):
            continue
        if not _half(path):
            return path
        halves.append(path)  # saved where a step failed: no exact continuation
    return halves[0] if halves else None


def _half(path: str) -> bool:
    try:
        own = {} if is_remote(path) else peek(path).get("leyden", {})
    except ValueError:  # of before torch 1.6: no file of ours
        return False
    return bool(own.get("position", {}).get("half", False))


def _directories(trainer: Any) -> list[str]:
    own = default_directory(trainer)
    paths = [os.fspath(saver.dirpath or own) for saver in trainer.checkpoint_callbacks] or [own]
    if own not in paths:
        return list(dict.fromkeys(paths))
    found = paths
    version, tail = os.path.split(own)
    if not is_remote(own) and _VERSION.search(version):
        others = glob.glob(os.path.join(glob.escape(os.path.dirname(version)), "version_*"))
        numbered = [(int(m[1]), path) for path in others if (m := _VERSION.search(path))]
        found += [os.path.join(path, tail) for _, path in sorted(numbered, reverse=True)]
    return list(dict.fromkeys(map(os.fspath, found)))


def _checkpoints(directory: str) -> list[str]:
    """The checkpoints of a directory, the newest first."""
    if is_remote(directory):
        filesystem, key = filesystem_of(directory)
        if not filesystem.exists(key):
            return []
        scheme = directory.split("://")[0]
        names = [name for name in filesystem.ls(key, detail=False) if name.endswith(".ckpt")]
        names.sort(key=lambda name: (filesystem.modified(name), name), reverse=True)
        return [f"{scheme}://{name.lstrip('/') if scheme != 'file' else name}" for name in names]
    paths = glob.glob(os.path.join(glob.escape(directory), "*.ckpt"))
    return sorted(paths, key=lambda path: (os.stat(path).st_mtime_ns, path), reverse=True)


def is_whole(path: str) -> bool:
    """Whether a file is what was written; one that is not is named in a warning."""
    try:
        verify(path)
    except FileNotFoundError:
        return False
    except (DamagedCheckpoint, OSError) as error:
        warn(f"skipped: {error}", UserWarning)
        return False
    return True


def _best(trainer: Any, newest: str, trust: bool) -> str:
    states = load(newest, map_location="cpu", trust=trust).get("callbacks", {}).values()
    watching = [s for s in states if isinstance(s, dict) and s.get("best_k_models")]
    modes = [saver.mode for saver in trainer.checkpoint_callbacks]
    sign = -1 if "max" in modes[:1] else 1
    for state in watching:
        scores = {path: float(score) for path, score in state["best_k_models"].items()}
        for path in sorted(scores, key=lambda path: sign * scores[path]):
            # The directory may have been moved.
            for place in (path, os.path.join(os.path.dirname(newest), os.path.basename(path))):
                if (is_remote(place) or os.path.exists(place)) and is_whole(place):
                    return place
    return newest

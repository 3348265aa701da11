"""Objects in a checkpoint: who may read them gets them, everybody else their text."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.handlers import checkpoint_io, checkpoint_objects
from leyden.handlers.checkpoint_objects import know, known, pickled, revive
from leyden.handlers.checkpoint_plain import plain


class Words:
    """An object that a user keeps: its text says little."""

    def __init__(self, words: list[str]) -> None:
        self.words = words


class Trace:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self.marker), 0o777, True)


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[bytes]]:
    """A process that has pickled nothing yet."""
    digests: set[bytes] = set()
    monkeypatch.setattr(checkpoint_objects, "_OWN", digests)
    yield digests


def packed(value: Any, key: str = "vocabulary") -> dict[str, Any]:
    objects: dict[str, Any] = {}
    data = plain(value, name=key, objects=objects)
    return {key: data, "leyden": {"version": 1, "objects": objects}}


def test_what_this_process_pickled_comes_back(recwarn: pytest.WarningsRecorder) -> None:
    checkpoint = packed({"words": Words(["a"]), "layer": torch.nn.Linear(2, 1), "n": 3})
    assert not recwarn.list
    assert checkpoint["vocabulary"]["n"] == 3
    checkpoint_io.save(checkpoint, "memory://objects/a.ckpt")
    found = checkpoint_io.load("memory://objects/a.ckpt")
    assert found["vocabulary"]["words"].words == ["a"]
    assert isinstance(found["vocabulary"]["layer"], torch.nn.Linear)
    assert found["leyden"]["objects"] == {"vocabulary": {}}


def test_a_value_that_is_no_mapping_comes_back_too() -> None:
    checkpoint = packed(Words(["a", "b"]))
    revive(checkpoint)
    assert checkpoint["vocabulary"].words == ["a", "b"] and checkpoint["leyden"]["objects"] == {}


def test_pickles_of_others_are_not_read_without_trust(tmp_path: Path, own: set[bytes]) -> None:
    marker = tmp_path / "was run"
    checkpoint = packed({"trace": Trace(marker), "words": Words([])})
    own.clear()  # another process wrote it
    untouched = copy.deepcopy(checkpoint)
    revive(checkpoint)
    assert checkpoint == untouched and not marker.exists()
    assert type(checkpoint["vocabulary"]["words"]) is str
    revive(checkpoint, trust=True)
    assert marker.exists() and checkpoint["vocabulary"]["words"].words == []


def test_what_a_started_process_pickled_is_read(own: set[bytes]) -> None:
    checkpoint = packed({"words": Words(["c"])})
    digests = known()
    own.clear()
    know(digests)
    revive(checkpoint)
    assert checkpoint["vocabulary"]["words"].words == ["c"]


def test_what_cannot_be_pickled_stays_a_text_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"as their text: vocabulary\['f'\]\. "):
        checkpoint = packed({"f": lambda: 0, "words": Words([])})
    assert checkpoint["leyden"]["objects"]["vocabulary"]["f"] is None
    assert "lambda" in checkpoint["vocabulary"]["f"]
    with pytest.warns(UserWarning, match="as their text: vocabulary"):
        assert packed(lambda: 0)["leyden"]["objects"] == {}
    assert pickled(lambda: 0) is None

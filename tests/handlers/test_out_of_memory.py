"""What is added to an error about memory."""

from __future__ import annotations

import sys
from collections import namedtuple

import pytest
import torch

from leyden.handlers import out_of_memory
from leyden.handlers.out_of_memory import explain, shapes_of

Pair = namedtuple("Pair", "x y")


def text_of(error: BaseException) -> str:
    return "\n".join([*getattr(error, "__notes__", []), *map(str, error.args)])


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (None, ""),
        ("text", ""),
        (torch.ones(2, 3), "(2, 3) float32"),
        ([torch.ones(1), torch.arange(4)], "[0] (1,) float32, [1] (4,) int64"),
        ({"x": torch.ones(1).bool(), "n": 3}, "['x'] (1,) bool"),
        (Pair(torch.ones(1), [torch.ones(2)]), "[0] (1,) float32, [1][0] (2,) float32"),
        ([torch.ones(1)] * 8, ", ".join(f"[{n}] (1,) float32" for n in range(6)) + " and 2 more"),
    ],
)
def test_shapes(batch: object, words: str) -> None:
    assert shapes_of(batch) == words


def test_the_error_itself_stays_and_is_explained_once() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    for _ in range(2):
        explain(error, doing="in training", batch=torch.ones(2), advice=["this", "that"])
    found = text_of(error)
    assert found.count("leyden: memory ran out in training, on cpu") == 1
    assert "the batch: (2,) float32" in found and "try: this" in found and "try: that" in found
    assert str(error).startswith("CUDA out of memory. Tried to allocate 2.00 GiB")
    if sys.version_info >= (3, 11):
        assert error.args == ("CUDA out of memory. Tried to allocate 2.00 GiB",)


def test_without_notes_it_stands_behind_the_message() -> None:
    class Older(MemoryError):
        add_note = property()  # as in Python 3.10: there is none

    error = Older()
    assert explain(error, doing="in training") and not explain(error, doing="in training")
    assert "memory ran out in training" in str(error)
    assert "none was at hand" in str(error)


def test_every_other_error_stays_as_it_is() -> None:
    error = RuntimeError("shapes differ")
    assert not explain(error, doing="in training")
    assert text_of(error) == "shapes differ"


def test_a_device_that_does_not_answer_is_no_second_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    error = MemoryError("out of memory")
    assert explain(error, doing="in training", device="cuda:0")
    assert "on cuda:0\n" in text_of(error)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5 << 30)
    assert (
        out_of_memory._used(torch.device("cuda"))
        == " (5.0 of 8.0 GiB hold tensors of this process, 1.0 are free)"
    )

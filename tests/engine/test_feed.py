"""The feed: what it passes on, and that a run goes on from any batch bit for bit."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from leyden.engine.feed import Feed
from tests.engine.loader_runs import (
    Noisy,
    Stream,
    loader,
    stopped,
)

EPOCHS = 3
# More workers than this machine has cores are what some tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


# ------------------------------------------------------------------------------------- iteration


def test_what_the_loop_gets_is_the_loaders_own_iterator() -> None:
    data = [1, 2, 3]
    assert type(iter(Feed(data))) is type(iter(data))
    frames = []
    sys.setprofile(lambda frame, event, arg: frames.append(frame.f_code) if event == "call" else 0)
    try:
        for _ in iter(Feed(data, limit=2)):
            frames.clear()  # what making the iterator called
    finally:
        sys.setprofile(None)
    assert frames == []


def test_limit_ends_an_epoch_without_fetching_one_more() -> None:
    fetched = []

    class Endless:
        def __iter__(self) -> Iterator[int]:
            number = 0
            while True:
                fetched.append(number)
                yield number
                number += 1

    feed = Feed(Endless(), limit=3)
    assert list(feed) == [0, 1, 2]
    assert fetched == [0, 1, 2]
    assert list(Feed([1, 2], limit=0)) == []


def test_length_is_known_or_a_type_error() -> None:
    assert len(Feed([1, 2, 3])) == 3
    assert len(Feed([1, 2, 3], limit=2)) == 2
    assert len(Feed([1, 2, 3], limit=9)) == 3
    feed = Feed(DataLoader(Stream(4)))
    assert feed.length() is None
    with pytest.raises(TypeError, match=r"DataLoader over Stream has no length"):
        len(feed)


def test_transfer_sees_each_batch() -> None:
    assert list(Feed([1, 2, 3], limit=2, transfer=lambda batch: -batch)) == [-1, -2]


def test_is_last_is_known_with_a_length_or_a_look_ahead() -> None:
    assert [Feed([1, 2, 3]).is_last(k) for k in (1, 2, 3)] == [False, False, True]
    feed = Feed(iter([1, 2, 3]), lookahead=True)
    assert [(batch, feed.is_last(k)) for k, batch in enumerate(feed, 1)] == [
        (1, False),
        (2, False),
        (3, True),
    ]
    feed = Feed(iter([1, 2, 3]), limit=2)
    batches = iter(feed)
    next(batches)
    with pytest.raises(RuntimeError, match="lookahead=True"):
        feed.is_last(1)
    next(batches)
    assert feed.is_last(2)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"loader": 3}, TypeError, "loader=3 cannot be iterated"),
        ({"loader": [], "limit": -1}, ValueError, "limit=-1 is negative"),
        ({"loader": [], "limit": 0.5}, TypeError, "limit=0.5 is not a number of batches"),
        ({"loader": [], "unknown": "x"}, ValueError, "neither 'drain' nor 'refuse'"),
        ({"loader": [], "seed_per_sample": True}, TypeError, "needs a DataLoader"),
        (
            {"loader": DataLoader(Noisy(3), batch_size=None), "seed_per_sample": 1},
            ValueError,
            "batch_size=None",
        ),
    ],
)
def test_bad_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Feed(**arguments)


def test_a_state_is_plain_data() -> None:
    _, state = stopped(lambda: Feed(loader()), 0, 1)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    assert len(buffer.getvalue()) < 100_000

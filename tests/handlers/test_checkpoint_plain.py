"""Any value becomes plain data that can be loaded, and what is lost is named."""

import argparse
import collections
import enum
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.handlers import checkpoint_io
from leyden.handlers.checkpoint_io import plain


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
    assert found["deep"] == [{"colour": "Colour.RED", "size": str(Size.BIG)}]  # 3.11 changed it
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

"""Hyper-parameters: flat names, YAML that every reader understands."""

import math
from argparse import Namespace
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.handlers.loggers.hparams import (
    convert_params,
    flatten_params,
    save_hparams_to_yaml,
    to_yaml,
)

yaml = pytest.importorskip("yaml", reason="the package PyYAML, which reads the files, is missing")

_leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(
        ["yes", "No", "1e5", "0x1", "~", "a: b", "- a", "#x", "1:30", "2020-01-01", "="]
    )
)
_tree = st.recursive(
    _leaf,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=6), _tree, max_size=4))
def test_yaml_is_read_back_equal(params: dict[str, Any]) -> None:
    assert yaml.safe_load(to_yaml(params)) == params


def test_yaml_layout() -> None:
    params = {"b": [[1], {"x": 1, "a": 2}, []], "a": {}, "t": (1, "2"), "p": Path("x/y")}
    assert to_yaml(params) == (
        'a: {}\nb:\n-\n  - 1\n-\n  a: 2\n  x: 1\n- []\np: x/y\nt:\n- 1\n- "2"\n'
    )
    assert to_yaml({}) == "{}\n"
    assert to_yaml({"n": Namespace(a=1), "s": {2, 1}, "x": torch.tensor(2)}) == (
        '"n":\n  a: 1\ns:\n- 1\n- 2\nx: 2\n'
    )
    assert math.isnan(yaml.safe_load(to_yaml({"x": float("nan")}))["x"])


def test_what_is_no_plain_data_becomes_its_type_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"'net.body' is of type Linear"):
        assert to_yaml({"net": {"body": torch.nn.Linear(1, 1)}}) == "net:\n  body: Linear\n"


def test_flatten() -> None:
    def schedule() -> float:
        return 0.5

    def scale(x: float) -> float:
        return x

    Pair = namedtuple("Pair", "a b")
    flat = flatten_params(
        {
            "n": Namespace(a=1, deep={"b": 2}),
            "f": schedule,
            "g": scale,
            "t": torch.tensor(2.0),
            "l": [1, 2],
            "p": Pair(1, 2),
            "flag": True,
        }
    )
    assert flat == {
        "n/a": 1,
        "n/deep/b": 2,
        "f": 0.5,
        "g": "scale",
        "t": 2.0,
        "l": "[1, 2]",
        "p": "Pair(a=1, b=2)",
        "flag": True,
    }


def test_convert() -> None:
    @dataclass
    class Config:
        lr: float = 0.1

    assert convert_params(None) == {}
    assert convert_params(Namespace(a=1)) == {"a": 1}
    assert convert_params(Config()) == {"lr": 0.1}
    with pytest.raises(TypeError, match="type int cannot be logged"):
        convert_params(3)


def test_saving_needs_the_folder(tmp_path: Path) -> None:
    save_hparams_to_yaml(tmp_path / "h.yaml", {"a": 1})
    assert (tmp_path / "h.yaml").read_text() == "a: 1\n"
    with pytest.raises(RuntimeError, match="make the folder"):
        save_hparams_to_yaml(tmp_path / "no" / "h.yaml", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["h.yaml"]

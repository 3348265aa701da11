"""Hyper-parameters in files."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.handlers.loggers.hparams import to_yaml
from leyden.hparams_files import convert, read_hparams, read_yaml

pytest.importorskip("yaml", reason="PyYAML, the extra 'yaml', is not installed")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("width: 8\nkind: z\n", {"width": 8, "kind": "z"}),
        ("", None),
        ("# only a comment\n", None),
        ("---\na: 1\n", {"a": 1}),
        ("a: 1 # comment\nb: 'x # y'\n", {"a": 1, "b": "x # y"}),
        (
            "a: 1e-3\nb: -2.5\nc: .5\nd: 1_000\ne: 7.\n",
            {"a": 1e-3, "b": -2.5, "c": 0.5, "d": 1000, "e": 7.0},
        ),
        (
            "a: true\nb: False\nc: null\nd: ~\ne:\n",
            {"a": True, "b": False, "c": None, "d": None, "e": None},
        ),
        ("a: yes\nb: 1.2.3\nc: '12:30'\n", {"a": True, "b": "1.2.3", "c": "12:30"}),
        ("a: .inf\nb: -.inf\n", {"a": math.inf, "b": -math.inf}),
        ("a: 'it''s'\nb: \"a\\n\\\"b\\\"\"\n", {"a": "it's", "b": 'a\n"b"'}),
        ("a: s3://bucket/x:y\nb: C:\\dir\n", {"a": "s3://bucket/x:y", "b": "C:\\dir"}),
        ("a:\n  b:\n    c: 1\n  d: 2\ne: 3\n", {"a": {"b": {"c": 1}, "d": 2}, "e": 3}),
        ("a:\n- 1\n- x\nb:\n  - 2\n", {"a": [1, "x"], "b": [2]}),
        ("- - 1\n  - 2\n-\n  - 3\n", [[1, 2], [3]]),
        ("- a: 1\n  b: 2\n- a: 3\n", [{"a": 1, "b": 2}, {"a": 3}]),
        (
            "a: [1, 'x, y', [2, 3], {b: 4, c: [5]}]\n",
            {"a": [1, "x, y", [2, 3], {"b": 4, "c": [5]}]},
        ),
        ("a: {}\nb: []\nc: [1, ]\n", {"a": {}, "b": [], "c": [1]}),
        ("'quoted key': 1\n2: x\n", {"quoted key": 1, 2: "x"}),
        ("just text\n", "just text"),
    ],
)
def test_yaml(text: str, value: Any) -> None:
    assert read_yaml(text) == value


def test_not_a_number() -> None:
    assert math.isnan(read_yaml("a: .nan")["a"])


plain = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)
words = st.text("abcXYZ :#-'\"[]{},.0123\n", max_size=12)


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(
    st.dictionaries(
        st.text("abc_", min_size=1, max_size=5),
        st.recursive(
            plain | words,
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text("xyz", min_size=1, max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_pyyaml_writes_comes_back(data: dict[str, Any]) -> None:
    yaml = pytest.importorskip("yaml")
    assert read_yaml(yaml.safe_dump(data)) == data


@pytest.mark.parametrize(
    "value", [1e-5, 1e20, 0.1, -3, True, None, "1e-5", "yes", "a: b", [1.5, {"x": 1e-7}], math.inf]
)
def test_what_our_loggers_write_comes_back(value: Any) -> None:
    assert read_yaml(to_yaml({"value": value})) == {"value": value}


def test_the_resolver_is_not_there_for_everybody() -> None:
    import yaml

    assert read_yaml("a: 1e-3") == {"a": 1e-3}
    assert yaml.safe_load("a: 1e-3") == {"a": "1e-3"}


def test_without_pyyaml_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"h.yaml is YAML, and PyYAML.*pip install 'leyden.yaml"):
        read_yaml("a: 1", "h.yaml")


def test_what_is_no_yaml_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="h.yaml cannot be read as plain data"):
        read_yaml("a: [1", "h.yaml")


def test_literals_of_a_csv_file() -> None:
    assert [convert(text) for text in ("1", "1e-3", "None", "[1, 'a']", "a b")] == [
        1,
        1e-3,
        None,
        [1, "a"],
        "a b",
    ]


def test_code_in_a_file_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    text = f"a: !!python/object/apply:os.mkdir ['{marker}']\n"
    with pytest.raises(ValueError, match="the text"):
        read_yaml(text)
    assert not marker.exists()


def test_kinds_of_files(tmp_path: Path) -> None:
    (tmp_path / "h.yaml").write_text("width: 8\nkind: z\n")
    (tmp_path / "h.yml").write_text("")
    (tmp_path / "h.csv").write_text("key,value\nwidth,8\nkind,z\nrate,0.5\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert read_hparams(tmp_path / "h.yaml") == {"width": 8, "kind": "z"}
    assert read_hparams(str(tmp_path / "h.yml")) == {}
    assert read_hparams(tmp_path / "h.csv") == {"width": 8, "kind": "z", "rate": 0.5}
    with pytest.raises(ValueError, match="use .yaml, .yml or .csv"):
        read_hparams(tmp_path / "h.txt")
    with pytest.raises(ValueError, match="holds a list"):
        read_hparams(tmp_path / "list.yaml")
    with pytest.raises(FileNotFoundError):
        read_hparams(tmp_path / "none.yaml")

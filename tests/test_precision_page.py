"""The tool that measures precisions, in small, and the page that it writes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load() -> Any:
    path = ROOT / "tools" / "precision_page.py"
    spec = importlib.util.spec_from_file_location("precision_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load()


@pytest.mark.slow
def test_a_row_for_each_case() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn, whose digits are measured")
    cases = {name: TOOL.CASES[name] for name in ("32", "4")}
    head, line, *found = TOOL.rows(cases, 2, epochs=1, images=200)
    assert head.count("|") == line.count("|") == 5
    shape = r"\| (\w+) \| [\d.]+ \([\d.]+ to [\d.]+\) \| \d+ \| ([\d,]+) \|"
    matches = [re.fullmatch(shape, row) for row in found]
    assert [match and match[1] for match in matches] == ["32", "4"]
    whole, packed = (int(match[2].replace(",", "")) for match in matches if match)
    assert packed < whole / 4


def test_the_page_has_a_measured_row_for_each_case() -> None:
    page = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    table = page.split(TOOL.BEGIN)[1].split(TOOL.END)[0]
    assert [
        name for name in TOOL.CASES if not re.search(rf"\| {re.escape(name)} \| \d", table)
    ] == []
    assert TOOL.put(page, table) == page


def test_int8_int4_and_int2_are_as_near_to_32_bits_as_is_claimed() -> None:
    page = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    found = {n: float(v) for n, v in re.findall(r"^\| (\w+) \| ([\d.]+) \(", page, re.MULTILINE)}
    assert found["8"] > found["32"] - 1 and found["4"] > found["32"] - 2

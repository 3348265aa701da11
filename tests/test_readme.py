"""What the README claims: every claim names a test, and that test is there."""

import re
from pathlib import Path

import pytest
import yaml

import leyden

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROMISES = ("costs next to nothing", "see everything that will run", "continues bit for bit")
#: [words](file "name of a test")
CLAIM = re.compile(
    r"\[[^\]]+\]\((?P<file>(?:tests|benchmarks)/[\w/]+\.py) \"(?P<test>test_\w+)\"\)"
)


def table(heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, without its head."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@pytest.mark.parametrize(
    ("file", "name"), sorted({(match["file"], match["test"]) for match in CLAIM.finditer(README)})
)
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE)


def test_every_line_about_leyden_names_its_test() -> None:
    rows = table("Next to others")
    assert len(rows) > 10 and all(len(row) == 7 for row in rows)
    unproven = [row[0] for row in rows if not CLAIM.fullmatch(row[1])]
    assert unproven == []


def test_every_promise_names_its_tests() -> None:
    rows = table("The three promises, and the tests that hold them")
    assert [any(promise in row[0] for row in rows) for promise in PROMISES] == [True] * 3
    assert all(CLAIM.search(row[1]) for row in rows)


def test_every_lane_of_ci_is_explained_to_contributors() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:first|beside|last)=\((.*)\)$", script, re.MULTILINE)
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lanes = " ".join(listed).split()
    assert len(lanes) > 8
    assert [lane for lane in lanes if f"| `{lane}` |" not in guide and lane != "venv"] == []


def test_the_measured_table_says_how_to_measure_it() -> None:
    section = README.split("## What the loop costs\n")[1].split("\n## ")[0]
    (command,) = re.findall(r"^Repeat it: `make ([\w-]+)`$", section, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    assert "| leyden |" in section and " us |" in section


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == leyden.__version__
    assert cited["license"] == "Apache-2.0" and cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type"} <= set(cited)

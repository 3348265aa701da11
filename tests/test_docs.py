"""What the pages say is so: their Python runs, what the code makes is up to date, links work."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from leyden.config import CHECKS, TrainerConfig
from leyden.engine.errors import NotBuilt

ROOT = Path(__file__).resolve().parent.parent


def tool(name: str) -> ModuleType:
    """Load one of our tools, which are in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BLOCKS, ARGUMENTS = tool("doc_blocks"), tool("argument_page")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
WITH_PYTHON = [path for path in PAGES if BLOCKS.blocks(path.read_text(encoding="utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda path: path.name)
def test_the_python_of_a_page_prints_what_it_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    found = BLOCKS.blocks(text)
    for block, printed in zip(found, BLOCKS.run(path, text), strict=True):
        if block.output is not None:
            where = f"{path.name}:{block.line}; python tools/doc_blocks.py puts it in"
            assert printed == block.output, where


def test_all_python_is_found() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert len(BLOCKS.blocks(text)) == len(re.findall(r"^\s*```python", text, re.MULTILINE))


def test_a_block_has_the_output_right_after_it() -> None:
    text = "```python\nprint(1)\n```\n\n```text\n1\n```\n"
    text += "\n```python\nx = 2\n```\nwords\n```text\n2\n```\n"
    first, second = BLOCKS.blocks(text)
    assert (first.line, first.code, first.output) == (2, "print(1)\n", "1\n")
    assert (second.code, second.output) == ("x = 2\n", None)
    assert text[slice(*first.place)] == "1\n"


def test_a_block_that_warns_fails(tmp_path: Path) -> None:
    with pytest.raises(UserWarning, match="careful"):
        BLOCKS.run(
            tmp_path / "page.md", "```python\nimport warnings\nwarnings.warn('careful')\n```\n"
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["argument_page", "handler_page", "hook_page", "draw_states"])
def test_what_is_made_from_the_code_is_up_to_date(name: str) -> None:
    assert tool(name).main(["--check"]) == 0, f"run python tools/{name}.py"


def test_every_argument_is_explained_once() -> None:
    shown = [name for group in ARGUMENTS.GROUPS.values() for name in group]
    assert sorted(shown) == sorted(CHECKS)
    assert set(ARGUMENTS.PARTS) | set(ARGUMENTS.TODAY) | set(ARGUMENTS.DIFFERS) <= set(CHECKS)


@pytest.mark.slow
def test_every_argument_makes_a_handler_or_says_what_it_is_for() -> None:
    made = ARGUMENTS.handlers_of()
    assert [name for name in CHECKS if not made[name] and name not in ARGUMENTS.PARTS] == []
    assert made["gradient_clip_val"] == ["GradientClipping"]
    assert made["val_check_interval"] == ["Validation"]


@pytest.mark.parametrize("group", ARGUMENTS.EXAMPLES)
def test_the_examples_of_arguments_are_right(group: str) -> None:
    for name, value in ARGUMENTS.EXAMPLES[group].items():
        if isinstance(value, str) and "(" in value:
            continue  # an object, in words
        try:
            parsed = TrainerConfig.parse(**{name: value})
        except NotBuilt:
            assert group == ARGUMENTS.HARDWARE  # this machine cannot
        except ValueError as error:
            assert "this machine" in str(error), error  # it has none of those devices
        else:
            assert parsed.given[name] == value


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    local = [link.split("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "index.md"]
    assert [name for name in pages if f"({name})" not in index] == []


def test_the_readme_begins_with_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.match(r"# leyden\n\n```\nmake demo .*\nmake test .*\n```\n", readme)
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(
            r"^make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert re.search(rf"^{target}:", targets, re.MULTILINE), f"{page.name}: make {target}"

"""The documentation site that `make docs` builds: its pages are all there, links lead to pages."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import leyden
from leyden.engine.phases import Phase
from tests.test_docs import tool

ROOT = Path(__file__).resolve().parent.parent
SITE = tool("site_pages")
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
#: The API pages are read from the sources, which the tests of an installed wheel do without.
of_the_sources = pytest.mark.skipif(
    not (ROOT / "trainer").is_dir(), reason="the sources are not here: a wheel is tested"
)


def pages_of(nav: Any) -> list[str]:
    """Return the pages of a navigation, however deep."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


@of_the_sources
def test_every_page_of_the_navigation_is_there() -> None:
    there = {path.name for path in (ROOT / "docs").glob("*.md")} | set(SITE.made())
    assert [page for page in pages_of(CONFIG["nav"]) if page not in there] == []


@of_the_sources
def test_pages_that_nobody_put_into_the_navigation_are_in_it_all_the_same() -> None:
    class Config:
        nav = [{"Use": ["tuning.md"]}, {"Reference": [{"API": []}]}, {"Start": [{"Examples": []}]}]

    pages = pages_of(SITE.on_config(Config()).nav)
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(pages)
    assert set(SITE.examples()) | set(SITE.api()) <= set(pages)
    assert pages.index("api/index.md") < pages.index("api/leyden.md")
    assert len(pages) == len(set(pages))


@of_the_sources
def test_every_public_class_and_function_has_its_place_in_the_api() -> None:
    pages = SITE.api()
    assert set(re.findall(r"^::: leyden\.(\w+)$", pages["api/leyden.md"], re.MULTILINE)) == {
        name
        for name in leyden.__all__
        if name[0].isupper() or name in ("plot", "replay", "seed_everything")
    }
    shown = re.findall(r"^::: leyden\.handlers\.(\w+)$", pages["api/leyden.handlers.md"], re.M)
    from leyden import handlers

    assert set(shown) == {n for n in handlers.__all__ if callable(getattr(handlers, n))}


def test_an_example_is_a_page_with_its_code() -> None:
    pages = SITE.examples()
    for path in (ROOT / "examples").glob("*.py"):
        text = pages[f"examples/{path.stem}.md"]
        code = text.split("```python\n")[1].removesuffix("```\n")
        assert code.strip() and path.read_text(encoding="utf-8").endswith(code)


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("quickstart.md", "[d](../examples/digits.py)", "[d](examples/digits.md)"),
        ("quickstart.md", "[a](arguments.md#how-long)", "[a](arguments.md#how-long)"),
        ("quickstart.md", "see [t](../tests/test_docs.py).", "see t."),
        ("contributing.md", "[d](docs/differences.md)", "[d](differences.md)"),
        ("contributing.md", "[d](docs/)", "[d](index.md)"),
        ("contributing.md", "[e](examples)", "[e](examples.md)"),
        (
            "index.md",
            "[w](https://example.org/x.md) [h](#here)",
            "[w](https://example.org/x.md) [h](#here)",
        ),
        ("index.md", "```\n[x](../tests/a.py)\n```", "```\n[x](../tests/a.py)\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site(page: str, text: str, expected: str) -> None:
    assert SITE.relink(text, page) == expected


def test_nothing_is_fetched_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False and CONFIG["strict"] is True
    assert (ROOT / "docs" / SITE.OWN).is_file()

    class Page:
        class file:
            src_uri = "api/leyden.md"

    text = f'<script src="{SITE.FETCHED}"></script>'
    assert SITE.on_post_page(text, Page(), None) == f'<script src="../{SITE.OWN}"></script>'
    assert SITE.on_post_template(text, "404.html", None) == f'<script src="{SITE.OWN}"></script>'


def test_a_page_that_fetches_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<link rel=icon href=icon.png> <a href="https://a.b">x</a>')
    assert SITE.fetched(tmp_path) == []
    (tmp_path / "b.html").write_text('<script async src="https://a.b/c.js"></script>')
    assert SITE.fetched(tmp_path) == ['b.html: <script async src="https://a.b/c.js">']


def test_the_states_of_a_run_are_a_picture_of_their_text() -> None:
    states = tool("site_states")
    assert set(states.PLACES) == {phase.name for phase in Phase}
    page = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    shown = states.with_picture(page)
    assert "mermaid" not in shown and shown.count("<svg") == 1
    moves = re.findall(r"^    (\w+) --> \w+: (\w+)$", page, re.MULTILINE)
    drawn = re.findall(r'class="move"[^>]*>(\w+)<', shown)
    assert sorted(drawn) == sorted(move for source, move in moves if source != "INTERRUPTED")
    assert len(drawn) > 10 and shown.count("<rect") == len(Phase)

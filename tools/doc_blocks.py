"""Run the Python in README.md and docs/, and compare what it prints with what stands there.

python tools/doc_blocks.py [PAGE ...]           put in what the blocks print now
python tools/doc_blocks.py --check [PAGE ...]   only say whether it is the same, by the exit status

The ```python blocks of a page run one after the other in one namespace and an empty folder, with
warnings as errors. A ```text block right after one of them is what it prints.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "blocks", "main", "pages", "run"]

ROOT = Path(__file__).resolve().parent.parent
_FENCED = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n\s*^```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A piece of Python on a page.

    Attributes:
        line: where its code begins, from 1.
        code: the code.
        output: what the page says it prints; None where it says nothing.
        place: first and last character of the output on the page.
    """

    line: int
    code: str
    output: str | None
    place: tuple[int, int]


def pages() -> list[Path]:
    """Return the pages with Python in them."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path for path in found if path.exists() and blocks(path.read_text(encoding="utf-8"))]


def blocks(text: str) -> list[Block]:
    """Return the Python of a page, in order."""
    return [
        Block(
            text.count("\n", 0, match.start("code")) + 1,
            match["code"],
            match["output"],
            match.span("output"),
        )
        for match in _FENCED.finditer(text)
    ]


def run(path: Path, text: str) -> list[str]:
    """Run the blocks of a page in the current folder; return what each of them prints."""
    namespace: dict[str, object] = {"__name__": path.stem}
    printed = []
    for block in blocks(text):
        # Empty lines in front: a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(path), "exec")
        out = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(out):
            warnings.simplefilter("error")
            # ignite imports torch.distributed.optim, which still compiles with torch.jit.
            warnings.filterwarnings("ignore", r".torch\.jit\.\w+. is deprecated")
            exec(code, namespace)
        lines = (line.rstrip() for line in out.getvalue().splitlines())
        printed.append("\n".join(lines).strip("\n") + "\n" * bool(out.getvalue().strip()))
    return printed


def filled_in(path: Path) -> str:
    """Return the page with what its blocks print now; they run in a folder that is then removed."""
    text = path.read_text(encoding="utf-8")
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            printed = run(path, text)
        finally:
            os.chdir(before)
    for block, output in reversed(list(zip(blocks(text), printed, strict=True))):
        if block.output is not None:
            text = text[: block.place[0]] + output + text[block.place[1] :]
    return text


def main(arguments: list[str]) -> int:
    """Write or check the pages; return the exit status."""
    check = arguments[:1] == ["--check"]
    chosen = [Path(name).resolve() for name in arguments[check:]] or pages()
    changed = 0
    for path in chosen:
        text = filled_in(path)
        if text != path.read_text(encoding="utf-8"):
            changed += 1
            print(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    return int(check and changed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

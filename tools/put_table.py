"""Put the table that the benchmarks write into README.md and docs/performance.md.

make bench-peers ARGS=--table=table.md && python tools/put_table.py table.md
"""

import sys
from pathlib import Path

__all__ = ["main", "put"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
BEGIN, END = "<!-- benchmark table -->", "<!-- end of the table -->"


def put(text: str, table: str) -> str:
    """Return the text of a page with the table between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write the pages; return the exit status."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    table = Path(arguments[0]).read_text(encoding="utf-8")
    for page in PAGES:
        page.write_text(put(page.read_text(encoding="utf-8"), table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a process sends does not grow with their number, and the page says what it is."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_page_has_the_messages_that_are_counted() -> None:
    # In a process of its own: it makes a process group.
    command = [sys.executable, str(ROOT / "tools" / "messages.py")]
    table = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    assert f"<!-- messages -->\n{table.strip()}\n<!--" in page, (
        "python tools/messages.py --page puts it there"
    )
    rows = [row.split("|")[2:] for row in table.splitlines()[2:]]
    assert rows[0] == rows[2] == rows[4] and rows[1] == rows[3] == rows[5]

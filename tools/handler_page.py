"""Write the table of handlers in docs/handlers.md from the classes that `leyden.handlers` exports.

python tools/handler_page.py           write the file
python tools/handler_page.py --check   only say whether it is up to date, by the exit status
"""

import inspect
import re
import sys
from pathlib import Path

import leyden.handlers
from leyden.handlers import CallbackBase, Handler

__all__ = ["exported", "main", "page"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "handlers.md"
BEGIN, END = "<!-- made by tools/handler_page.py -->", "<!-- end -->"


def exported() -> dict[str, type]:
    """Return the handlers that are there to be used: no bases."""
    found = {name: getattr(leyden.handlers, name) for name in leyden.handlers.__all__}
    return {
        name: one
        for name, one in found.items()
        if inspect.isclass(one) and callable(getattr(one, "attach", None))
        if not name.endswith("Base") and one is not Handler
    }


def _sentence(one: type) -> str:
    """The first sentence of a docstring, its markup turned into Markdown's."""
    text = " ".join(inspect.cleandoc(one.__doc__ or "").split("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]*)`", lambda found: found[1].split(".")[-1], text)
    return text.replace("``", "`").replace("|", "\\|")


def page() -> str:
    """Return docs/handlers.md with its table made anew."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    rows = ["| handler | what it does | rank | keeps |", "| --- | --- | --- | --- |"]
    for name, one in sorted(exported().items()):
        callback = issubclass(one, CallbackBase)
        rank = f"callback, {one.order:g}" if callback else f"{getattr(one, 'order', 50):g}"
        if getattr(one, "order_reason", ""):
            rank += f": {one.order_reason}"
        if "state_dict" in vars(one):
            keeps = "yes"
        else:
            keeps = ", ".join(f"`{key}`" for key in getattr(one, "state_keys", ()))
        rows.append(f"| `{name}` | {_sentence(one)} | {rank} | {keeps} |")
    return f"{before}{BEGIN}\n\n{chr(10).join(rows)}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Write or check the table; return the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    text = page()
    if arguments:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Read hyper-parameters from files that loggers and users write: YAML, and the old CSV of tags."""

import csv
import re
from pathlib import Path
from typing import Any

from leyden.hparams import AttributeDict

__all__ = ["read_hparams", "read_yaml"]

_NUMBER = re.compile(r"[-+]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_SPECIAL = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", ".Inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN"), float("nan")),
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", '"': '"', "\\": "\\", "/": "/", "e": "\x1b"}


class _Beyond(ValueError):
    """The text uses more of YAML than is read here."""


def read_hparams(path: str | Path) -> AttributeDict:
    """Read hyper-parameters from a ``.yaml``, ``.yml`` or ``.csv`` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, or holds no names.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".yaml", ".yml", ".csv"):
        raise ValueError(
            f"hparams_file={str(path)!r} is of an unknown kind: use .yaml, .yml or .csv"
        )
    text = path.read_text(encoding="utf-8")
    if kind == ".csv":
        return AttributeDict(
            {row["key"]: _scalar(row["value"]) for row in csv.DictReader(text.splitlines())}
        )
    found = read_yaml(text, str(path))
    if found is None:
        return AttributeDict()
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} holds a {type(found).__name__}: write names and values, `width: 3`"
        )
    return AttributeDict(found)


def read_yaml(text: str, name: str = "the text") -> Any:
    """Read YAML: mappings, sequences, flow collections, quoted and plain scalars, comments.

    Scalars are read by the core schema of YAML 1.2 (``1e-3`` is a number, ``yes`` a text). What
    goes beyond is left to PyYAML's safe loader where that is installed. Neither runs code.

    Args:
        text: The document.
        name: What to call it in an error.

    Raises:
        ValueError: The text is not YAML, or asks for objects of Python classes.
    """
    try:
        lines = _lines(text)
        if not lines:
            return None
        value, after = _block(lines, 0, lines[0][0])
        if after != len(lines):
            raise _Beyond(lines[after][1])
        return value
    except _Beyond as beyond:
        return _by_pyyaml(text, name, beyond)


def _by_pyyaml(text: str, name: str, beyond: _Beyond) -> Any:
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise ValueError(
            f"{name} uses more of YAML than leyden reads by itself, near {str(beyond)!r}: "
            "pip install 'leyden[yaml]', or write plain names and values"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} cannot be read as plain data: {error}") from error


def _lines(text: str) -> list[tuple[int, str]]:
    """Return (indentation, content) of each line that is not blank, without comments."""
    found: list[tuple[int, str]] = []
    for line in text.splitlines():
        content = _without_comment(line).rstrip()
        bare = content.lstrip(" ")
        if not bare or (bare == "---" and not found):
            continue
        if bare.startswith(("\t", "%", "? ", "---", "...")):
            raise _Beyond(bare)
        found.append((len(content) - len(bare), bare))
    return found


def _without_comment(line: str) -> str:
    quote = ""
    for i, char in enumerate(line):
        if quote:
            # A doubled quote closes and opens again, which comes to the same.
            if char == quote and not (quote == '"' and line[i - 1] == "\\"):
                quote = ""
        elif char in "'\"" and (i == 0 or line[i - 1] in " [{,:-"):
            quote = char
        elif char == "#" and (i == 0 or line[i - 1] in " \t"):
            return line[:i]
    return line


def _block(lines: list[tuple[int, str]], at: int, indent: int) -> tuple[Any, int]:
    """Read the block that begins at line ``at`` and is indented by ``indent``."""
    first = lines[at][1]
    if first == "-" or first.startswith("- "):
        return _sequence(lines, at, indent)
    if _key(first) is not None:
        return _mapping(lines, at, indent)
    return _value(first), at + 1


def _sequence(lines: list[tuple[int, str]], at: int, indent: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while at < len(lines) and lines[at][0] == indent:
        text = lines[at][1]
        if not (text == "-" or text.startswith("- ")):
            break
        rest = text[1:].lstrip(" ")
        if rest:
            # What follows the dash is a block of its own, indented by where it stands.
            inner = indent + len(text) - len(rest)
            lines[at] = (inner, rest)
            value, at = _block(lines, at, inner)
        else:
            value, at = _nested(lines, at + 1, indent)
        items.append(value)
    return items, at


def _mapping(lines: list[tuple[int, str]], at: int, indent: int) -> tuple[dict[Any, Any], int]:
    found: dict[Any, Any] = {}
    while at < len(lines) and lines[at][0] == indent:
        text = lines[at][1]
        split = _key(text)
        if split is None:
            raise _Beyond(text)
        key, rest = split
        at += 1
        if rest:
            if at < len(lines) and lines[at][0] > indent:
                raise _Beyond(lines[at][1])  # A scalar that goes on in the next line.
            found[key] = _value(rest)
        elif at < len(lines) and lines[at][0] == indent and lines[at][1].startswith("-"):
            found[key], at = _sequence(lines, at, indent)
        else:
            found[key], at = _nested(lines, at, indent)
    if at < len(lines) and lines[at][0] > indent:
        raise _Beyond(lines[at][1])
    return found, at


def _nested(lines: list[tuple[int, str]], at: int, indent: int) -> tuple[Any, int]:
    if at < len(lines) and lines[at][0] > indent:
        return _block(lines, at, lines[at][0])
    return None, at


def _key(text: str) -> tuple[Any, str] | None:
    """Split ``key: value``; None if the line is no such pair."""
    if text[0] in "'\"":
        key, end = _quoted(text, 0)
        rest = text[end:].lstrip(" ")
        if not (rest == ":" or rest.startswith(": ")):
            return None
        return key, rest[1:].strip()
    if text[0] in "[{":
        return None
    if text[0] in "&*!|>@`":
        raise _Beyond(text)
    match = re.match(r"(.*?):(?:\s+(.*))?$", text)
    if match is None:
        return None
    return _scalar(match.group(1).strip()), (match.group(2) or "").strip()


def _value(text: str) -> Any:
    value, end = _flow(text, 0, "")
    if text[end:].strip():
        raise _Beyond(text)
    return value


def _flow(text: str, at: int, stops: str) -> tuple[Any, int]:
    """Read one value from ``at``; a plain scalar ends at any of ``stops``."""
    at = _skip(text, at)
    char = text[at : at + 1]
    if char and char in "'\"":
        return _quoted(text, at)
    if char == "[":
        return _flow_sequence(text, at + 1)
    if char == "{":
        return _flow_mapping(text, at + 1)
    if char and char in "&*!|>@`%":
        raise _Beyond(text)
    end = at
    while end < len(text) and text[end] not in stops:
        if stops and text[end] == ":" and text[end + 1 : end + 2] in ("", " ", ",", "}"):
            break
        end += 1
    plain = text[at:end].strip()
    if not stops and re.search(r":(\s|$)", plain):
        raise _Beyond(text)
    return _scalar(plain), end


def _flow_sequence(text: str, at: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while True:
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return items, at + 1
        value, at = _flow(text, at, ",]}")
        items.append(value)
        at = _next(text, at, "]")


def _flow_mapping(text: str, at: int) -> tuple[dict[Any, Any], int]:
    found: dict[Any, Any] = {}
    while True:
        at = _skip(text, at)
        if text[at : at + 1] == "}":
            return found, at + 1
        key, at = _flow(text, at, ",]}")
        at = _skip(text, at)
        if text[at : at + 1] != ":" or isinstance(key, (list, dict)):
            raise _Beyond(text)
        found[key], at = _flow(text, at + 1, ",]}")
        at = _next(text, at, "}")


def _next(text: str, at: int, close: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        return at + 1
    if text[at : at + 1] == close:
        return at
    raise _Beyond(text)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] == " ":
        at += 1
    return at


def _quoted(text: str, at: int) -> tuple[str, int]:
    quote, at, out = text[at], at + 1, []
    while at < len(text):
        char = text[at]
        if char == quote:
            if quote == "'" and text[at + 1 : at + 2] == "'":
                out.append("'")
                at += 2
                continue
            return "".join(out), at + 1
        if char == "\\" and quote == '"':
            escaped = _ESCAPES.get(text[at + 1 : at + 2])
            if escaped is None:
                raise _Beyond(text)
            out.append(escaped)
            at += 2
            continue
        out.append(char)
        at += 1
    raise _Beyond(text)  # It goes on in the next line.


def _scalar(text: str) -> Any:
    """Read a plain scalar: null, truth value, number or text."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    digits = text.replace("_", "")
    whole = (
        match.group(2) is None and match.group(3) is None and not text.startswith((".", "-.", "+."))
    )
    return int(digits) if whole else float(digits)

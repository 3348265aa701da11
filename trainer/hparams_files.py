"""Read hyper-parameters from files that loggers and users write: YAML, and the old CSV of tags."""

import ast
import csv
import re
from pathlib import Path
from typing import Any

from leyden.hparams import AttributeDict

__all__ = ["convert", "read_hparams", "read_yaml"]

#: What PyYAML, which reads YAML 1.1, takes for text, and Python and YAML 1.2 for a number: 1e-3.
_EXPONENT = re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+")


def read_hparams(path: str | Path) -> AttributeDict:
    """Read hyper-parameters from a ``.yaml``, ``.yml`` or ``.csv`` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, or holds no names.
        ImportError: It is YAML, and PyYAML is not installed.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".yaml", ".yml", ".csv"):
        raise ValueError(
            f"hparams_file={str(path)!r} is of an unknown kind: use .yaml, .yml or .csv"
        )
    text = path.read_text(encoding="utf-8")
    if kind == ".csv":
        rows = csv.DictReader(text.splitlines())
        return AttributeDict({row["key"]: convert(row["value"]) for row in rows})
    found = read_yaml(text, str(path))
    if found is None:
        return AttributeDict()
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} holds a {type(found).__name__}: write names and values, `width: 3`"
        )
    return AttributeDict(found)


def convert(val: str) -> Any:
    """Read text as a Python literal; text that is none stays text.

    Example:
        >>> convert("[1, 2]"), convert("0.5"), convert("adam")
        ([1, 2], 0.5, 'adam')
    """
    try:
        return ast.literal_eval(val)
    except (ValueError, SyntaxError):
        return val


def read_yaml(text: str, name: str = "the text") -> Any:
    """Read plain data from YAML, by PyYAML's safe loader: no code of the file runs.

    ``1e-3`` is a number, as in YAML 1.2.

    Args:
        text: The document.
        name: What to call it in an error.

    Raises:
        ValueError: The text is not YAML, or asks for objects of Python classes.
        ImportError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            f"{name} is YAML, and PyYAML, which reads it, is not installed: "
            "pip install 'leyden[yaml]', or pass the values by keyword"
        ) from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
        """A safe loader of our own: the resolver must not be there for everybody's."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)  # noqa: S506  # derived from the safe one
    except yaml.YAMLError as error:
        raise ValueError(f"{name} cannot be read as plain data: {error}") from error

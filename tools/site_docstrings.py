"""How the API pages read the sources: an extension of griffe, named in mkdocs.yml.

griffe knows doctests under the heading "Examples:" only, and roles of Sphinx not at all.
"""

import ast
import re
from typing import Any

from griffe import Extension

__all__ = ["Docstrings"]

_ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|exc):`~?([^`]+)`")


class Docstrings(Extension):
    """Brings each docstring into the form that griffe knows."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Change the docstring of one object, before it is parsed."""
        if obj.docstring is None:
            return
        text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
        text = _ROLE.sub(r"`\1`", text)
        # In reST these two colons announce the block that is indented below.
        obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)

    def on_class_members(self, *, node: Any, cls: Any, agent: Any, **kwargs: Any) -> None:
        """Take the constructor that type checkers see, where that at run time only checks."""
        for statement in getattr(node, "body", []):
            if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
                for inner in statement.body:
                    if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                        agent.visit(inner)

"""Ready parts among ``Trainer(plugins=...)``."""

from typing import Any, TypeVar

__all__ = ["named", "plugin_of"]

Part = TypeVar("Part")


def plugin_of(plugins: Any, kind: type[Part]) -> Part | None:
    """Return the part of a kind that ``plugins`` (one part, a list of them, or None) brings."""
    parts = plugins if isinstance(plugins, (list, tuple)) else (plugins,)
    return next((part for part in parts if isinstance(part, kind)), None)


def named(plugins: Any, name: str) -> bool:
    """Whether ``plugins`` asks for a part by this name."""
    return name in (plugins if isinstance(plugins, (list, tuple)) else (plugins,))

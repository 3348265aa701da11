"""Tell whether a hook really does something; the name that the facade uses."""

from leyden.handlers.overrides import overrides

__all__ = ["overrides"]

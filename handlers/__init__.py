"""leyden.handlers."""

"""leyden.engine."""

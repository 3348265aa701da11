"""leyden.backends."""

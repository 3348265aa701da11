"""Devices, precision and distributed strategies, each in a module of its own."""

__all__: list[str] = []

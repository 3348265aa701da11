"""What a Lightning-style callback is to the engine."""

__all__ = ["CallbackBase"]


class CallbackBase:
    """A handler whose methods are Lightning's hooks."""

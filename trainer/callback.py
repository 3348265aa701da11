"""Callback: Lightning's hooks in a class of their own, apart from the model."""

from leyden.handlers.callback import Callback

__all__ = ["Callback"]

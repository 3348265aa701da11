"""What a handler is called where people read it: in the plan, the trace and the cost."""

from collections.abc import Callable
from functools import partial
from typing import Any

from leyden.handlers.callback_base import CallbackBase

__all__ = ["handler_name", "handler_origin"]


def handler_name(handler: Callable[..., Any], owner: Any = None) -> str:
    """Return class and method, as short as they are clear.

    Args:
        handler: the function that was attached.
        owner: whatever attached it, as given to ``Engine.listen``.

    Example:
        >>> class Greeter:
        ...     def _hello(self, engine): ...
        >>> handler_name(Greeter()._hello)
        'Greeter.hello'
    """
    bound = getattr(handler, "__self__", None)
    name = str(getattr(handler, "__name__", ""))
    model = getattr(owner, "model", None)
    if isinstance(handler, partial):
        return f"partial({getattr(handler.func, '__name__', type(handler.func).__name__)})"
    if bound is not None and not isinstance(bound, type):
        return f"{type(bound).__name__}.{name.lstrip('_')}"
    if not name:
        return type(handler).__name__
    local = str(getattr(handler, "__qualname__", name)).split("<locals>.")[-1]
    if isinstance(owner, CallbackBase):
        return f"{type(owner).__name__}.{name}"  # where a base class defines the hook, too
    if "." in local and callable(getattr(model, name, None)):
        return f"{type(model).__name__}.{name}"
    if name == "<lambda>":
        local = "a lambda"
    if owner is not None and "." not in local:
        return f"{type(owner).__name__}.{local.lstrip('_')}"
    return local


def handler_origin(handler: Callable[..., Any], owner: Any = None) -> str:
    """Return the argument, callback or call that put a handler there."""
    owner = owner or getattr(handler, "__self__", None)
    return getattr(owner, "origin", "") or "attached by hand"

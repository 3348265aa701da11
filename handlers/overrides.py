"""Tell whether a hook really does something, so that only such hooks are ever called."""

from functools import partial
from inspect import getattr_static
from types import FunctionType, MethodType
from typing import Any

__all__ = ["overrides"]


def overrides(obj: object, name: str, base: type) -> bool:
    """Say whether calling ``obj.name`` would run anything but the default body in ``base``.

    The default reached by another road (bound, inherited, or through ``functools.partial``) is no
    override, and neither is None or a missing attribute: setting ``model.validation_step = None``
    takes a hook away. Everything else is one: a method of a subclass, a function or mock put on the
    instance or on the class, a wrapper around the default (a wrapper has a body of its own: a spy
    must see its calls), and a patch of ``base`` itself.

    Args:
        obj: The module, data module or callback.
        name: The name of the hook.
        base: The class whose body is the default.

    Example:
        >>> from leyden.callback import Callback
        >>> class Mine(Callback):
        ...     def on_fit_end(self, trainer, pl_module): ...
        >>> overrides(Mine(), "on_fit_end", Callback), overrides(Mine(), "setup", Callback)
        (True, False)
    """
    found = _unbound(getattr(obj, name, None))
    if found is None or not callable(found):
        return False
    default = _unbound(getattr_static(base, name, None))
    return found is not default or not _untouched(default, name, base)


def _unbound(found: Any) -> Any:
    """Strip what adds arguments but no body of its own."""
    while True:
        if isinstance(found, MethodType):
            found = found.__func__
        elif isinstance(found, partial):
            found = found.func
        elif isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
        else:
            return found


def _untouched(default: Any, name: str, base: type) -> bool:
    """Say whether ``default`` is still the function that the class statement made."""
    if not isinstance(default, FunctionType) or hasattr(default, "__wrapped__"):
        return False
    owner = next((cls for cls in base.__mro__ if name in vars(cls)), base)
    return default.__qualname__ == f"{owner.__qualname__}.{name}"

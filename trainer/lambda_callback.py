"""LambdaCallback: a callback of functions."""

import difflib
from collections.abc import Callable
from typing import Any

from leyden.callback import Callback
from leyden.exceptions import MisconfiguredType, MisconfiguredValue

__all__ = ["LambdaCallback"]


class LambdaCallback(Callback):
    """A callback made of functions, one for each hook.

    Args:
        hooks: For each hook by its name a function that takes the hook's arguments; None for none.

    Raises:
        MisconfigurationException: There is no such hook, or the value is no function.

    Example:
        >>> seen = []
        >>> callback = LambdaCallback(on_fit_end=lambda trainer, pl_module: seen.append("end"))
        >>> callback.on_fit_end(None, None)
        >>> seen
        ['end']
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        super().__init__()
        known = [name for name in vars(Callback) if name.startswith("on_")] + ["setup", "teardown"]
        for name, function in hooks.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = (
                    f"did you mean {near[0]!r}?"
                    if near
                    else f"there are {', '.join(sorted(known))}"
                )
                raise MisconfiguredValue(
                    f"LambdaCallback({name}=...): there is no such hook, {hint}"
                )
            if function is None:
                continue
            if not callable(function):
                raise MisconfiguredType(
                    f"LambdaCallback({name}={function!r}): "
                    f"pass a function, not a {type(function).__name__}"
                )
            setattr(self, name, function)

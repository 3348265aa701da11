"""The mark on methods of the Trainer that need all processes of a run."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["launched"]

Method = TypeVar("Method", bound=Callable[..., Any])


def launched(name: str) -> Callable[[Method], Method]:
    """Have a method start the processes where that is left to leyden; otherwise it just runs.

    Args:
        name: of the method, as the Trainer knows it.
    """

    def mark(method: Method) -> Method:
        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            trainer = getattr(self, "_trainer", self)
            strategy = trainer._run.strategy
            if strategy.launcher is not None:
                from leyden.launching import launch

                return launch(trainer, name, args, kwargs)
            if strategy.started_by is None:
                return method(self, *args, **kwargs)
            return strategy.started_by.guarded(method, self, *args, **kwargs)

        # The parameters are those of Lightning 1.1: what came later is in **later.
        signature = inspect.signature(method)
        shown = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        call.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return mark

"""Callbacks that were written for another Lightning, as handlers: ``lightning.pytorch`` 2.x.

A class of the user's own that derives from Lightning's ``Callback`` works: its hooks are bound to
the events as those of a leyden Callback are. What Lightning ships itself reaches into the loops of
its own Trainer, and is refused with the name of what does the same here.
"""

from collections.abc import Callable
from inspect import getattr_static
from typing import Any

from leyden.engine.errors import MisconfiguredType
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.hooks import HOOKS, accepted
from leyden.handlers.overrides import overrides

__all__ = ["ForeignCallback", "adapted", "is_foreign"]

PACKAGES = ("lightning.", "lightning_fabric.", "pytorch_lightning.")
NAMES = (
    *dict.fromkeys(hook.name for hook in HOOKS if hook.callback),
    "on_exception",
    "on_init_end",
    "on_init_start",
    "on_keyboard_interrupt",
    "setup",
    "teardown",
)
#: hooks that came after Lightning 1.1: what answers to every name, a mock, is not asked for them.
LATER = ("on_before_backward", "on_before_optimizer_step", "on_exception", "on_train_epoch_metrics")
#: of Lightning's own those that only call what the user gave them.
HARMLESS = ("Callback", "LambdaCallback")


class ForeignCallback(CallbackBase):
    """Binds the hooks of a callback that has no ``attach``.

    Args:
        callback: the callback; its own class says which hooks it overrides.

    Source: Lightning 2.x, where ``on_train_batch_end`` gets what ``training_step`` returned; the
    other hooks take what those of leyden take, or less.
    """

    def __init__(self, callback: Any) -> None:
        super().__init__()
        self.callback = callback
        base = next(
            (kind for kind in type(callback).__mro__ if kind.__name__ == "Callback"), object
        )
        for name in NAMES:
            if _answers_only(callback, name):
                if name not in LATER and not name.startswith("on_predict"):
                    setattr(self, name, getattr(callback, name))
            elif overrides(callback, name, base):
                setattr(self, name, self._taking(name, getattr(callback, name)))

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint: the callback's own."""
        found = getattr(self.callback, "state_key", None)
        return found if isinstance(found, str) else type(self.callback).__qualname__

    def _taking(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        if name == "on_train_batch_end":
            taken = accepted(hook, 2)

            def with_returned(trainer: Any, module: Any, outputs: Any, *rest: Any) -> Any:
                return hook(trainer, module, *(_returned(outputs), *rest)[:taken])

            return with_returned
        return hook


def _returned(outputs: Any) -> Any:
    """What the last turn of ``training_step`` returned, as a dict; None if it returned nothing."""
    if not outputs or not outputs[-1]:
        return None
    last = dict(outputs[-1][-1])
    for name in ("minimize", "extra"):
        last.pop(name, None)
    return last


def _answers_only(callback: Any, name: str) -> bool:
    """Whether a callback has this name by ``__getattr__`` alone."""
    return getattr_static(callback, name, None) is None and callable(getattr(callback, name, None))


def is_foreign(callback: Any) -> bool:
    """Whether an object has the hooks of a callback and no ``attach`` of its own, as a mock has."""
    hooks = ("setup", "on_fit_start")
    # Statically: a mock answers to every name.
    return getattr_static(callback, "attach", None) is None and all(
        callable(getattr(callback, name, None)) for name in hooks
    )


def adapted(callback: Any, origin: str) -> ForeignCallback:
    """The handler that binds a foreign callback.

    Raises:
        MisconfigurationException: it is one of those that Lightning ships.
    """
    for kind in type(callback).__mro__:
        if kind.__module__.startswith(PACKAGES) and kind.__name__ not in HARMLESS:
            from leyden import callbacks

            name = kind.__name__
            same = name in callbacks.__all__
            cure = (
                f"use leyden.callbacks.{name}" if same else "derive your own from leyden.Callback"
            )
            raise MisconfiguredType(
                f"{origin}={type(callback).__name__}(...) is a {kind.__module__}.{name}, which "
                f"works on the inside of Lightning's own Trainer: {cure}"
            )
    # Under its own name in the plan, and in trainer.handlers.
    kind = type(type(callback).__name__, (ForeignCallback,), {"__doc__": type(callback).__doc__})
    made: ForeignCallback = kind(callback)
    return made

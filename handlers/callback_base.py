"""What a Lightning-style callback is to the engine: a handler whose hooks are bound to events."""

from typing import Any, ClassVar

from leyden.engine import Engine
from leyden.engine.step import Scope
from leyden.handlers.base import Handler
from leyden.handlers.hooks import bind_callback, hooks_of
from leyden.handlers.overrides import overrides

__all__ = ["CallbackBase"]


class CallbackBase(Handler):
    """A handler whose methods are Lightning's hooks: ``on_train_start(trainer, pl_module)`` ...

    Only hooks that a subclass really defines are bound, each to its event (see
    ``leyden.handlers.hooks``). On an engine without a Trainer, ``trainer`` is what
    ``engine.state.trainer`` holds; set it first.

    Attributes:
        order: rank among the callbacks of one event, 0 to 99; lower runs first, equal ranks in the
            order of the list.
        hook_base: the class whose hook bodies count as not overridden.
    """

    order: ClassVar[float] = 50
    hook_base: ClassVar[type | None] = None

    def attach(self, engine: Engine) -> None:
        """Bind the overridden hooks to the events of ``engine``, by its ``state.stage``."""
        self.make_ready(engine)
        state: Any = engine.state
        scope = getattr(state, "scope", None) or Scope()
        for hook in hooks_of(getattr(state, "stage", "train")):
            if hook.callback and self.defines(hook.name):
                bind_callback(
                    engine,
                    hook,
                    getattr(self, hook.name),
                    order=self.order,
                    listen=self.listen,
                    scope=scope,
                )

    def defines(self, name: str) -> bool:
        """Whether this callback really has the hook ``name``."""
        return overrides(self, name, self.hook_base or CallbackBase)

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint; override it to tell instances apart."""
        return type(self).__qualname__

    def _state_key_of(self, **arguments: Any) -> str:
        return f"{type(self).__qualname__}{arguments!r}"

"""The handlers of a run: listed, added to, removed from and replaced at any time."""

from collections.abc import Callable, Iterator
from typing import Any

from leyden.engine import Engine

__all__ = ["HandlerSet"]


class HandlerSet:
    """What is attached to the engines of a Trainer, in the order it was put there.

    Args:
        engines: gives the engines that a handler of this kind listens on.

    Example:
        >>> from leyden import Trainer
        >>> trainer = Trainer(logger=False, checkpoint_callback=False, gradient_clip_val=0.5)
        >>> clipping = trainer.handlers["GradientClipping"]
        >>> clipping.limit, clipping.origin
        (0.5, 'gradient_clip_val=0.5')
        >>> trainer.handlers.remove(clipping)
        >>> "GradientClipping" in trainer.handlers
        False
    """

    def __init__(self, engines: Callable[[Any], list[Engine]]) -> None:
        self._engines = engines
        self._handlers: list[Any] = []
        # What was looked up by class or name: some is asked for at every batch.
        self._found: dict[str | type, Any] = {}

    def add(self, handler: Any, *, origin: str = "trainer.handlers.add") -> Any:
        """Attach a handler (ours, ignite's, anything with ``attach(engine)``) and give it back."""
        if not callable(getattr(handler, "attach", None)):
            raise TypeError(
                f"{handler!r} has no attach(engine): pass a leyden or ignite handler, or use "
                "trainer.engine.add_event_handler(event, function) for a plain function"
            )
        if any(known is handler for known in self._handlers):
            raise ValueError(f"{handler!r} is attached already: make another instance")
        if not getattr(handler, "origin", None):
            try:
                handler.origin = origin
            except AttributeError:
                pass  # an object with slots: the plan shows it without its origin
        self._handlers.append(handler)
        self._found = {}
        self._attach(handler)
        return handler

    def remove(self, handler: Any) -> None:
        """Detach a handler, given itself, its class or its class's name."""
        found = self[handler] if isinstance(handler, (str, type)) else handler
        if not any(known is found for known in self._handlers):
            raise ValueError(f"{handler!r} is not attached: give one of {self.names()}")
        self._handlers = [known for known in self._handlers if known is not found]
        self._found = {}
        self._detach(found)

    def replace(self, old: Any, new: Any) -> Any:
        """Put ``new`` in the place of ``old`` (itself, its class or name)."""
        found = self[old] if isinstance(old, (str, type)) else old
        place = next((i for i, known in enumerate(self._handlers) if known is found), None)
        if place is None:
            raise ValueError(f"{old!r} is not attached: give one of {self.names()}")
        self.add(new, origin=f"replaces {type(found).__name__}")
        self._handlers.remove(new)
        self._handlers[place] = new
        self._found = {}
        self._detach(found)
        return new

    def refresh(self, handler: Any) -> None:
        """Attach a handler anew: what it overrides may have changed."""
        self._detach(handler)
        self._attach(handler)

    def names(self) -> list[str]:
        """The class names, in order."""
        return [type(handler).__name__ for handler in self._handlers]

    def _attach(self, handler: Any) -> None:
        for engine in self._engines(handler):
            handler.attach(engine)

    def _detach(self, handler: Any) -> None:
        try:
            handler.detach()
        except TypeError:  # ignite's handlers take the engine
            for engine in self._engines(handler):
                handler.detach(engine)
        except AttributeError:
            raise TypeError(
                f"{type(handler).__name__} cannot be removed: it has no detach(); remove its "
                "functions with trainer.engine.remove_event_handler"
            ) from None

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._handlers))

    def __len__(self) -> int:
        return len(self._handlers)

    def __contains__(self, what: Any) -> bool:
        return any(known is what or _named(known, what) for known in self._handlers)

    def __getitem__(self, what: str | type | int) -> Any:
        """The first handler of a class, given by itself or by name, or the i-th."""
        if isinstance(what, int):
            return self._handlers[what]
        if what in self._found:
            return self._found[what]
        for handler in self._handlers:
            if _named(handler, what):
                self._found[what] = handler
                return handler
        raise KeyError(f"no handler {what!r}; there are {self.names()}")

    def __repr__(self) -> str:
        return f"HandlerSet({', '.join(self.names())})"


def _named(handler: Any, what: Any) -> bool:
    if isinstance(what, type):
        return isinstance(handler, what)
    return any(kind.__name__ == what for kind in type(handler).__mro__)

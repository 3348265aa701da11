"""What a Trainer is doing."""

from collections.abc import Callable
from functools import wraps
from typing import Any

__all__ = ["TrainerState", "trainer_state"]


class TrainerState:
    """What a Trainer is doing. Source: Lightning 1.1, whose values are these texts."""

    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    INTERRUPTED = "INTERRUPTED"


def trainer_state(
    *, entering: str | None = None, exiting: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function of a Trainer: ``trainer.state`` is ``entering`` in it, then ``exiting``.

    Without ``entering`` the state stays; without ``exiting`` it is afterwards what it was before.
    INTERRUPTED, once set in the function, remains. What is called with something else than a
    Trainer runs as it is.

    Example:
        >>> from leyden import Trainer
        >>> @trainer_state(entering=TrainerState.RUNNING)
        ... def look(trainer):
        ...     return trainer.state
        >>> trainer = Trainer(logger=False, checkpoint_callback=False)
        >>> look(trainer), trainer.state
        ('RUNNING', 'INITIALIZING')
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            from leyden.trainer import Trainer

            if not isinstance(self, Trainer):
                return function(self, *args, **kwargs)
            before = self._state
            if entering is not None:
                self._state = entering
            result = function(self, *args, **kwargs)
            if self._state != TrainerState.INTERRUPTED:
                self._state = before if exiting is None else exiting
            return result

        return wrapped

    return decorated

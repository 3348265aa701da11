"""The base class of every feature: where it listens, what it keeps, when it runs."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from leyden.engine import Engine, EventsList, RemovableEventHandle, TrainerEvents
from leyden.engine.state import TrainState, give_state
from leyden.engine.step import register_training_events

__all__ = ["Handler", "Order"]


class Order:
    """Ranks among the handlers of one event; lower runs first, equal ranks in the order attached.

    They are plain numbers, so that a callback's own rank can be a fraction between two of them.
    """

    HOOKS = 10.0  # what users wrote sees the event first, as in Lightning
    METRICS = 30.0  # after the hooks: they may still log
    VALIDATION = 35.0  # after the training metrics: they are in the rows that validation writes
    LOGGERS = 40.0  # after validation: a flush includes its rows
    SCHEDULERS = 45.0  # after validation: ReduceLROnPlateau reads its metrics
    DEFAULT = 50.0  # ignite's handlers and everything attached by hand: all results are there
    STOPPING = 80.0  # after everything that may ask for the stop
    CHECKPOINT = 90.0  # after everything whose state it saves
    COUNTERS = 99.0  # last: all handlers of a batch see the counters of that batch


class Handler:
    """One feature of a run, attached to an engine.

    A subclass says in ``attach`` on which events it listens, and names in ``state_keys`` the
    attributes that a resumed run needs back. What it needs it takes through its constructor or
    from ``engine.state``.

    Attributes:
        order: rank among the handlers of the same event (see :class:`Order`).
        order_reason: why that rank.
        state_keys: names of the attributes that ``state_dict`` saves.
        origin: which argument or call put the handler there; the plan shows it.

    Example:
        >>> from leyden.engine import Engine, Events
        >>> class CountEpochs(Handler):
        ...     state_keys = ("epochs",)
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.epochs = 0
        ...     def attach(self, engine: Engine) -> None:
        ...         self.listen(engine, Events.EPOCH_COMPLETED, self.count)
        ...     def count(self, engine: Engine) -> None:
        ...         self.epochs += 1
        >>> counter = CountEpochs()
        >>> engine = Engine(lambda engine, batch: None)
        >>> counter.attach(engine)
        >>> _ = engine.run([1, 2], max_epochs=3)
        >>> counter.epochs, counter.state_dict()
        (3, {'epochs': 3})
    """

    order: ClassVar[float] = Order.DEFAULT
    order_reason: ClassVar[str] = ""
    state_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.origin = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.state_keys, str):
            raise TypeError(
                f"{cls.__name__}.state_keys is the text {cls.state_keys!r}: "
                f"write a tuple of names, ({cls.state_keys!r},)"
            )

    def attach(self, engine: Engine) -> None:
        """Listen on the events of ``engine``; the only place that names them."""
        raise TypeError(
            f"{type(self).__name__} does not say where it listens: define attach(self, engine)"
        )

    def listen(
        self,
        engine: Engine,
        event: Any,
        handler: Callable[[Engine], Any],
        *,
        order: float | None = None,
    ) -> RemovableEventHandle:
        """Attach ``handler(engine)`` to ``event`` and remember it for :meth:`detach`.

        An engine of the user's own gets the training events and a
        :class:`leyden.engine.state.TrainState` here, whichever of its handlers is attached first.

        Args:
            engine: the engine to listen on.
            event: an event, with any filter (``Events.ITERATION_COMPLETED(every=10)``).
            handler: called with the engine alone.
            order: rank on this event, where it differs from the class's ``order``.
        """
        self.make_ready(engine)
        singles = event if isinstance(event, EventsList) else (event,)
        if any(getattr(one, "name", None) in TrainerEvents.__members__ for one in singles):
            register_training_events(engine)
        rank = self.order if order is None else order
        handle = engine.listen(event, handler, order=rank, owner=self)
        self._handles().append(handle)
        return handle

    @staticmethod
    def make_ready(engine: Engine) -> None:
        """Give an engine of the user's own the state that handlers read; it keeps what is set."""
        if not isinstance(engine.state, TrainState):
            give_state(engine, TrainState)

    def detach(self) -> None:
        """Remove everything this handler attached, from every engine."""
        handles = self._handles()
        while handles:
            handles.pop().remove()

    @property
    def attached(self) -> bool:
        """Whether it listens anywhere now."""
        return bool(self._handles())

    def state_dict(self) -> dict[str, Any]:
        """The attributes named in ``state_keys``; empty if there is nothing to keep."""
        return {key: getattr(self, key) for key in self.state_keys}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the attributes named in ``state_keys``.

        Raises:
            KeyError: when ``state`` lacks one of them or has one more; nothing is changed then.
        """
        missing, unknown = set(self.state_keys) - set(state), set(state) - set(self.state_keys)
        if missing or unknown:
            raise KeyError(
                f"the state of {type(self).__name__} does not fit: missing {sorted(missing)}, "
                f"unknown {sorted(unknown)}; it was saved by another version or class"
            )
        for key in self.state_keys:
            setattr(self, key, state[key])

    def __getstate__(self) -> dict[str, Any]:
        # A copy, or one in another process, listens nowhere.
        return {k: v for k, v in self.__dict__.items() if k != "_attached_handles"}

    def _handles(self) -> list[RemovableEventHandle]:
        # Made on first use: user classes often forget super().__init__().
        try:
            return self.__dict__["_attached_handles"]  # type: ignore[no-any-return]
        except KeyError:
            handles: list[RemovableEventHandle] = []
            self.__dict__["_attached_handles"] = handles
            return handles

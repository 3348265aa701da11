"""The engine: ignite's contract, with its own run loop.

What a run is made of, from the outside in: :meth:`Engine.run` checks its arguments and decides
whether this is a new run or the rest of an old one; ``_internal_run`` makes the moves that begin
and end it; ``_run_epochs`` goes through the epochs; ``_run_batches`` is the loop over batches, the
only one. The rest of the engine is beside this file: attaching and firing in ``emitter.py``,
position and data in ``position.py``, the phases and the requests to stop in ``phases.py``, what
happens at an event in ``dispatch.py``.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from leyden.engine.events import Events, State
from leyden.engine.filters import NEVER
from leyden.engine.notice import warn
from leyden.engine.phases import FETCHING, STEPPING, Move, Phase
from leyden.engine.position import Resumable

__all__ = ["Engine"]

_TERMINATE_EPOCH_ADVICE = (
    "The method terminate_epoch() should not be called on Event.STARTED or Event.EPOCH_STARTED: "
    "call it once the first batch is being fetched, or terminate() to end the run"
)

# A member of an Enum is looked up through the metaclass, which a loop over batches would notice.
_GET_BATCH_STARTED = Events.GET_BATCH_STARTED
_ITERATION_STARTED = Events.ITERATION_STARTED


class _Silent:
    """Stands for the channel of an event that is not fired."""

    due = NEVER


class _Leave(BaseException):
    """The run leaves its loops, in one of three ways. Never seen outside of this file."""


class _Paused(_Leave):
    pass


class _Terminated(_Leave):
    pass


class _EpochTerminated(_Leave):
    pass


class Engine(Resumable):
    """Run a function over batches of data, and fire events on the way.

    An ``ignite.engine.Engine`` in every respect: what attaches to that attaches to this.

    Args:
        process_function: called with (engine, batch); what it returns becomes ``state.output``.
        data_ends_epoch: when True, an epoch ends with the data or after `epoch_length` batches,
            whichever comes first. The iterator of an epoch is made when the handlers of
            EPOCH_STARTED have run and is never restarted inside the epoch; an unknown length stays
            unknown; an epoch without batches is an epoch. When False (ignite's way) one iterator
            goes through all epochs and is restarted where it ends, and the first epoch of unknown
            length fixes the length.
        reraise: when True, an exception ends the run and reaches the caller as it was raised, after
            all listeners of EXCEPTION_RAISED ran. When False (ignite's way) a listener swallows it;
            one that came from a batch then only ends the epoch.

    Attributes:
        state: ignite's ``State``.
        last_event_name: the event that was fired last, with or without handlers.

    Example:
        >>> from leyden.engine import Engine, Events
        >>> engine = Engine(lambda engine, batch: batch * 2)
        >>> def show(engine):
        ...     print(engine.state.epoch, engine.state.output)
        >>> handle = engine.listen(Events.EPOCH_COMPLETED, show)
        >>> state = engine.run([1, 2, 3], max_epochs=2)
        1 6
        2 6
    """

    last_event_name: Any

    def __init__(
        self,
        process_function: Callable[[Any, Any], Any],
        *,
        data_ends_epoch: bool = False,
        reraise: bool = False,
    ) -> None:
        # The iteration at which the epoch ends, and what it was computed from.
        self._end = -1
        self._length_seen: int | None = None
        self._limit_seen: int | None = None
        self._paused_at: Any = None
        self._reported: BaseException | None = None
        self._run_clock = self._epoch_clock = 0.0
        super().__init__(process_function, data_ends_epoch=data_ends_epoch, reraise=reraise)

    def run(
        self,
        data: Iterable[Any] | None = None,
        max_epochs: int | None = None,
        max_iters: int | None = None,
        epoch_length: int | None = None,
    ) -> State:
        """Run the process function over the batches of `data`.

        A run that was interrupted, or a restored one, goes on. A run that was terminated or that
        failed goes on with its next epoch if it has one left; to go on inside that epoch, do
        ``engine.load_state_dict(engine.state_dict())`` first. Anything else begins at epoch 1;
        setting ``engine.state.max_epochs = None`` makes every run do so.

        Args:
            data: the batches; None gives ``None`` as each batch and needs an `epoch_length`.
            max_epochs: how many epochs; 1 if neither this nor `max_iters` is given.
            max_iters: how many batches in all, instead of `max_epochs`.
            epoch_length: how many batches make an epoch; the length of `data` if it has one,
                otherwise the first epoch tells. With `data_ends_epoch` it is an upper bound, and
                has no default.

        Returns:
            The state.

        Raises:
            TypeError: `data` is not iterable.
            ValueError: the arguments contradict each other, or the state of the run that goes on.
            RuntimeError: this engine is running.
        """
        if self._hub.engine is not None:
            raise RuntimeError(
                f"run() of an engine that is running, in phase {self.phase.name}: call it when the "
                "run has returned, or use another engine, as for validation"
            )
        if data is not None and not isinstance(data, Iterable):
            raise TypeError(
                f"Argument data should be iterable, got {type(data).__name__}: {data!r}"
            )
        if max_epochs is not None and max_iters is not None:
            raise ValueError(
                "Arguments max_iters and max_epochs are mutually exclusive. Please provide only "
                f"max_epochs or max_iters. Got max_epochs={max_epochs}, max_iters={max_iters}"
            )
        state = self.state
        for name, value, other in (
            ("max_iters", max_iters, "max_epochs"),
            ("max_epochs", max_epochs, "max_iters"),
        ):
            if value is not None and getattr(state, other) is not None:
                raise ValueError(
                    f"To switch from {other} to {name} mode during resume, you must first reset by "
                    f"setting 'engine.state.{other} = None' before calling run()."
                )
        if state.max_epochs is not None:
            self._check_and_set_max_epochs(max_epochs)
        if state.max_iters is not None:
            self._check_and_set_max_iters(max_iters)

        held = self._restored or self.phase is Phase.INTERRUPTED
        unlimited = state.max_epochs is None and state.max_iters is None
        if unlimited or (self._done() and not held):
            self._begin_anew(data, max_epochs, max_iters, epoch_length)
        else:
            self._go_on(data, epoch_length)
        if self._dataloader_iter is None:
            state.dataloader = data
        return self._internal_run()

    def _internal_run(self) -> State:
        machine, state = self._machine, self.state
        resume = self._paused_at if machine.phase is Phase.INTERRUPTED else None
        self._restored = False
        self._reported = None
        self._hub.engine = self
        try:
            try:
                self._tick(resume)
                if resume is None:
                    machine.clear()
                    machine.move(Move.START)
                    self._init_timers(state)
                    self._fire(Events.STARTED)
                self._run_epochs(resume)
                end = Move.COMPLETE
            except _Terminated:
                end = Move.TERMINATE
            machine.move(end)
            if end is Move.TERMINATE:
                self._registry.channel(Events.TERMINATE).fire()
            times = self.state.times
            times[Events.COMPLETED.name] = time.perf_counter() - self._run_clock
            if machine.terminate != "skip_completed":
                self._registry.channel(Events.COMPLETED).fire()
                times[Events.COMPLETED.name] = time.perf_counter() - self._run_clock
            self.logger.info(
                "Engine run finished. Time taken: %.3f s", times[Events.COMPLETED.name]
            )
        except _Paused:
            self._tock()
            return self.state
        except BaseException as error:
            if machine.phase is not Phase.IDLE:
                machine.move(Move.FAIL)
            self._dataloader_iter = None
            if not self.reraise:  # otherwise the caller sees it, which is better than a log
                self.logger.error("Engine run is terminating due to exception: %s", error)
            if error is self._reported:
                raise
            self._handle_exception(error)
        finally:
            self._hub.engine = None
        self._dataloader_iter = None
        return self.state

    _internal_run_legacy = _internal_run

    def _tick(self, resume: Any) -> None:
        """Start the clocks; those of an interrupted run hold what had passed."""
        now = time.perf_counter()
        self._run_clock = now - (self._run_clock if resume else 0.0)
        self._epoch_clock = now - (self._epoch_clock if resume else 0.0)

    def _tock(self) -> None:
        now = time.perf_counter()
        self._run_clock, self._epoch_clock = now - self._run_clock, now - self._epoch_clock

    def _run_epochs(self, resume: Any) -> None:
        machine = self._machine
        # Interrupted in the middle of an epoch: finish that first, whatever the counters say.
        inside = resume not in (None, Events.STARTED, Events.EPOCH_COMPLETED)
        while inside or not self._done():
            if not inside:
                resume = None
                self.state.epoch += 1
                machine.move(Move.BEGIN_EPOCH)
                self._origin = self.state.iteration - (self._init_iter or 0)
                self._epoch_clock = time.perf_counter()
                self._fire(Events.EPOCH_STARTED)
            if resume in (None, Events.EPOCH_STARTED):
                self._open_epoch()
                resume = None
            inside = False
            how = Move.END_EPOCH
            try:
                self._run_batches(resume)
            except _EpochTerminated:
                how = Move.TERMINATE_EPOCH
            except Exception as error:
                if self.reraise or not self._registry.channel(Events.EXCEPTION_RAISED).live:
                    raise
                self.logger.error("Current run is terminating due to exception: %s", error)
                try:
                    self._handle_exception(error)
                except BaseException as another:
                    self._reported = another  # the listeners know: do not tell them again
                    raise
            if how is Move.TERMINATE_EPOCH:
                self._fire_event(Events.TERMINATE_SINGLE_EPOCH, iter_counter=self.epoch_iteration)
                if not self.data_ends_epoch:
                    self._setup_dataloader_iter()
            self._close_epoch(how)

    def _open_epoch(self) -> None:
        """Get the iterator of an epoch, and the point that its batches are counted from."""
        if self.data_ends_epoch:
            self._setup_dataloader_iter()
        elif self._dataloader_iter is None:
            self._setup_engine()
        self._origin = self.state.iteration - (self._init_iter or 0)
        self._init_iter = None

    def _close_epoch(self, how: Move) -> None:
        machine, state = self._machine, self.state
        empty = how is Move.END_EPOCH and state.iteration == self._origin
        if self.data_ends_epoch:
            self._dataloader_iter = None
        machine.move(how)
        times = state.times
        times[Events.EPOCH_COMPLETED.name] = time.perf_counter() - self._epoch_clock
        if machine.terminate_epoch != "skip_epoch_completed":
            self._registry.channel(Events.EPOCH_COMPLETED).fire()
            times[Events.EPOCH_COMPLETED.name] = time.perf_counter() - self._epoch_clock
        machine.terminate_epoch = False  # also one from a handler of EPOCH_COMPLETED: it is over
        self._obey(Events.EPOCH_COMPLETED)
        self.logger.info(
            "Epoch[%s] Complete. Time taken: %.3f s",
            state.epoch,
            times[Events.EPOCH_COMPLETED.name],
        )
        if empty and state.max_epochs is None and not self._done():
            raise RuntimeError(
                f"the data gave no batch in epoch {state.epoch}, and only max_iters="
                f"{state.max_iters} bounds the run: it would never end. Give max_epochs, or data "
                "that can be iterated again"
            )

    def _run_batches(self, resume: Any) -> None:
        """Run the batches of one epoch, or the rest of them after an interruption.

        This is the way of every iteration: it looks at no handler, filter or request unless a
        channel's ``due`` says so (who asks the run to stop sets it, see ``_wake``), and it reads
        again what a handler may have changed only where one ran. With neither it costs 0.1 us.

        To resume, the iteration that was interrupted is gone through once more with those channels
        silent that were fired already, and with the batch that was fetched already handed out
        again. At its ITERATION_COMPLETED everything is put back.
        """
        # No local variable may hold the batch: it would live until the next one is made.
        machine, state = self._machine, self.state
        get, got, started, completed = self._hot
        if state.dataloader is None:  # without data there is nothing to fetch
            get = got = _SILENT
        heard = (get, got, started)
        self._wake()
        state, it, end, batches = self._look(state.iteration)
        if resume == Events.DATALOADER_STOP_ITERATION:
            if not self._refill(restart_only=True):
                return
            get, batches = _SILENT, iter((state.batch,))
        elif resume == Events.GET_BATCH_STARTED:
            get = _SILENT
        elif resume in (Events.GET_BATCH_COMPLETED, Events.ITERATION_STARTED):
            get, got, batches = _SILENT, _SILENT, iter((state.batch,))
            if resume == Events.ITERATION_STARTED:
                started, it = _SILENT, it - 1

        # Not `while it != end`: in the middle of a call CPython 3.11 specializes only what jumps
        # back without a condition; the first epochs' iterations would take three times as long.
        while True:
            if it == end:
                break
            machine.phase = FETCHING
            self.last_event_name = _GET_BATCH_STARTED
            state.batch = None  # let go of the last batch before the next one is made
            if it >= get.due:
                state, it, end, batches = self._attend(get, it)
            state.batch = next(batches, _NO_BATCH)
            if state.batch is _NO_BATCH:
                if not self._refill():
                    return
                state, it, end, batches = self._look(it)
            state.output = None
            if it >= got.due:
                state, it, end, batches = self._attend(got, it)
            state.iteration = it = it + 1
            machine.phase = STEPPING
            self.last_event_name = _ITERATION_STARTED
            if it >= started.due:
                state, it, end, batches = self._attend(started, it)
            step = self._process_function  # apart from the call: as a method it is not specialized
            state.output = step(self, state.batch)
            if state.iteration != it:
                state, it, end, batches = self._look(it)
            if it >= completed.due:
                get, got, started = heard
                state, it, end, batches = self._attend(completed, it)

        limit, length = state.max_iters, state.epoch_length
        if limit is not None and it >= limit and (length is None or it - self._origin < length):
            self.should_terminate = True
            raise _Terminated

    def _attend(self, channel: Any, it: int) -> tuple[State, int, int, Iterator[Any]]:
        """Fire an event from the loop, and do what the handlers asked for."""
        channel.fire()
        if self._machine.pending:
            self._look(it)
            self._obey(channel.event)
        state = self.state
        if (
            state.iteration == it
            and state.epoch_length is self._length_seen
            and state.max_iters is self._limit_seen
        ):
            return state, it, self._end, self._iterator  # type: ignore[return-value]
        return self._look(it)

    def _look(self, it: int) -> tuple[State, int, int, Iterator[Any]]:
        """Read again what the loop keeps in local variables.

        Returns:
            The state; its iteration; the iteration at which the epoch ends, -1 if only the data
            tells; and the iterator of the data.
        """
        state = self.state
        now = state.iteration
        if now != it:
            # Somebody set the counter. The epoch keeps its number of batches; filters look again.
            self._origin += now - it
            self._wake()
        self._length_seen, self._limit_seen = length, limit = state.epoch_length, state.max_iters
        end = -1 if length is None else max(self._origin + length, now)
        if limit is not None and (end < 0 or limit < end):
            end = max(limit, now)
        self._end = end
        batches = self._iterator
        assert batches is not None
        return state, now, end, batches

    def _fire(self, event: Events) -> None:
        self._registry.channel(event).fire()
        self._obey(event)

    def _obey(self, event: Any) -> None:
        """Make the move that was asked for, if any was, after the handlers of `event`."""
        machine = self._machine
        move = machine.requested()
        if move is None:
            return
        if move is Move.TERMINATE:
            raise _Terminated
        if move is Move.TERMINATE_EPOCH:
            machine.check(move, _TERMINATE_EPOCH_ADVICE)
            raise _EpochTerminated
        machine.move(move)
        self._paused_at = event
        self._registry.channel(Events.INTERRUPT).fire()
        machine.interrupt = False
        raise _Paused

    def _refill(self, restart_only: bool = False) -> bool:
        """Deal with the end of the data: take the next batch from a new iterator, or none.

        Args:
            restart_only: the event was fired before the run was interrupted.

        Returns:
            Whether there is a batch, in ``state.batch``; if not, the epoch is over.
        """
        state = self.state
        state.batch = None
        if self.data_ends_epoch:
            return False
        if state.epoch_length is None:
            state.epoch_length = state.iteration - self._origin
            if state.max_iters is not None:
                if not state.epoch_length:
                    raise ValueError(
                        f"Input data has zero size: {state.dataloader!r} gave no batch, and "
                        f"max_iters={state.max_iters} asks for some. Please provide non-empty data"
                    )
                state.max_epochs = math.ceil(state.max_iters / state.epoch_length)
            return False
        if state.dataloader is not None and not restart_only:
            self._fire(Events.DATALOADER_STOP_ITERATION)
            state = self.state
        self._setup_dataloader_iter()
        assert self._iterator is not None
        state.batch = next(self._iterator, _NO_BATCH)
        if state.batch is _NO_BATCH:
            state.batch = None
            if not self._done():
                total = state.max_iters
                if state.max_epochs is not None and state.epoch_length is not None:
                    total = state.epoch_length * state.max_epochs
                warn(
                    "Data iterator can not provide data anymore but required total number of "
                    "iterations to run is not reached. "
                    f"Current iteration: {state.iteration} vs Total iterations to run : {total}",
                )
            return False
        return True

    def _handle_exception(self, e: BaseException) -> None:
        """Tell the listeners of EXCEPTION_RAISED; raise again if there are none, or if told to."""
        channel = self._registry.channel(Events.EXCEPTION_RAISED)
        heard = bool(channel.handlers)
        if channel.live:
            self._fire_event(Events.EXCEPTION_RAISED, e)
        if self.reraise or not heard:
            raise e


_SILENT: Any = _Silent()
_NO_BATCH: Any = object()

"""The phases of a run, the legal moves between them, and the requests to stop.

Theory of operation
-------------------
Whatever decides where a run stands lives in this file. An engine has one :class:`Machine`; the
machine is in one :class:`Phase`, and only the moves of the table :data:`MOVES` change it::

    machine.move(Move.START)        # IDLE -> STARTED; anything else raises IllegalMove

A move that is not in the table raises :class:`IllegalMove` and changes nothing.

Two kinds of phases:

* *Running* (STARTED, EPOCH_STARTED, FETCHING, STEPPING, EPOCH_COMPLETED): a ``run()`` is on the
  stack. The phase is moved before the handlers of the event of the same name are called.
* *Resting* (IDLE, COMPLETED, INTERRUPTED, TERMINATED, FAILED): nobody runs. ``Machine.left`` is
  the running phase from which the last three were reached; with the engine's counters it is all
  that the place of a stopped run consists of, and it is plain data.

``terminate()``, ``terminate_epoch()`` and ``interrupt()`` may come at any time: from a handler,
from the process function, from the data, from a signal handler or another thread. They cannot move
the machine themselves, since the code that asks is in the middle of something. They leave a
*request*, and the engine makes the move when the handlers of the next event have run (of the
current event, if a handler asked). Several requests: terminate wins over terminate_epoch, that
over interrupt. A new run begins without requests.

An interrupted run has no move of its own to resume: it goes on with the move that would have come
next, which is why BEGIN_EPOCH, FETCH, END_EPOCH and COMPLETE are also legal from INTERRUPTED.

The two moves of every iteration, FETCH and STEP, are made by the run loop as plain stores of
:data:`FETCHING` and :data:`STEPPING`; both values are looked up in the table when this module is
imported, for every phase that the loop can be in at that point.
"""

from enum import Enum

__all__ = [
    "FETCHING",
    "MOVES",
    "STEPPING",
    "IllegalMove",
    "Machine",
    "Move",
    "Phase",
]


class Phase(Enum):
    """Where a run stands."""

    IDLE = "idle"
    STARTED = "started"
    EPOCH_STARTED = "epoch_started"
    FETCHING = "fetching"
    STEPPING = "stepping"
    EPOCH_COMPLETED = "epoch_completed"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    FAILED = "failed"


class Move(Enum):
    """What can happen to a run."""

    START = "start"
    BEGIN_EPOCH = "begin_epoch"
    FETCH = "fetch"
    STEP = "step"
    END_EPOCH = "end_epoch"
    TERMINATE_EPOCH = "terminate_epoch"
    COMPLETE = "complete"
    INTERRUPT = "interrupt"
    TERMINATE = "terminate"
    FAIL = "fail"
    RESTORE = "restore"


class IllegalMove(RuntimeError):
    """A move that the phase does not allow. Nothing was changed."""

    def __init__(self, phase: Phase, move: Move, advice: str = "") -> None:
        allowed = sorted(m.name for p, m in MOVES if p is phase)
        message = (
            f"{move.name} is not possible in phase {phase.name}: "
            f"allowed here are {', '.join(allowed)}"
        )
        super().__init__(f"{message}. {advice}" if advice else message)
        self.phase = phase
        self.move = move


def _table() -> dict[tuple[Phase, Move], Phase]:
    """Write the table down, one line a move: from these phases, to that one."""
    p, m = Phase, Move
    running = (p.STARTED, p.EPOCH_STARTED, p.FETCHING, p.STEPPING, p.EPOCH_COMPLETED)
    stopped = (p.COMPLETED, p.INTERRUPTED, p.TERMINATED, p.FAILED)
    rows: list[tuple[Move, tuple[Phase, ...], Phase]] = [
        (m.START, (p.IDLE, *stopped), p.STARTED),
        (m.BEGIN_EPOCH, (p.STARTED, p.EPOCH_COMPLETED, p.INTERRUPTED), p.EPOCH_STARTED),
        (m.FETCH, (p.EPOCH_STARTED, p.STEPPING, p.INTERRUPTED), p.FETCHING),
        (m.STEP, (p.FETCHING,), p.STEPPING),
        # From EPOCH_STARTED: an epoch that is allowed no batch at all.
        (
            m.END_EPOCH,
            (p.EPOCH_STARTED, p.FETCHING, p.STEPPING, p.INTERRUPTED),
            p.EPOCH_COMPLETED,
        ),
        (m.TERMINATE_EPOCH, (p.FETCHING, p.STEPPING), p.EPOCH_COMPLETED),
        # From STARTED: a restored run that has nothing left to do.
        (m.COMPLETE, (p.STARTED, p.EPOCH_COMPLETED, p.INTERRUPTED), p.COMPLETED),
        (m.INTERRUPT, running, p.INTERRUPTED),
        # From INTERRUPTED: the iteration after which it was interrupted was the last of max_iters.
        (m.TERMINATE, (*running, p.INTERRUPTED), p.TERMINATED),
        # From the stopped phases: a handler of the last event of the run may raise as well.
        (m.FAIL, (*running, *stopped), p.FAILED),
        (m.RESTORE, (p.IDLE, *stopped), p.IDLE),
        # Between epochs the counters may be set, which is all that a restored state is.
        (m.RESTORE, (p.STARTED,), p.STARTED),
        (m.RESTORE, (p.EPOCH_COMPLETED,), p.EPOCH_COMPLETED),
    ]
    return {(source, move): target for move, sources, target in rows for source in sources}


MOVES: dict[tuple[Phase, Move], Phase] = _table()

FETCHING = MOVES[Phase.EPOCH_STARTED, Move.FETCH]
STEPPING = MOVES[Phase.FETCHING, Move.STEP]
if not FETCHING is MOVES[Phase.STEPPING, Move.FETCH] is MOVES[Phase.INTERRUPTED, Move.FETCH]:
    raise AssertionError("the run loop stores FETCHING without asking: every FETCH must end there")

_RUNNING = frozenset(
    (Phase.STARTED, Phase.EPOCH_STARTED, Phase.FETCHING, Phase.STEPPING, Phase.EPOCH_COMPLETED)
)
_INSIDE_EPOCH = frozenset((Phase.EPOCH_STARTED, Phase.FETCHING, Phase.STEPPING))


class Machine:
    """The phase of one engine, and what it was asked to do next.

    Attributes:
        phase: where the run stands. Written by :meth:`move` and by the run loop (see the top).
        left: the running phase that a run at rest was stopped in; None where nothing was stopped.
        pending: whether any request is open; the run loop looks at nothing else.
    """

    __slots__ = ("_interrupt", "_terminate", "_terminate_epoch", "left", "pending", "phase")

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self.left: Phase | None = None
        self.pending = False
        self._terminate: bool | str = False
        self._terminate_epoch: bool | str = False
        self._interrupt = False

    def move(self, move: Move, advice: str = "") -> Phase:
        """Make a move and return the new phase.

        Args:
            move: what happens.
            advice: what the user can do if the move is refused; the end of the error's text.

        Raises:
            IllegalMove: the table has no such move in this phase.
        """
        self.check(move, advice)
        target = MOVES[self.phase, move]
        if self.phase in _RUNNING and target not in _RUNNING:
            self.left = self.phase
        elif target in (Phase.STARTED, Phase.IDLE):
            self.left = None
        self.phase = target
        return target

    def check(self, move: Move, advice: str = "") -> None:
        """Raise what :meth:`move` would raise, and do nothing else."""
        if (self.phase, move) not in MOVES:
            raise IllegalMove(self.phase, move, advice)

    @property
    def inside_epoch(self) -> bool:
        """Whether the run stands, or was stopped, between an epoch's first and last event."""
        return (self.phase if self.phase in _RUNNING else self.left) in _INSIDE_EPOCH

    @property
    def terminate(self) -> bool | str:
        """Asked to end the run: True, or "skip_completed" to leave COMPLETED out."""
        return self._terminate

    @terminate.setter
    def terminate(self, value: bool | str) -> None:
        self._terminate = value
        self._update()

    @property
    def terminate_epoch(self) -> bool | str:
        """Asked to end the epoch: True, or "skip_epoch_completed" to leave EPOCH_COMPLETED out."""
        return self._terminate_epoch

    @terminate_epoch.setter
    def terminate_epoch(self, value: bool | str) -> None:
        self._terminate_epoch = value
        self._update()

    @property
    def interrupt(self) -> bool:
        """Asked to pause the run."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value
        self._update()

    def clear(self) -> None:
        """Forget every request."""
        self._terminate = self._terminate_epoch = self._interrupt = False
        self.pending = False

    def requested(self) -> Move | None:
        """Return the move that was asked for, the strongest one if there are several."""
        if self._terminate:
            return Move.TERMINATE
        if self._terminate_epoch:
            return Move.TERMINATE_EPOCH
        if self._interrupt:
            return Move.INTERRUPT
        return None

    def _update(self) -> None:
        self.pending = self.requested() is not None

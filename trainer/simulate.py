"""What a run will do, event by event, worked out without a model or data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from leyden.engine.errors import MisconfiguredValue
from leyden.handlers.accumulation import factor_at
from leyden.loaders import INFINITE, Loaders, limited, without_batches

__all__ = ["Moment", "Schedule", "Simulation"]


class Moment(NamedTuple):
    """One event.

    Attributes:
        engine: "train" or "validate".
        event: its name.
        epoch: of training, from 0.
        batch: how many batches of this epoch, or of this validation, have begun.
    """

    engine: str
    event: str
    epoch: int
    batch: int


@dataclass(frozen=True)
class Schedule:
    """The arguments that say when things happen; see :class:`leyden.config.TrainerConfig`.

    Attributes:
        accumulate: batches to an optimizer step from each epoch on, ``{0: 1}`` for every batch.
        optimizers: how many take a turn on each batch.
        validates: whether the model has a validation step.
    """

    max_epochs: int = 1000
    max_steps: int | None = None
    limit_train_batches: int | float = 1.0
    limit_val_batches: int | float = 1.0
    val_check_interval: int | float = 1.0
    check_val_every_n_epoch: int = 1
    num_sanity_val_steps: int | float = 2
    accumulate: Mapping[int, int] = field(default_factory=lambda: {0: 1})
    optimizers: int = 1
    validates: bool = True

    def simulate(self, train_batches: int, val_batches: int | Sequence[int] = 0) -> "Simulation":
        """Work out the events for loaders of these lengths.

        Args:
            train_batches: what ``len(train_dataloader)`` gives.
            val_batches: the same of the validation loader, or of each of several; 0: none.

        Raises:
            MisconfigurationException: as ``fit`` raises it, where an argument does not fit.
        """
        several = [val_batches] if isinstance(val_batches, int) else list(val_batches)
        for name, count in (
            ("train_batches", train_batches),
            *(("val_batches", n) for n in several),
        ):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise MisconfiguredValue(
                    f"simulate({name}={count!r}) is no number of batches: pass a whole number, "
                    "what len(loader) gives"
                )
        # A number alone may be 0: no loader at all. One loader of several cannot be empty.
        return Simulation(self, train_batches, [] if val_batches == 0 else several)


class Simulation:
    """The events of a run, in order: go through it, or ask for some of them with `only`.

    What depends on results is not in it: early stopping, checkpoints, exceptions. Schedulers step
    inside the events that are.

    Args:
        schedule: the arguments.
        train_batches, val_batches: lengths of the loaders.

    Example:
        >>> schedule = Schedule(max_epochs=1, val_check_interval=0.5, num_sanity_val_steps=0)
        >>> run = schedule.simulate(train_batches=10, val_batches=2)
        >>> run.validations
        [(0, 5), (0, 10)]
        >>> sum(moment.event == "OPTIMIZER_STEP_STARTED" for moment in run)
        10
    """

    def __init__(self, schedule: Schedule, train_batches: int, val_batches: Sequence[int]) -> None:
        self.schedule = schedule
        self._val_counts: list[int] = []
        # In the order in which fit asks for its loaders: where two arguments do not fit, the same
        # one is named.
        if schedule.num_sanity_val_steps:
            self._count_validation(val_batches)
        if not train_batches:
            raise MisconfiguredValue(without_batches("the training loader"))
        self.batches = int(
            limited(train_batches, schedule.limit_train_batches, "limit_train_batches", floor=0)
        )
        loaders = Loaders()
        loaders.num_training_batches = self.batches
        self.every = INFINITE
        if schedule.limit_val_batches:
            self.every = loaders.val_check_batch(schedule.val_check_interval)
        if not schedule.num_sanity_val_steps:
            self._count_validation(val_batches)
        self.val_batches = sum(self._val_counts) if schedule.validates else 0

    def _count_validation(self, val_batches: Sequence[int]) -> None:
        limit = self.schedule.limit_val_batches
        if limit and not all(val_batches):
            raise MisconfiguredValue(without_batches("a loader of val_dataloader"))
        self._val_counts = [
            int(limited(count, limit, "limit_val_batches", floor=1)) for count in val_batches
        ]

    @property
    def validations(self) -> list[tuple[int, int]]:
        """Epoch, from 0, and batch after which each validation runs."""
        found = self.only("VALIDATION_STARTED")
        return [(moment.epoch, moment.batch) for moment in found]

    def __iter__(self) -> Iterator[Moment]:
        return self._moments(steps=True)

    def only(self, *events: str) -> Iterator[Moment]:
        """Go through some events only; without any of a batch this takes no time for batches.

        Args:
            events: names, such as "VALIDATION_STARTED".
        """
        unknown = sorted(set(events) - _KNOWN)
        if unknown:
            raise MisconfiguredValue(
                f"{unknown[0]!r} is no event of a simulation: pass some of "
                f"{', '.join(sorted(_KNOWN))}"
            )
        wanted = set(events)
        moments = self._moments(steps=bool(wanted & _OF_A_BATCH))
        return (moment for moment in moments if moment.event in wanted)

    def _moments(self, *, steps: bool) -> Iterator[Moment]:
        schedule = self.schedule
        for event in ("FIT_STARTED", "PRETRAIN_STARTED", "PRETRAIN_COMPLETED"):
            yield Moment("train", event, 0, 0)
        if schedule.num_sanity_val_steps and self.val_batches:
            checked = sum(min(n, schedule.num_sanity_val_steps) for n in self._val_counts)
            yield Moment("train", "SANITY_CHECK_STARTED", 0, 0)
            yield from self._evaluation(0, int(checked), steps)
            yield Moment("train", "SANITY_CHECK_COMPLETED", 0, 0)
        yield Moment("train", "STARTED", 0, 0)
        epoch, last, stopped = 0, 0, False
        done = 0
        if self.batches:
            for epoch in range(schedule.max_epochs):
                k = factor_at(schedule.accumulate, epoch)
                last, closed = self.batches, ceil(self.batches / k)
                if schedule.max_steps is not None and done + closed >= schedule.max_steps:
                    stopped = True
                    last = min((schedule.max_steps - done) * k, self.batches)
                done += closed
                yield from self._epoch(epoch, k, last, stopped, steps)
                if stopped:
                    yield Moment("train", "TERMINATE", epoch, last)
                    break
            if schedule.max_epochs:
                yield Moment("train", "COMPLETED", epoch, last)
        for event in ("TRAINING_ENDED", "FIT_COMPLETED"):
            yield Moment("train", event, epoch, last)

    def _epoch(self, epoch: int, k: int, last: int, stopped: bool, steps: bool) -> Iterator[Moment]:
        batches, every = self.batches, self.every
        due = self.val_batches and (epoch + 1) % self.schedule.check_val_every_n_epoch == 0
        inside = due and every not in (INFINITE, batches)
        yield Moment("train", "EPOCH_STARTED", epoch, 0)
        begin = _BEGIN
        each = _TURN * self.schedule.optimizers
        closing = _CLOSING_TURN * self.schedule.optimizers
        stride = 1 if steps else (int(every) if inside else last + 1)
        for batch in range(stride, last + 1, stride):
            if steps:
                for event in begin:
                    yield Moment("train", event, epoch, batch - 1)
                yield Moment("train", "ITERATION_STARTED", epoch, batch)
                for event in closing if batch % k == 0 or batch == batches else each:
                    yield Moment("train", event, epoch, batch)
                yield Moment("train", "ITERATION_COMPLETED", epoch, batch)
            if inside and batch % every == 0:
                yield from self._validation(epoch, batch, steps)
        if stopped:
            yield Moment("train", "TERMINATE_SINGLE_EPOCH", epoch, last)
        elif steps:
            yield Moment("train", "GET_BATCH_STARTED", epoch, last)  # there is none
        yield Moment("train", "EPOCH_COMPLETED", epoch, last)
        if due and not inside and last == batches:
            yield from self._validation(epoch, last, steps)

    def _validation(self, epoch: int, batch: int, steps: bool) -> Iterator[Moment]:
        yield Moment("train", "VALIDATION_STARTED", epoch, batch)
        yield from self._evaluation(epoch, self.val_batches, steps)
        yield Moment("train", "VALIDATION_COMPLETED", epoch, batch)

    def _evaluation(self, epoch: int, batches: int, steps: bool) -> Iterator[Moment]:
        yield Moment("validate", "STARTED", epoch, 0)
        yield Moment("validate", "EPOCH_STARTED", epoch, 0)
        if steps:
            for batch in range(1, batches + 1):
                for event in _BEGIN:
                    yield Moment("validate", event, epoch, batch - 1)
                yield Moment("validate", "ITERATION_STARTED", epoch, batch)
                yield Moment("validate", "ITERATION_COMPLETED", epoch, batch)
            yield Moment("validate", "GET_BATCH_STARTED", epoch, batches)
        yield Moment("validate", "EPOCH_COMPLETED", epoch, batches)
        yield Moment("validate", "COMPLETED", epoch, batches)


_BEGIN = ("GET_BATCH_STARTED", "GET_BATCH_COMPLETED")
_TURN = ("FORWARD_COMPLETED", "BACKWARD_STARTED", "BACKWARD_COMPLETED")
_CLOSING_TURN = (
    *_TURN,
    "GRADIENTS_READY",
    "OPTIMIZER_STEP_STARTED",
    "OPTIMIZER_STEP_COMPLETED",
    "ZERO_GRAD_STARTED",
)
_OF_A_BATCH = {*_BEGIN, *_CLOSING_TURN, "ITERATION_STARTED", "ITERATION_COMPLETED"}
_KNOWN = _OF_A_BATCH | {
    "FIT_STARTED", "PRETRAIN_STARTED", "PRETRAIN_COMPLETED", "SANITY_CHECK_STARTED",
    "SANITY_CHECK_COMPLETED", "STARTED", "EPOCH_STARTED", "EPOCH_COMPLETED", "VALIDATION_STARTED",
    "VALIDATION_COMPLETED", "TERMINATE_SINGLE_EPOCH", "TERMINATE", "COMPLETED", "TRAINING_ENDED",
    "FIT_COMPLETED",
}  # fmt: skip

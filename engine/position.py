"""Where a run stands and where it goes on: the counters, the data, and what is saved of both."""

# ignite's engine has plain attributes where this has properties: pyright takes that for an error.
# pyright: reportIncompatibleVariableOverride=false

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from leyden.engine.emitter import Emitter
from leyden.engine.phases import Move, Phase

__all__ = ["Resumable"]


class Resumable(Emitter):
    """Everything of ``leyden.engine.Engine`` between the events and the run. See there."""

    def __init__(
        self,
        process_function: Callable[[Any, Any], Any],
        *,
        data_ends_epoch: bool,
        reraise: bool,
    ) -> None:
        self.data_ends_epoch = data_ends_epoch
        # Batches of the running epoch are counted from here: state.iteration - origin.
        self._origin = 0
        self._iterator: Iterator[Any] | None = None
        # A run that was over when it was saved is not begun anew: it has nothing left to do.
        self._restored = False
        super().__init__(process_function, reraise=reraise)

    @property
    def epoch_iteration(self) -> int:
        """How many batches of the running epoch, or of the epoch that was stopped, were begun."""
        if not self._machine.inside_epoch:
            return self._init_iter or 0
        return self.state.iteration - self._origin

    @property
    def inside_epoch(self) -> bool:
        """Whether the run is, or was stopped, between EPOCH_STARTED and EPOCH_COMPLETED."""
        return self._machine.inside_epoch

    @property
    def _dataloader_iter(self) -> Iterator[Any] | None:
        return self._iterator

    @_dataloader_iter.setter
    def _dataloader_iter(self, iterator: Iterator[Any] | None) -> None:
        self._iterator = iterator
        self._wake()  # the loop holds the old one

    @property
    def _internal_run_generator(self) -> Any:
        """ignite's mark of an interrupted run; there is no generator here."""
        return self if self._machine.phase is Phase.INTERRUPTED else None

    @_internal_run_generator.setter
    def _internal_run_generator(self, value: Any) -> None:
        if value is None and self._machine.phase is Phase.INTERRUPTED:
            self._machine.move(Move.RESTORE)
            self._dataloader_iter = None

    def set_data(self, data: Iterable[Any]) -> None:
        """Take the next batch from other data. The length of the epoch does not change.

        Args:
            data: batches. With `data_ends_epoch` they are not iterated before an epoch wants them.
        """
        self.state.dataloader = data
        if not self.data_ends_epoch or self._iterator is not None:
            self._dataloader_iter = iter(data)

    def state_dict(self) -> "OrderedDict[str, Any]":
        """Return the position of the run as plain data.

        As ignite's: ``iteration``, ``epoch_length``, ``max_epochs`` or ``max_iters``, and the
        user's keys. With `data_ends_epoch` the epoch does not follow from these, so there are also
        ``epoch``, the number of epochs completed, and ``batch``, how many batches of the next one
        were begun: a batch counts from its ITERATION_STARTED on.
        """
        state = super().state_dict()
        if self.data_ends_epoch:
            state["epoch"] = self.state.epoch - (1 if self._machine.inside_epoch else 0)
            state["batch"] = self.epoch_iteration
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a position; the next :meth:`run` goes on from there.

        With `data_ends_epoch`, a run that was over has nothing left to do then; ignite's way is to
        begin it anew.

        Args:
            state_dict: see :meth:`state_dict`; ignite's with ``iteration`` or ``epoch`` as well.

        Raises:
            IllegalMove: the run is in the middle of an epoch.
        """
        machine = self._machine
        machine.check(
            Move.RESTORE, "Load before run(), or in a handler of STARTED or EPOCH_COMPLETED"
        )
        if self.data_ends_epoch and isinstance(state_dict, Mapping) and "batch" in state_dict:
            rest = {k: v for k, v in state_dict.items() if k not in ("epoch", "batch")}
            super().load_state_dict({**rest, "iteration": 0})
            self.state.epoch = state_dict["epoch"]
            self.state.iteration = state_dict["iteration"]
            self._init_iter = state_dict["batch"]
            self._restored = True
        else:
            super().load_state_dict(state_dict)
            self._init_iter = None
        if machine.move(Move.RESTORE) is Phase.IDLE:
            self._dataloader_iter = None

    def _begin_anew(
        self,
        data: Iterable[Any] | None,
        max_epochs: int | None,
        max_iters: int | None,
        epoch_length: int | None,
    ) -> None:
        state = self.state
        if epoch_length is None and data is not None:
            epoch_length = self._length(data)
        if epoch_length is None and not (self.data_ends_epoch and data is not None):
            epoch_length = state.epoch_length
        self._check_length(data, epoch_length)
        if max_iters is None and max_epochs is None:
            max_epochs = 1
        for name, value in (("max_epochs", max_epochs), ("max_iters", max_iters)):
            if value is not None and value < 1:
                raise ValueError(
                    f"Argument {name} is invalid. Please, set a correct {name} positive value, "
                    f"got {value}"
                )
        self._internal_run_generator = None
        state.iteration = state.epoch = 0
        state.max_epochs, state.max_iters = max_epochs, max_iters
        state.epoch_length = epoch_length
        self._init_iter = None
        if max_iters is not None:
            self.logger.info("Engine run starting with max_iters=%s.", max_iters)
        else:
            self.logger.info("Engine run starting with max_epochs=%s.", max_epochs)

    def _go_on(self, data: Iterable[Any] | None, epoch_length: int | None) -> None:
        state = self.state
        known = state.epoch_length
        if known is None or (self.data_ends_epoch and self.phase is not Phase.INTERRUPTED):
            if epoch_length is None and data is not None and known is None:
                epoch_length = self._length(data)
            epoch_length = known if epoch_length is None else epoch_length
            self._check_length(data, epoch_length)
            state.epoch_length = epoch_length
        elif epoch_length is not None and epoch_length != known:
            raise ValueError(
                "Argument epoch_length should be same as in the state, "
                f"but given {epoch_length} vs {known}"
            )
        if self.phase in (Phase.TERMINATED, Phase.FAILED):
            self._init_iter = 0  # what was left of that epoch is not run
        until = f"{state.max_epochs} epochs"
        if state.max_iters is not None:
            until = f"{state.max_iters} iterations"
        self.logger.info(
            "Engine run resuming from iteration %s, epoch %s until %s",
            state.iteration,
            state.epoch,
            until,
        )

    def _length(self, data: Iterable[Any]) -> int | None:
        # Where the data ends the epoch, its length is not ours to know.
        return None if self.data_ends_epoch else self._get_data_length(data)

    def _check_length(self, data: Iterable[Any] | None, epoch_length: int | None) -> None:
        if epoch_length is None:
            if data is None:
                raise ValueError(
                    "epoch_length should be provided if data is None: "
                    "nothing else says how many batches an epoch has"
                )
        elif epoch_length < (0 if self.data_ends_epoch else 1):
            raise ValueError(
                "Input data has zero size. Please provide non-empty data, "
                f"or an epoch_length above 0 (it is {epoch_length})"
            )

    def _done(self) -> bool:
        state = self.state
        if not self.data_ends_epoch:
            return self._is_done(state)
        if state.max_iters is not None and state.iteration >= state.max_iters:
            return True
        return state.max_epochs is not None and state.epoch >= state.max_epochs

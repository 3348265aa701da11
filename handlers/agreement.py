"""Several processes that train as one: they begin each epoch alike, and stop at the same batch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from leyden.backends.strategies.base import Answer, Strategy
from leyden.backends.strategies.processes import RankError
from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers.base import Handler
from leyden.handlers.interruption import Interruption
from leyden.handlers.naming import handler_name
from leyden.handlers.pace import Pace
from leyden.handlers.stopping import Stopping

__all__ = ["Agreement", "differences", "plan_lines"]

UNKNOWN = float("inf")


class Agreement(Handler):
    """Lets all processes of a run decide together.

    * At the start of each epoch they compare what they are about to do: the handlers, the arguments
      that shape the loop, the number of batches. Where two differ, every one of them raises a
      :class:`RankError` that names processes and handlers, instead of waiting for a message that
      never comes.
    * A stop that one of them asks for (``trainer.should_stop``, a signal, a time limit) acts on all
      of them at the end of the same batch. A question to all processes costs as much as a small
      batch does, so it is asked after some batches only (:class:`Pace`), and nobody waits for its
      answer, which is read after the next batch. So such a stop comes later than in a single
      process: a second at most, or with the next batch where one takes longer. After a validation,
      and at the end of an epoch, all ask and wait for the answer.
    * The values that callbacks and schedulers monitor are averaged where processes logged different
      ones, so that all decide alike.
    * Where nobody knows how many batches there will be, the processes tell one another before each
      step whether there is a batch, and the epoch ends with the first of them that has none. This
      waits for an answer at every batch.

    Runs on: EPOCH_STARTED, ITERATION_COMPLETED, EPOCH_COMPLETED, VALIDATION_COMPLETED,
    TRAINING_ENDED; GET_BATCH_COMPLETED in an epoch of unknown length; STARTED, ITERATION_COMPLETED
    and EPOCH_COMPLETED of the evaluations.

    State: what was asked of the others and not answered yet; the pace of the questions.

    Args:
        strategy: talks to the other processes.
        stopping: the handler that ends the training.
        interruption: the signals that came.
        evaluators: the engines of the evaluations, by stage.
        facts: what has to be the same on all processes, as lines of text.
        monitored: the names of the metrics that decisions depend on.
        metrics: gives the metrics that callbacks see.
        loader: gives the training loader.
        counted: whether the length of the training loader is known.
        prepare: called when a run begins.
        ask_every: batches at most from one question to the next.
    """

    order = 79.9
    order_reason = "after everything that may ask for the stop, right before it is obeyed (80)"
    state_keys: ClassVar[tuple[str, ...]] = ("told", "waiting", "every")

    def __init__(
        self,
        strategy: Strategy,
        *,
        stopping: Callable[[], Stopping],
        interruption: Interruption,
        evaluators: Mapping[str, Engine] | None = None,
        facts: Callable[[], Sequence[str]] = lambda: (),
        monitored: Callable[[], Iterable[str]] = lambda: (),
        metrics: Callable[[], dict[str, Any]] = dict,
        loader: Callable[[], Any] = lambda: None,
        counted: Callable[[], bool] = lambda: True,
        prepare: Callable[[], Any] = lambda: None,
        ask_every: int = 32,
    ) -> None:
        super().__init__()
        self.strategy = strategy
        self.stopping = stopping
        self.interruption = interruption
        self.evaluators = dict(evaluators or {})
        self.facts = facts
        self.monitored = monitored
        self.metrics = metrics
        self.loader = loader
        self.counted = counted
        self.prepare = prepare
        self.told = False  # a stop, that the other processes will act on after their next batch
        self.pace = Pace(ask_every)
        self._evaluation_pace = Pace(ask_every)
        self._pending: tuple[Answer, Pace | None] | None = None
        self._restored: Mapping[str, Any] = {}
        self._validated = False
        self._evaluates_evenly = False
        self._counting: list[Any] = []

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.STARTED, self.begin, order=-10_000)
        self.listen(engine, Events.EPOCH_STARTED, self.compare, order=4)
        self.listen(engine, Events.ITERATION_COMPLETED, self.after_batch)
        self.listen(engine, Events.EPOCH_COMPLETED, self.share_monitored, order=31)
        self.listen(engine, Events.EPOCH_COMPLETED, self.after_epoch)
        self.listen(engine, TrainerEvents.VALIDATION_COMPLETED, self.after_validation)
        self.listen(engine, TrainerEvents.TRAINING_ENDED, self.end, order=-10_000)
        for evaluator in self.evaluators.values():
            self.listen(evaluator, Events.STARTED, self.evaluation_begins, order=-10_000)
            self.listen(evaluator, Events.ITERATION_COMPLETED, self.after_evaluation_batch)
            if getattr(evaluator.state, "stage", "") == "validate":
                self.listen(evaluator, Events.EPOCH_COMPLETED, self.share_monitored, order=31)

    # ------------------------------------------------------------------ the same plan

    def begin(self, engine: Engine) -> None:
        """A run begins: nothing is under way."""
        self._pending = None
        self._validated = False
        if not self._restored:
            self.pace.restart()
        self.prepare()

    def compare(self, engine: Engine) -> None:
        """Raise on every process if one of them is about to do something else.

        Raises:
            RankError: naming the processes and what differs.
        """
        self.pace.rest()
        state: Any = engine.state
        lines = [*self.facts(), *plan_lines(engine, *self.evaluators.values())]
        mark = zlib.crc32("\n".join(lines).encode())
        order = _last_order(self.loader())
        mine = [mark, state.num_batches, state.epoch, state.iteration, order]
        theirs = self.strategy.compare(mine)
        for handle in self._counting:
            handle.remove()
        self._counting = []
        if any(other != theirs[0] for other in theirs):
            self._disagree(lines, theirs)
        if not self.counted():
            self._counting = [
                self.listen(engine, Events.GET_BATCH_COMPLETED, self.before_batch, order=-10_000),
                self.listen(engine, Events.EPOCH_COMPLETED, self.out_of_data, order=-10_000),
            ]

    def _disagree(self, lines: list[str], numbers: list[list[float]]) -> None:
        plans = self.strategy.gather_objects(lines)
        found = differences(plans)
        counts = [n[1] for n in numbers]
        if len(set(counts)) > 1:
            told = ", ".join(f"rank {r} has {_number(n)}" for r, n in enumerate(counts))
            found.append(
                f"the training loaders have different numbers of batches: {told}. Give each the "
                "same share of the samples (replace_sampler_ddp=True does), or pass "
                f"limit_train_batches={_number(min(counts))}, or train on all of them with "
                "plugins=DDPStrategy(join_uneven_inputs=True)"
            )
        for place, what in ((2, "epoch"), (3, "batch of the run")):
            at = [n[place] for n in numbers]
            if len(set(at)) > 1:
                told = ", ".join(f"rank {r} at {_number(n)}" for r, n in enumerate(at))
                found.append(
                    f"the processes are not at the same {what}: {told}. One of them left an epoch "
                    "by itself; ask for a stop with trainer.should_stop = True instead"
                )
        if len({n[4] for n in numbers}) > 1:
            found.append(
                "the sampler of the training loader gave another order on some ranks in the last "
                "epoch, so their shares overlapped: seed its generator alike on all ranks"
            )
        # What one of them does on the way out, the others may not: nobody talks any more.
        self.strategy.broken = True
        raise RankError(
            "the processes of this run do not agree, so none of them goes on:\n  "
            + "\n  ".join(found)
        )

    def before_batch(self, engine: Engine) -> None:
        """In an epoch of unknown length: end it where one of the processes has no batch."""
        if self.strategy.ask([0]).result()[0]:
            engine.terminate_epoch()

    def out_of_data(self, engine: Engine) -> None:
        """Such an epoch ends here, by its data: the others end it, too."""
        if not engine.should_terminate_single_epoch:
            self.strategy.ask([1]).result()

    # ------------------------------------------------------------------ the same moment

    def after_batch(self, engine: Engine) -> None:
        """Read what was asked after the batch before; ask anew where it is time to."""
        if self._restored:
            self._go_on()
        if self._pending is not None:
            self._hear()
        if self._validated:
            # All were here together just now: waiting costs nothing, and the stop comes at once.
            self._validated = False
            self._ask_at_once()
        elif self.pace.due(engine.state.iteration):
            self._ask(self.pace, engine.state.iteration)

    def after_validation(self, engine: Engine) -> None:
        """A validation ran in this batch, and may have asked for the stop."""
        self._validated = True

    def after_epoch(self, engine: Engine) -> None:
        """Nobody begins another epoch before all know of a stop."""
        self._validated = False
        self._hear()
        self._ask_at_once()

    def _ask(self, pace: Pace, batch: int) -> None:
        self._asked_at(pace, pace.measured(batch))

    def _ask_at_once(self) -> None:
        self.pace.rest()  # the time since the last question was not that of batches
        self._asked_at(None, 0)
        self._hear()

    def _asked_at(self, pace: Pace | None, took: int) -> None:
        self.told = self.stopping().asked
        answer = self.strategy.ask([int(self.told), self.interruption.number, took])
        self._pending = answer, pace

    def _hear(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        answer, pace = pending
        stop, number, slowest = answer.result()
        if pace is not None:
            pace.heard(slowest)
        self.told = False
        if stop:
            stopping = self.stopping()
            stopping.asked = False
            stopping.act()
        if number and not self.interruption.requested:
            self.interruption.act(number)

    def state_dict(self) -> dict[str, Any]:
        """What is under way: a stop that was told, a question without an answer; the pace."""
        return dict(self._restored) or {
            "told": self.told,
            "waiting": self._pending is not None,
            "every": self.pace.every,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state: what was told then is told again, and heard at once."""
        if set(state) == {"told"}:  # of a version that asked after every batch
            state = {**state, "waiting": True, "every": 1}
        if set(state) != set(self.state_keys):
            raise KeyError(
                f"the state of Agreement has {sorted(state)}, and {sorted(self.state_keys)} are "
                "needed; it was saved by another version or class"
            )
        self._restored = dict(state)
        self.pace.every = int(state["every"])

    def _go_on(self) -> None:
        state, self._restored = self._restored, {}
        self.told = bool(state["told"])
        if state["waiting"]:
            self._pending = self.strategy.ask([int(self.told), 0, 0]), self.pace

    def end(self, engine: Engine) -> None:
        """The training is over: no answer is left in the air."""
        pending, self._pending = self._pending, None
        self._restored = {}
        if pending is not None and not self.strategy.broken:
            pending[0].result()

    # ------------------------------------------------------------------ evaluations

    def evaluation_begins(self, engine: Engine) -> None:
        """See whether all processes have the same number of batches to evaluate."""
        state: Any = engine.state
        counts = list(state.batch_counts)
        theirs = self.strategy.compare([len(counts), sum(counts)])
        self._evaluates_evenly = all(n == theirs[0] and n[1] != UNKNOWN for n in theirs)
        self._evaluation_pace.restart()

    def after_evaluation_batch(self, engine: Engine) -> None:
        """A signal stops a long evaluation, too, at the same batch on all processes."""
        if self._evaluates_evenly:
            if self._pending is not None:
                self._hear()
            if self._evaluation_pace.due(engine.state.iteration):
                self._ask(self._evaluation_pace, engine.state.iteration)

    def share_monitored(self, engine: Engine) -> None:
        """Give all processes the same values of what decisions depend on."""
        names = sorted(set(self.monitored()))
        if not names:
            return
        metrics = self.metrics()
        mine: list[float] = []
        for name in names:
            value = metrics.get(name)
            number = _scalar(value)
            mine += [0.0, 0.0] if number is None else [number, 1.0]
        theirs = self.strategy.compare(mine)
        for place, name in enumerate(names):
            there = [n[2 * place] for n in theirs if n[2 * place + 1]]
            alike = all(value == there[0] for value in there)
            if there and not (alike and len(there) == len(theirs)):
                old = metrics.get(name)
                dtype = old.dtype if isinstance(old, torch.Tensor) else torch.float32
                device = old.device if isinstance(old, torch.Tensor) else "cpu"
                mean = sum(there) / len(there)
                metrics[name] = torch.tensor(mean, dtype=dtype, device=device)


def plan_lines(*engines: Engine) -> list[str]:
    """Say what is attached to some engines, one line each.

    A handler whose class says ``one_rank = True`` may be there on some processes only: it talks to
    no other process, and changes nothing that another one has to know of.
    """
    found = []
    for engine in engines:
        stage = getattr(engine.state, "stage", "train")
        for entry in engine.entries():
            owner = entry.owner or getattr(entry.handler, "__self__", None)
            if getattr(owner, "one_rank", False):
                continue
            event = getattr(entry.event, "name", entry.event)
            when = "" if entry.filter is None else f", {entry.filter}"
            found.append(f"{handler_name(entry.handler, entry.owner)} on {event} ({stage}{when})")
    return found


def differences(plans: Sequence[Sequence[str]]) -> list[str]:
    """Say which lines are not on all processes, and on which they are.

    Example:
        >>> differences([["a", "b"], ["a"], ["a", "b"]])
        ['b: on ranks 0, 2 only']
    """
    found = []
    for line in dict.fromkeys(line for plan in plans for line in plan):
        counts = [list(plan).count(line) for plan in plans]
        if len(set(counts)) > 1:
            there = [rank for rank, count in enumerate(counts) if count == max(counts)]
            word = "ranks" if len(there) > 1 else "rank"
            found.append(f"{line}: on {word} {', '.join(map(str, there))} only")
    if not found and any(list(plan) != list(plans[0]) for plan in plans):
        found.append("the same handlers are attached in another order")
    return found


def _last_order(loader: Any) -> float:
    """The checksum of the order that the training sampler drew last; -1 where there is none."""
    for name in ("batch_sampler", "sampler"):
        order = getattr(getattr(loader, name, None), "order", None)
        if isinstance(order, int):
            return float(order)
    return -1.0


def _scalar(value: Any) -> float | None:
    if isinstance(value, torch.Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) else None


def _number(value: float) -> str:
    return "an unknown number" if value == UNKNOWN else str(int(value))

"""One pass over evaluation loaders without gradients: its step, its feed, its surroundings."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from leyden.backends.samplers import filler_of
from leyden.engine import Engine
from leyden.engine.events import Events
from leyden.engine.rng import capture, isolate
from leyden.engine.state import TrainState, give_state
from leyden.handlers.base import Handler

__all__ = [
    "EvalFeed",
    "EvalState",
    "EvaluationStep",
    "Outputs",
    "Surroundings",
    "evaluate",
    "evaluator",
]


class EvalState(TrainState):
    """The state of an evaluation engine: ``batch_idx`` counts within the loader of now.

    Attributes:
        dataloader_idx: 0-based; written by the feed.
        num_loaders: how many loaders this run has.
        loader_outputs: what the steps returned, a list for each loader; kept only where asked for.
        results: what the run gives back.
        on_epoch: whether this run belongs to the end of a training epoch.
        batch_counts: how many batches each loader has, infinity where nobody knows; written by the
            feed.
        filler: whether the batch of now only keeps this process in step with others; written by
            the feed.
    """

    def __init__(self, counters: Mapping[Any, str]) -> None:
        self.dataloader_idx = 0
        self.num_loaders = 1
        self.loader_outputs: list[list[Any]] = []
        self.results: Any = None
        self.on_epoch = False
        self.batch_counts: list[float] = []
        self.filler = False
        super().__init__(counters)


class EvaluationStep:
    """The process function of an evaluation engine.

    Args:
        forward: ``forward(batch, batch_idx)``, with ``dataloader_idx`` for several loaders.
        step_end: called with what ``forward`` returned, gives what counts instead.
        takes: how many arguments ``forward`` takes at most; None: any number.
        name: the step's name, for ``scope.hook``.
        started: called before each step with ``(batch, batch_idx, dataloader_idx)``.
        scope: told which of the two runs.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        name: str = "validation_step",
        step_end: Callable[[Any], Any] | None = None,
        takes: int | None = None,
        started: Callable[[Any, int, int], Any] | None = None,
        scope: Any = None,
    ) -> None:
        self.forward = forward
        self.step_end = step_end
        self.takes = takes
        self.name = name
        self.started = started
        self.scope = scope

    def __call__(self, engine: Engine, batch: Any) -> Any:
        state: Any = engine.state
        batch_idx, loader = state.batch_idx, state.dataloader_idx
        if self.started is not None:
            self.started(batch, batch_idx, loader)
        if self.scope is not None:
            self.scope.hook = self.name
        arguments = (batch, batch_idx, loader) if state.num_loaders > 1 else (batch, batch_idx)
        output = self.forward(*arguments[: self.takes])
        if self.step_end is not None:
            if self.scope is not None:
                self.scope.hook = f"{self.name}_end"
            output = self.step_end(output)
        return output


class EvalFeed:
    """The batches of several loaders, one loader after the other.

    Args:
        state: told the loader's number and where it begins.
        loaders: the loaders.
        limits: batches to take from each at most; infinity for all.
        transfer: gives what the step sees of a batch.
    """

    def __init__(
        self,
        state: EvalState,
        loaders: Sequence[Iterable[Any]],
        limits: Sequence[float],
        transfer: Callable[[Any], Any] | None = None,
    ) -> None:
        self.state = state
        self.loaders = loaders
        self.limits = limits
        self.transfer = transfer
        state.batch_counts = list(limits)

    def __iter__(self) -> Iterator[Any]:
        state = self.state
        for index, (loader, limit) in enumerate(zip(self.loaders, self.limits, strict=True)):
            state.dataloader_idx = index
            state.epoch_start = state.iteration
            # islice never asks for the batch after the last one.
            batches: Iterable[Any] = iter(loader)
            state.filler = False
            filler = filler_of(loader)
            if filler is not None:
                batches = self._marked(batches, filler)
            if limit != float("inf"):
                batches = islice(batches, int(limit))
            if self.transfer is not None:
                batches = map(self.transfer, batches)
            for batch in batches:
                if batch is None:
                    # Its number is used up all the same. Source: Lightning 1.1.
                    state.epoch_start -= 1
                    continue
                yield batch

    def _marked(self, batches: Iterable[Any], filler: int) -> Iterator[Any]:
        for number, batch in enumerate(batches):
            self.state.filler = number == filler
            yield batch


class Outputs(Handler):
    """Keeps what the evaluation steps return, for an epoch-end hook that reads it.

    Attached only where such a hook is overridden: nothing grows otherwise.
    """

    order = 20.0
    order_reason = "after the batch-end hooks"

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.EPOCH_STARTED, self.begin, order=1)
        self.listen(engine, Events.ITERATION_COMPLETED, self.keep)

    def begin(self, engine: Engine) -> None:
        """Forget the run before."""
        state: Any = engine.state
        state.loader_outputs = [[] for _ in range(state.num_loaders)]

    def keep(self, engine: Engine) -> None:
        """Keep one output; steps that return None leave nothing."""
        state: Any = engine.state
        if state.output is not None:
            state.loader_outputs[state.dataloader_idx].append(state.output)


class Surroundings:
    """Evaluation's surroundings: no gradients, evaluation mode, random numbers of its own.

    All of it is put back afterwards.

    Args:
        model: its modules' ``training`` flags are restored one by one, so what the user froze stays
            frozen.
        set_mode: False where the model's own hooks switch the mode.

    Attributes:
        outside: the streams of random numbers around the block, for who saves within it.
    """

    def __init__(self, model: Any, *, set_mode: bool = True) -> None:
        self.model = model
        self.set_mode = set_mode
        self.outside: dict[str, Any] | None = None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within the block the model evaluates; afterwards training finds all as it was."""
        model = self.model if self.set_mode else None
        modules = list(model.modules()) if model is not None else []
        training = [module.training for module in modules]
        before, self.outside = self.outside, capture()
        with isolate(), torch.no_grad():
            if model is not None:
                model.eval()
            try:
                yield
            finally:
                self.outside = before
                for module, flag in zip(modules, training, strict=True):
                    module.training = flag


def evaluator(step: Callable[[Engine, Any], Any], stage: str) -> Engine:
    """An engine that evaluates: one epoch that ends where its data ends."""
    engine = Engine(step, data_ends_epoch=True, reraise=True)
    give_state(engine, EvalState).stage = stage
    return engine


def evaluate(engine: Engine, feed: EvalFeed) -> Any:
    """Run ``engine`` once over ``feed`` and give what it left in ``state.results``."""
    state: Any = engine.state
    state.results = None
    state.max_epochs = None
    state.iteration = state.epoch = 0
    engine.run(feed, max_epochs=1)
    # The last batch and output would stay on the device until the next evaluation.
    state.batch = state.output = None
    state.loader_outputs = []
    return state.results

"""Leave out what comes of an evaluation batch that only keeps a process in step with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from leyden.engine import Engine, Events
from leyden.handlers.base import Handler
from leyden.handlers.metric_objects import load_metric_state, metric_paths, metric_state
from leyden.handlers.metric_stage import Stage

__all__ = ["FillerBatches"]


class FillerBatches(Handler):
    """Drops all that a filler batch logged, returned, predicted and added to metric objects.

    The samples of an evaluation are dealt out to the processes, each to one of them. A process that
    got a batch less than another goes through one batch twice, so that all do the same number of
    steps; ``state.filler`` says so. Callbacks see that batch like any other.

    Runs on: ITERATION_STARTED (first) and ITERATION_COMPLETED of the evaluations.

    State: none.

    Args:
        evaluators: the engines of the evaluations.
        stage: gives what the running evaluation has gathered.
        model: gives the module.
    """

    order = 19.0
    order_reason = "after the hooks (10), before outputs (20) and metrics (30) are taken"

    def __init__(
        self,
        evaluators: Iterable[Engine],
        stage: Callable[[], Stage],
        model: Callable[[], Any],
    ) -> None:
        super().__init__()
        self.evaluators = list(evaluators)
        self.stage = stage
        self.model = model
        self._objects: list[tuple[Any, dict[str, Any]]] = []
        self._predictions: Any = None

    def attach(self, engine: Engine) -> None:
        self.make_ready(engine)
        for evaluator in self.evaluators:
            self.listen(evaluator, Events.ITERATION_STARTED, self.hold, order=-1000)
            self.listen(evaluator, Events.ITERATION_COMPLETED, self.drop)

    def hold(self, engine: Engine) -> None:
        """Before a filler batch: keep what there is."""
        state: Any = engine.state
        if not state.filler:
            return
        self.stage().fold()
        module = self.model()
        found = ((metric, metric_state(metric)) for _, metric in metric_paths(module))
        self._objects = [(metric, kept) for metric, kept in found if kept is not None]
        predictions = getattr(module, "_predictions", None)
        self._predictions = None if predictions is None else predictions.mark()

    def drop(self, engine: Engine) -> None:
        """After it: forget what it added."""
        state: Any = engine.state
        if not state.filler:
            return
        state.output = None
        self.stage().drop_batch()
        for metric, kept in self._objects:
            load_metric_state(metric, kept)
        predictions = getattr(self.model(), "_predictions", None)
        if predictions is not None:
            predictions.drop(self._predictions)
        self._objects, self._predictions = [], None

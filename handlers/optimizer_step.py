"""Turn what a hand-written step returns into an update of the parameters."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from leyden.engine import Engine, Events
from leyden.engine.step import TrainingStep, needs_closure
from leyden.handlers.base import Handler
from leyden.handlers.position import Position

__all__ = ["OptimizerStep"]


class OptimizerStep(Handler):
    """Differentiates the loss that the engine's function returned, and steps where a group is full.

    The function computes and returns the loss (or a dict with it under ``"loss"``, or None for a
    batch without an update). This handler does what comes after: backward, the step, clearing the
    gradients; with the same events and the same code as under the Trainer, so that the other
    handlers work here too. Afterwards ``state.output`` is detached from the graph.

    Args:
        optimizer: steps and is cleared; ``torch.optim.LBFGS``, which evaluates the loss itself, is
            refused.
        model: what clipping and NaN checks look at; without it clipping takes the optimizer's
            parameters, and NaN checks look at the loss alone.

    Runs on: ITERATION_COMPLETED, first; fires FORWARD_COMPLETED, BACKWARD_STARTED and
    BACKWARD_COMPLETED, and with every ``state.accumulate_grad_batches``-th batch and the last one
    of an epoch GRADIENTS_READY, OPTIMIZER_STEP_STARTED, OPTIMIZER_STEP_COMPLETED and
    ZERO_GRAD_STARTED. It brings :class:`leyden.handlers.position.Position`.

    State: none; the optimizer and the engine keep their own.

    Example:
        >>> import torch
        >>> from leyden.engine import Engine
        >>> from leyden.handlers import GradientAccumulation, GradientClipping
        >>> model = torch.nn.Linear(2, 1)
        >>> trainer = Engine(lambda engine, batch: model(batch).pow(2).mean())
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handlers = OptimizerStep(sgd, model), GradientAccumulation(2), GradientClipping(1.0)
        >>> for handler in handlers:
        ...     handler.attach(trainer)
        >>> state = trainer.run([torch.ones(3, 2)] * 5, max_epochs=2)
        >>> state.iteration, state.optimizer_steps
        (10, 6)
    """

    order = 0.0
    order_reason = "first: every other handler of a batch sees the parameters it led to"

    def __init__(self, optimizer: Optimizer, model: Any = None) -> None:
        super().__init__()
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer={optimizer!r} is a {type(optimizer).__name__}: pass a torch optimizer"
            )
        if needs_closure(optimizer):
            raise ValueError(
                f"optimizer={type(optimizer).__name__} evaluates the loss again within one step, "
                "and the engine's function has run already: use it under the Trainer, or call its "
                "step in the engine's function"
            )
        self.optimizer = optimizer
        self.model = model
        self._step = TrainingStep(self._output, [optimizer], takes_batch_idx=False)
        self._position = Position()
        self._returned: Any = None

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.STARTED, self.prepare)
        self.listen(engine, Events.ITERATION_COMPLETED, self.update)
        self._position.attach(engine)
        self.prepare(engine)

    def detach(self) -> None:
        super().detach()
        self._position.detach()

    def prepare(self, engine: Engine) -> None:
        """Say what this engine trains."""
        if isinstance(engine._process_function, TrainingStep):
            raise RuntimeError(
                "this engine steps its optimizers itself, as a Trainer's does: "
                "take OptimizerStep off"
            )
        state: Any = engine.state
        state.optimizers, state.optimizer, state.optimizer_idx = [self.optimizer], self.optimizer, 0
        if self.model is not None:
            state.model = self.model
        self._step.prepare(engine)

    def update(self, engine: Engine) -> None:
        """Do with the loss of this batch what its place in the group asks for."""
        state: Any = engine.state
        self._returned = state.output
        # Whoever reads the output gets a plain value, not a graph that is used up.
        state.output = _plain(state.output)
        try:
            self._step.run(engine, self)
        finally:
            self._returned = None

    def _output(self, batch: Any) -> Any:
        return self._returned


def _plain(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, dict) and isinstance(output.get("loss"), Tensor):
        return {**output, "loss": output["loss"].detach()}
    return output

"""The backward pass of a module that optimizes by hand, with its events."""

from typing import TYPE_CHECKING, Any

from leyden.engine.optimizer_proxy import OptimizerProxy

if TYPE_CHECKING:
    from leyden.run import Run

__all__ = ["manual_backward"]


def manual_backward(run: "Run", loss: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
    """Differentiate ``loss``; where the group of batches is complete, measure and clip gradients.

    Args:
        run: the run of now.
        loss: as ``training_step`` computed it; it is not changed.
        optimizer: the one that will step, for the module's own ``backward``; may be None.
        args, kwargs: for ``loss.backward``.

    Source: Lightning 1.1, which calls no ``on_after_backward`` here.
    """
    step, state = run.step, run.state
    assert step is not None
    caller = run.recorder.hook
    factor = state.accumulate_grad_batches
    state.loss = loss = loss / factor if factor != 1 else loss
    if step.backward_started.live:
        step.backward_started.fire()
    if run.strategy.active:
        run.strategy.before_backward(loss)
    if step.backward is None:
        loss.backward(*args, **kwargs)
    else:
        step.backward(loss, optimizer, -1, *args, **kwargs)
    if run.strategy.active:
        run.strategy.after_backward()
    if step.backward_completed.live:
        step.backward_completed.fire()
    if not step.accumulates(getattr(optimizer, "accumulate_grad_batches", None)):
        _ready(run, optimizer)
    run.recorder.hook = caller


def _ready(run: "Run", optimizer: Any) -> None:
    """Norms and clipping, of true gradients."""
    wanted = [name for name in ("GradientNorm", "GradientClipping") if name in run.handlers]
    if not wanted:
        return
    known = run.parts.optimizers
    plain = optimizer.optimizer if isinstance(optimizer, OptimizerProxy) else optimizer
    for index, one in enumerate(known):
        if plain is None or one is plain:
            run.precision.gradients_ready(one)
            run.state.optimizer, run.state.optimizer_idx = one, index
    if "GradientNorm" in wanted:
        run.handlers["GradientNorm"].track(run.engine)
    if "GradientClipping" in wanted:
        run.handlers["GradientClipping"].clip(run.engine)

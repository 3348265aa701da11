"""NaN termination: where it looks, what it says, and that the bad step is not made."""

import pytest
import torch

from leyden.engine import Events
from leyden.handlers import NanTermination
from leyden.handlers.nan_termination import first_bad
from tests.handlers.small_runs import Small, by_hand


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_loss_ends_the_run_before_the_step(bad: float) -> None:
    run = Small(NanTermination())
    run.engine.listen(Events.ITERATION_STARTED(once=6), lambda engine: setattr(run, "scale", bad))
    with pytest.raises(ValueError, match=r"the loss is .* at epoch 1, batch 1 \(optimizer step 5"):
        run.run()
    assert torch.isfinite(run.weights).all() and run.state.optimizer_steps == 5


def test_a_bad_parameter_is_named() -> None:
    run = Small(NanTermination())
    with torch.no_grad():
        run.model.bias[0] = float("nan")
    run.engine._process_function = lambda engine, batch: run.model.weight.sum()
    with pytest.raises(ValueError, match="the parameter 'bias' holds NaN or infinity at epoch 0"):
        run.run()


def test_sums_that_overflow_are_no_fault() -> None:
    run = Small(NanTermination())
    run.model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        run.model.weight[:] = 3e38
    run.state.model = run.model
    assert first_bad(torch.zeros(()), run.model) is None
    run.state.loss = torch.zeros(())
    NanTermination().check(run.engine)


def test_a_good_run_is_left_alone() -> None:
    assert torch.equal(Small(NanTermination()).run().weights, by_hand())

"""OptimizerStep: a hand-written function that returns a loss, trained without the Trainer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from leyden.engine import Engine, Events, TrainerEvents
from leyden.handlers import GradientAccumulation, GradientClipping, NanTermination, OptimizerStep
from tests.handlers.small_runs import BATCHES, Small, batches, by_hand, record
from tests.trainer.tiny import Bare, data, trainer


@pytest.mark.parametrize("step_last", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 3, 9])
@pytest.mark.parametrize("limit", [None, 0.01])
def test_weights_are_those_of_the_plain_loop(
    factor: int, limit: float | None, step_last: bool
) -> None:
    handlers = [GradientAccumulation(factor)] if factor > 1 else []
    if limit is not None:
        handlers.append(GradientClipping(limit))
    run = Small(*handlers, step_last=step_last).run()
    assert torch.equal(run.weights, by_hand(factor=factor, limit=limit))
    assert run.state.optimizer_steps == 2 * -(-BATCHES // factor) == run.state.global_step


def test_each_batch_fires_the_training_events_in_their_order() -> None:
    run = Small(GradientAccumulation(2))
    seen = record(run.engine, *TrainerEvents, Events.ITERATION_STARTED, Events.ITERATION_COMPLETED)
    run.run(epochs=1, count=2)
    backward = ["FORWARD_COMPLETED", "BACKWARD_STARTED", "BACKWARD_COMPLETED"]
    step = ["GRADIENTS_READY", "OPTIMIZER_STEP_STARTED", "OPTIMIZER_STEP_COMPLETED"]
    first = ["ITERATION_STARTED", *backward, "ITERATION_COMPLETED"]
    second = ["ITERATION_STARTED", *backward, *step, "ZERO_GRAD_STARTED", "ITERATION_COMPLETED"]
    assert seen == [*first, *second]


def test_the_output_is_a_plain_value_and_a_dict_keeps_its_other_entries() -> None:
    seen = []
    for wrap in (lambda loss: loss, lambda loss: {"loss": loss, "n": 3}):
        run = Small()
        plain = run.loss
        run.engine._process_function = lambda e, b, wrap=wrap, plain=plain: wrap(plain(e, b))
        run.engine.listen(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output))
        assert torch.equal(run.run().weights, by_hand())
    assert not seen[0].requires_grad and not seen[-1]["loss"].requires_grad
    assert seen[-1]["n"] == 3


def test_none_skips_the_update_of_its_batch() -> None:
    run = Small()
    before = run.weights.clone()
    run.engine._process_function = lambda engine, batch: None
    run.run(epochs=1)
    assert torch.equal(run.weights, before)


def test_a_step_that_returns_no_loss_says_what_it_should_return() -> None:
    run = Small()
    run.engine._process_function = lambda engine, batch: "text"
    with pytest.raises(Exception, match="return the loss as a tensor"):
        run.run()
    run.engine._process_function = run.loss
    assert run.run(epochs=2).state.epoch == 2  # usable afterwards


def test_what_cannot_work_is_refused_when_it_is_made() -> None:
    with pytest.raises(TypeError, match="is a int: pass a torch optimizer"):
        OptimizerStep(3)  # type: ignore[arg-type]
    lbfgs = torch.optim.LBFGS([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="LBFGS evaluates the loss again"):
        OptimizerStep(lbfgs)


def test_without_a_model_clipping_takes_the_optimizers_parameters() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    engine = Engine(lambda engine, batch: (weight * batch).sum())
    GradientClipping(0.5, algorithm="value").attach(engine)
    NanTermination().attach(engine)
    OptimizerStep(torch.optim.SGD([weight], lr=1.0)).attach(engine)
    engine.run([torch.tensor([8.0, 0.25])], max_epochs=1)
    assert torch.equal(weight.detach(), torch.tensor([0.5, 0.75]))


def test_detached_it_leaves_the_parameters_alone() -> None:
    run = Small().run(epochs=1)
    run.step.detach()
    before = run.weights.clone()
    run.engine.run(batches(), max_epochs=3)
    assert torch.equal(run.weights, before) and not list(run.engine.entries())


def test_under_a_trainer_it_says_that_it_is_one_too_many(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1)
    made.handlers.add(OptimizerStep(torch.optim.SGD([torch.zeros(1)], lr=1.0)))
    with pytest.raises(RuntimeError, match="steps its optimizers itself"):
        made.fit(Bare(), data())


@pytest.mark.parametrize("stop", [1, 2, 5, 6])
def test_a_run_stopped_in_mid_epoch_goes_on_in_another_process_bit_for_bit(stop: int) -> None:
    first = Small(GradientAccumulation(3))
    first.engine.listen(Events.ITERATION_COMPLETED(once=stop), lambda e: e.interrupt())
    first.run()
    assert first.state.iteration == stop
    second = Small(GradientAccumulation(3))
    second.model.load_state_dict(first.model.state_dict())
    for old, new in zip(first.model.parameters(), second.model.parameters(), strict=True):
        new.grad = None if old.grad is None else old.grad.clone()  # an open group
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.engine.load_state_dict(first.engine.state_dict())
    second.state.accumulate_grad_batches = 3
    begun = second.engine.state_dict()["batch"]
    second.engine.run(rest(begun), epoch_length=BATCHES)
    assert torch.equal(second.weights, by_hand(factor=3))


class rest:
    """The batches after the first few in the first epoch, then all."""

    def __init__(self, begun: int) -> None:
        self.begun = begun

    def __iter__(self) -> Iterator[torch.Tensor]:
        begun, self.begun = self.begun, 0
        return iter(batches()[begun:])

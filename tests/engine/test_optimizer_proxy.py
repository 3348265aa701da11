"""The optimizer that user code sees: its attributes are the real one's, its step fires events."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.engine import Engine, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.engine.optimizer_proxy import OptimizerProxy
from leyden.engine.step import TrainingStep
from leyden.optimizers import configured
from tests.trainer.tiny import Tiny, data, trainer

EVENTS = (
    TrainerEvents.OPTIMIZER_STEP_STARTED,
    TrainerEvents.OPTIMIZER_STEP_COMPLETED,
    TrainerEvents.ZERO_GRAD_STARTED,
)


def proxied(kind: Any = torch.optim.SGD, **arguments: Any) -> tuple[Any, Any, list[str], Engine]:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = kind([weight], lr=0.5, **arguments)
    step = TrainingStep(lambda batch: None, [optimizer], manual=True)
    engine, seen = Engine(step), []
    step.prepare(engine)
    step._closing = True
    for event in EVENTS:
        engine.listen(event, lambda engine, name=event.name: seen.append(name))
    return step.proxies[0], optimizer, seen, engine


def test_it_is_the_optimizer_to_schedulers_and_isinstance() -> None:
    proxy, optimizer, _, _engine = proxied(momentum=0.9)
    assert isinstance(proxy, torch.optim.SGD) and type(proxy).__name__ == "LightningSGD"
    assert proxy.optimizer is optimizer and proxy.param_groups is optimizer.param_groups
    scheduler = torch.optim.lr_scheduler.StepLR(proxy, 1, 0.1)
    proxy.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert "SGD" in repr(proxy)
    assert pickle.loads(pickle.dumps(optimizer)).param_groups[0]["momentum"] == 0.9


def test_one_made_by_hand_steps_the_optimizer_and_may_be_returned() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    wrapped = OptimizerProxy(optimizer)
    assert isinstance(wrapped, OptimizerProxy) and isinstance(wrapped, torch.optim.SGD)
    assert wrapped.state_dict() == optimizer.state_dict()
    weight.grad = torch.ones(2)
    wrapped.step()
    assert weight.tolist() == [0.5, 0.5]
    scheduler = torch.optim.lr_scheduler.StepLR(wrapped, 1, 0.1)
    found = configured(([wrapped], [scheduler]))
    assert found.optimizers == [optimizer] and type(found.optimizers[0]) is torch.optim.SGD
    with pytest.raises(MisconfigurationException, match="accumulate_grad_batches=0: pass a number"):
        OptimizerProxy(optimizer, accumulate_grad_batches=0)


class TwoRates(Tiny):
    """Steps one optimizer with every third batch, the other by the Trainer's number."""

    def __init__(self, manual: bool) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.other = torch.nn.Parameter(torch.ones(1))
        self.steps: list[tuple[int, str]] = []

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int = 0) -> Any:
        loss = super().training_step(batch, batch_idx) + self.other.sum()
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                self.manual_backward(loss, optimizer, retain_graph=True)
                optimizer.step()
            return None
        return loss

    def configure_optimizers(self) -> Any:
        slow = torch.optim.SGD([self.other], lr=0.1)
        fast = torch.optim.SGD(list(self.net.parameters()), lr=0.1)
        for name, optimizer in (("slow", slow), ("fast", fast)):
            optimizer.register_step_post_hook(
                lambda *_, name=name: self.steps.append((self.trainer.batch_idx, name))
            )
        return [OptimizerProxy(slow, 3), fast], []


@pytest.mark.parametrize("manual", [False, True])
def test_one_optimizer_may_step_less_often(manual: bool, tmp_path: Path) -> None:
    model = TwoRates(manual)
    trainer(tmp_path, limit_train_batches=5, max_epochs=1).fit(model, data(), data(2))
    assert [index for index, name in model.steps if name == "slow"] == [2, 4]
    assert [index for index, name in model.steps if name == "fast"] == [0, 1, 2, 3, 4]


def test_only_one_of_own_clearing_and_own_times_of_a_step() -> None:
    proxy, *_ = proxied()
    proxy._owner.zero_grad = print
    with pytest.raises(MisconfigurationException, match="make_optimizer_step is not allowed"):
        proxy.step(make_optimizer_step=True)


def test_step_moves_the_weights_fires_the_events_and_clears_the_gradients() -> None:
    proxy, optimizer, seen, _engine = proxied()
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = torch.tensor([1.0, 2.0])
    proxy.step()
    assert weight.tolist() == [0.5, 0.0] and weight.grad is None
    assert seen == [event.name for event in EVENTS]


def test_with_a_closure_the_gradients_are_there_when_the_event_is_fired() -> None:
    proxy, optimizer, seen, _engine = proxied()
    weight = optimizer.param_groups[0]["params"][0]

    def closure() -> torch.Tensor:
        seen.append("closure")
        loss = (weight * torch.tensor([1.0, 2.0])).sum()
        loss.backward()
        return loss

    assert float(proxy.step(closure).detach()) == 3.0
    assert seen == ["closure", *(event.name for event in EVENTS)]
    assert weight.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("overrule", [None, True])
def test_inside_a_group_only_the_closure_runs(overrule: bool | None) -> None:
    proxy, optimizer, seen, _engine = proxied()
    proxy._owner._closing = False
    calls: list[int] = []
    proxy.step(lambda: calls.append(1), make_optimizer_step=overrule)
    assert calls == [1]
    assert seen == ([] if overrule is None else [event.name for event in EVENTS])

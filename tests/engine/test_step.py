"""The training step: three ways that agree, and what each refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.engine.step import TrainingStep, takes_closure
from leyden.handlers import Position

BATCHES = 5


def data() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 2, generator=generator) for _ in range(BATCHES)]


class Run:
    """An engine around a TrainingStep of a linear model."""

    def __init__(self, kind: Any = torch.optim.SGD, factor: int = 1, **arguments: Any) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Linear(2, 1)
        self.optimizer = kind(self.model.parameters(), lr=0.1)
        self.indices: list[int] = []
        self.step = TrainingStep(
            arguments.pop("forward", self.forward), [self.optimizer], **arguments
        )
        self.engine = Engine(self.step)
        Position().attach(self.engine)
        self.state: Any = self.engine.state
        self.state.accumulate_grad_batches = factor

    def forward(self, batch: torch.Tensor, batch_idx: int) -> Any:
        self.indices.append(batch_idx)
        return self.model(batch).pow(2).mean()

    def run(self) -> Run:
        self.engine.run(data(), max_epochs=2)
        return self

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


#: Each makes the step go the general way, and changes nothing else.
GENERAL: dict[str, Any] = {
    "keep_outputs": {"keep_outputs": True},
    "step_end": {"step_end": lambda output: output},
    "backward": {"backward": lambda loss, optimizer, index: loss.backward()},
    "zero_grad": {"zero_grad": lambda optimizer, index: optimizer.zero_grad()},
    "optimizer_step": {"optimizer_step": lambda optimizer, index, closure: optimizer.step(closure)},
    "toggle": {"toggle": lambda optimizer, index: None, "untoggle": lambda optimizer, index: None},
    "frequencies": {"frequencies": [1]},
}


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("way", GENERAL)
def test_the_general_way_does_what_the_straight_way_does(way: str, factor: int) -> None:
    straight, general = Run(factor=factor).run(), Run(factor=factor, **GENERAL[way]).run()
    assert torch.equal(straight.weights, general.weights)
    assert straight.state.optimizer_steps == general.state.optimizer_steps == 2 * -(-5 // factor)
    assert straight.indices == general.indices == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize("way", ["straight", "toggle"])
def test_both_ways_fire_the_same_events(way: str) -> None:
    seen: list[str] = []
    run = Run(factor=2, **GENERAL.get(way, {}))
    run.step.prepare(run.engine)
    for event in (Events.ITERATION_STARTED, *TrainerEvents):
        run.engine.listen(event, lambda engine, name=event.name: seen.append(name))
    run.engine.run(data()[:2], max_epochs=1)
    backward = ["ITERATION_STARTED", "FORWARD_COMPLETED", "BACKWARD_STARTED", "BACKWARD_COMPLETED"]
    stepped = ["GRADIENTS_READY", "OPTIMIZER_STEP_STARTED", "OPTIMIZER_STEP_COMPLETED"]
    assert seen == [*backward, *backward, *stepped, "ZERO_GRAD_STARTED"]


def test_manual_optimization_steps_where_the_user_does() -> None:
    run = Run(manual=True)

    def forward(batch: torch.Tensor, batch_idx: int) -> None:
        run.model(batch).pow(2).mean().backward()
        run.step.proxies[0].step()

    run.step.forward = forward
    assert torch.equal(run.run().weights, Run().run().weights)


def test_a_manual_step_that_returns_a_loss_without_a_graph_is_told() -> None:
    run = Run(manual=True, forward=lambda batch, batch_idx: torch.zeros(()))
    with pytest.raises(
        MisconfigurationException, match="by hand .* returned a tensor without a graph"
    ):
        run.run()


def test_lbfgs_evaluates_the_loss_itself() -> None:
    run = Run(kind=torch.optim.LBFGS).run()
    assert len(run.indices) > 2 * BATCHES and run.state.optimizer_steps == 2 * BATCHES


def test_of_several_evaluations_the_last_output_is_kept() -> None:
    kept: list[int] = []
    run = Run(kind=torch.optim.LBFGS, keep_outputs=True)
    run.step.prepare(run.engine)
    run.engine.listen(
        Events.ITERATION_COMPLETED,
        lambda engine: kept.append(*map(len, engine.state.outputs)),  # type: ignore[attr-defined]
    )
    run.engine.run(data(), max_epochs=1)
    assert len(run.indices) > BATCHES and kept == [1] * BATCHES


class Twice(torch.optim.SGD):
    """Cannot do without the closure, and asks it twice."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        closure()
        super().step()
        return closure()


class Deaf(torch.optim.SGD):
    """Takes a closure and never looks at it."""

    def step(self, closure: Any = None) -> Any:
        return super().step()


def test_an_optimizer_of_the_users_own_is_given_the_closure() -> None:
    run = Run(kind=Twice).run()
    assert len(run.indices) == 2 * 2 * BATCHES and run.state.optimizer_steps == 2 * BATCHES


def test_an_optimizer_that_does_not_look_at_the_closure_trains_all_the_same() -> None:
    assert torch.equal(Run(kind=Deaf).run().weights, Run().run().weights)
    assert not takes_closure(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))


def test_several_optimizers_take_turns_by_frequency() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    turns: list[int] = []

    def forward(batch: Any, batch_idx: int, optimizer_idx: int) -> torch.Tensor:
        turns.append(optimizer_idx)
        return weights[optimizer_idx].sum()

    optimizers = [torch.optim.SGD([weight], lr=1.0) for weight in weights]
    step = TrainingStep(forward, optimizers, takes_optimizer_idx=True, frequencies=[2, 1])
    engine = Engine(step)
    Position().attach(engine)
    engine.run(data(), max_epochs=1)
    assert turns == [0, 0, 1, 0, 0] and [float(w.detach()) for w in weights] == [-4.0, -1.0]


def test_splits_hand_their_hidden_state_on_without_its_graph() -> None:
    hiddens: list[Any] = []
    weight = torch.nn.Parameter(torch.ones(()))

    def forward(part: float, batch_idx: int, hidden: Any) -> dict[str, Any]:
        hiddens.append(hidden)
        loss = weight * part
        return {"loss": loss, "hiddens": loss * 2}

    step = TrainingStep(
        forward, [torch.optim.SGD([weight], lr=0.0)], split=lambda batch: list(batch)
    )
    engine = Engine(step)
    Position().attach(engine)
    engine.run([[1.0, 2.0], [3.0]], max_epochs=1)
    assert hiddens[0] is None and hiddens[2] is None
    assert float(hiddens[1]) == 2.0 and not hiddens[1].requires_grad


@pytest.mark.parametrize("output", ["text", 3.0, {"other": 1}, {"loss": 3.0}])
def test_what_is_no_loss_is_refused_with_what_it_should_be(output: Any) -> None:
    with pytest.raises(MisconfigurationException, match="return the loss as a tensor, a dict"):
        Run(forward=lambda batch, batch_idx: output).run()


@pytest.mark.parametrize("way", ["straight", "toggle", "backward"])
@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (
            lambda weight: weight * torch.ones(3),
            r"shape \(3,\): return one number, such as loss.mean",
        ),
        (lambda weight: weight.detach(), r"without a graph.*frozen \(element 0 of tensors"),
    ],
)
def test_a_loss_without_a_backward_pass_is_explained(loss: Any, words: str, way: str) -> None:
    run = Run(forward=lambda batch, batch_idx: loss(run.model.bias[0]), **GENERAL.get(way, {}))
    # The built-in is what Lightning 1.1 raises: torch's own.
    with pytest.raises(RuntimeError, match=words) as raised:
        run.run()
    assert isinstance(raised.value, MisconfigurationException)


def test_another_error_of_the_backward_pass_stays_what_it_is() -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return value.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            raise RuntimeError("of the user's own")

    run = Run(forward=lambda batch, batch_idx: Fails.apply(run.model.bias.sum()))
    with pytest.raises(RuntimeError, match="^of the user's own$"):
        run.run()


@pytest.mark.parametrize("output", [None, {"loss": None}])
@pytest.mark.parametrize("way", ["straight", "toggle"])
def test_none_skips_the_update(output: Any, way: str) -> None:
    run = Run(forward=lambda batch, batch_idx: output, **GENERAL.get(way, {}))
    before = run.weights.clone()
    assert torch.equal(run.run().weights, before) and run.state.optimizer_steps == 2 * BATCHES


def test_untoggling_happens_whatever_the_step_raises() -> None:
    calls: list[str] = []

    def forward(batch: Any, batch_idx: int) -> Any:
        raise LookupError

    run = Run(
        forward=forward,
        toggle=lambda optimizer, index: calls.append("on"),
        untoggle=lambda optimizer, index: calls.append("off"),
    )
    with pytest.raises(LookupError):
        run.run()
    assert calls == ["on", "off"]


@pytest.mark.parametrize("optimizers", [1, 2])
def test_optimizer_events_are_counted_from_one(optimizers: int) -> None:
    seen: list[tuple[str, int]] = []
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(optimizers)]
    step = TrainingStep(
        lambda batch, batch_idx, *index: sum(parameters) * batch,
        [torch.optim.SGD([parameter], lr=0.1) for parameter in parameters],
        takes_optimizer_idx=optimizers > 1,
    )
    engine = Engine(step, data_ends_epoch=True)
    step.prepare(engine)
    engine.state.accumulate_grad_batches = 2
    for name in ("GRADIENTS_READY", "OPTIMIZER_STEP_STARTED", "OPTIMIZER_STEP_COMPLETED"):
        event = TrainerEvents[name](every=10)

        def note(engine: Engine, name: str = name) -> None:
            seen.append((name, engine.state.iteration // 2))

        engine.listen(event, note)
    engine.run([torch.ones(1)] * 64, max_epochs=1)
    names = ("GRADIENTS_READY", "OPTIMIZER_STEP_STARTED", "OPTIMIZER_STEP_COMPLETED")
    each = [[(name, count) for name in names] for count in (10, 20, 30)]
    assert seen == [row for rows in each for row in rows * optimizers]

"""A captured step: with a capture that is made up, then with a real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import leyden
from leyden.backends.cuda_graph import WARM, GraphedStep
from leyden.compiling import capture
from leyden.exceptions import MisconfigurationException
from leyden.transfer import apply_to_tensors
from tests.trainer.tiny import QUIET, Bare, Tiny, data, trainer, weights


class Replaying:
    """Captures a function by keeping it: playing back runs it into the tensors of the first run."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def side(self, device: Any) -> str:
        return "stream"

    def on(self, stream: Any) -> Any:
        return nullcontext()

    def capture(self, stream: Any, function: Callable[[], Sequence[Tensor]]) -> Callable[[], None]:
        self.captures += 1
        places = function()
        owner = function.__closure__[-1].cell_contents  # type: ignore[index]
        kept = {name: getattr(owner, name) for name in ("_output", "_gradients", "_logged")}

        def replay() -> None:
            self.replays += 1
            model, owner.model.log = owner.model, owner._note
            made = function()
            del model.log
            with torch.no_grad():
                for place, tensor in zip(places, made, strict=True):
                    place.copy_(tensor)
            for name, value in kept.items():
                setattr(owner, name, value)

        return replay


def prepared(model: Any, cuda: Any, **arguments: Any) -> leyden.Trainer:
    """A Trainer whose step is captured by ``cuda``, on a CPU."""
    run = trainer(max_epochs=2, **arguments)

    @run.engine.on(leyden.engine.Events.STARTED)  # type: ignore[attr-defined]
    def put(engine: Any) -> None:
        step = run._run.step
        graphed = GraphedStep(model, step.forward, torch.device("cpu"), apply_to_tensors, cuda=cuda)
        step.forward, step.backward = graphed.forward, graphed.backward
        step.prepare(engine)

    return run


class NoDropout(Tiny):
    def __init__(self) -> None:
        super().__init__(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
        self.net[1] = torch.nn.Identity()


def test_weights_and_rows_are_those_of_the_plain_run() -> None:
    cuda = Replaying()
    plain, graphed = NoDropout(), NoDropout()
    expected = trainer(max_epochs=2, gradient_clip_val=0.5)
    expected.fit(plain, data(), data(2))
    found = prepared(graphed, cuda, gradient_clip_val=0.5)
    found.fit(graphed, data(), data(2))
    assert torch.equal(weights(graphed), weights(plain))
    assert found.callback_metrics == expected.callback_metrics
    assert cuda.captures == 1 and cuda.replays == 2 * 6 - WARM
    assert "log" not in graphed.__dict__


def test_a_batch_of_another_shape_runs_as_usual() -> None:
    batches = [
        (torch.randn(n, 5, generator=torch.Generator().manual_seed(n)), torch.ones(n, 1))
        for n in (4, 4, 4, 4, 2, 4)
    ]
    cuda = Replaying()
    plain, graphed = NoDropout(), NoDropout()
    trainer(max_epochs=2).fit(plain, batches, data(1))
    prepared(graphed, cuda).fit(graphed, batches, data(1))
    assert torch.equal(weights(graphed), weights(plain))
    assert cuda.replays == 10 - WARM


@pytest.mark.parametrize("value", [3, 0.5])
def test_a_number_that_would_be_frozen_is_refused(value: float) -> None:
    class Logs(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("n", value)
            return super().training_step(batch, batch_idx)

    model = Logs()
    with pytest.raises(MisconfigurationException, match="'n' as (int|float), which would stay"):
        prepared(model, Replaying()).fit(model, data())
    assert "log" not in model.__dict__


def test_what_cannot_be_captured_says_so() -> None:
    class Waits(Replaying):
        def capture(self, stream: Any, function: Any) -> Any:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    model = Bare()
    with pytest.raises(MisconfigurationException, match="of Bare cannot be captured") as caught:
        prepared(model, Waits()).fit(model, data())
    assert ".item()" in str(caught.value) and isinstance(caught.value.__cause__, RuntimeError)


def test_a_step_without_a_loss_cannot_be_captured() -> None:
    class Skips(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == WARM else super().training_step(batch, batch_idx)

    model = Skips()
    with (
        pytest.raises(MisconfigurationException, match="every step must have a loss"),
    ):
        prepared(model, Replaying()).fit(model, data())


class TwoOptimizers(Bare):
    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Tensor:  # type: ignore[override]
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


class ByHand(Bare):
    automatic_optimization = False


class OwnBackward(Bare):
    def backward(self, loss: Tensor, *rest: Any) -> None:
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        (TwoOptimizers, {}, "2 optimizers"),
        (ByHand, {}, "manual optimization"),
        (OwnBackward, {}, "an own backward"),
        (lambda: Bare(lambda p: torch.optim.LBFGS(p)), {}, "evaluates the loss itself"),
        (Bare, {"accumulate_grad_batches": 2}, "accumulate_grad_batches=2"),
        (Bare, {"precision": "16-mixed"}, "which scales the loss"),
        (Bare, {"precision": 16, "amp_backend": "apex"}, "which scales the loss"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(model: Any, arguments: Any, said: str) -> None:
    run = trainer(max_epochs=1, **arguments)
    module = model()

    @run.engine.on(leyden.engine.Events.STARTED)  # type: ignore[attr-defined]
    def put(engine: Any) -> None:
        capture(run._run, run._run.step)

    with pytest.raises(MisconfigurationException, match=said):
        run.fit(module, data())


def test_on_a_cpu_there_is_nothing_to_capture() -> None:
    with pytest.raises(MisconfigurationException, match="this run is on cpu: pass gpus=1"):
        trainer(cuda_graph=True)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [32, "bf16"])
def test_a_real_graph(precision: Any) -> None:
    times = {}
    found = {}
    for cuda_graph in (False, True):
        model = NoDropout()
        run = leyden.Trainer(
            **QUIET, gpus=1, max_epochs=1, cuda_graph=cuda_graph, precision=precision
        )
        run.fit(model, data(10))
        run.max_epochs = 2
        torch.cuda.synchronize()
        began = time.perf_counter()
        run.fit(model, data(500))
        torch.cuda.synchronize()
        times[cuda_graph] = (time.perf_counter() - began) / 500
        found[cuda_graph] = weights(model).cpu()
    print(f"{times[False] * 1e6:.0f} us a step, captured {times[True] * 1e6:.0f} us")
    assert torch.allclose(found[True], found[False], rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_step_that_waits_for_the_device_cannot_be_captured() -> None:
    class Waits(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * (1.0 if loss.item() > 0 else 2.0)

    with pytest.raises(MisconfigurationException, match="cannot be captured"):
        leyden.Trainer(**QUIET, gpus=1, max_epochs=1, cuda_graph=True).fit(Waits(), data())

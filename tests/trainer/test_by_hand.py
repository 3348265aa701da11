"""Modules that optimize by hand: what the run does around their backward passes and steps."""

from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from tests.trainer.tiny import BATCHES, Bare, data, trainer, weights


class Hand(Bare):
    """Steps itself; notes what hooks are given."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net = torch.nn.Linear(5, 1)
        self.automatic_optimization = False
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.manual_backward(loss, optimizer)
        self.look()
        optimizer.step()
        self.log("loss", loss)
        return None

    def look(self) -> None:
        """For subclasses."""


def norm(model: torch.nn.Module) -> float:
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])))


class Measured(Hand):
    def look(self) -> None:
        self.seen.append(norm(self))


def test_gradients_are_clipped_after_the_backward_pass(tmp_path: Path) -> None:
    model = Measured()
    trainer(tmp_path, max_epochs=1, gradient_clip_val=0.01).fit(model, data())
    assert model.seen == pytest.approx([0.01] * BATCHES, rel=1e-3)


def test_inside_a_group_nothing_is_clipped(tmp_path: Path) -> None:
    model = Measured()
    made = trainer(tmp_path, max_epochs=1, gradient_clip_val=0.01, accumulate_grad_batches=2)
    made.fit(model, data())
    assert min(model.seen[::2]) > 0.02
    assert model.seen[1::2] == pytest.approx([0.01] * (BATCHES // 2), rel=1e-3)


def test_clipped_gradients_are_unscaled_ones(tmp_path: Path) -> None:
    """With a loss scale the true gradient is what is clipped, and what steps."""
    from leyden.backends.precision import MixedPrecision
    from leyden.backends.precision.mixed import Scaler

    scaled = MixedPrecision(torch.float16, scaler=Scaler("cpu", init_scale=1024.0))
    model = Measured()
    made = trainer(tmp_path, max_epochs=1, gradient_clip_val=0.01, plugins=[scaled])
    made.fit(model, data())
    assert model.seen == pytest.approx([0.01] * BATCHES, rel=1e-3)


def test_norms_are_measured_before_clipping(tmp_path: Path) -> None:
    arguments = dict(max_epochs=1, track_grad_norm=2, log_every_n_steps=1)
    made = trainer(tmp_path, gradient_clip_val=0.01, **arguments)
    made.fit(Hand(), data())
    assert made.callback_metrics["grad_2.0_norm_total"] > 0.02


class Nested(Hand):
    """Its hooks run inside its training_step."""

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.seen.append(optimizer)

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int
    ) -> None:
        self.seen.append(optimizer)
        optimizer.zero_grad()

    def backward(self, loss: Any, optimizer: Any, optimizer_idx: int) -> None:
        self.seen.append((optimizer, optimizer_idx))
        loss.backward()


def test_hooks_get_the_optimizer(tmp_path: Path) -> None:
    model = Nested()
    trainer(tmp_path, max_epochs=1).fit(model, data(1))
    given, before, zeroed = model.seen
    plain = model.trainer.optimizers[0]
    assert before is plain and zeroed is plain
    assert given[0].optimizer is plain and given[1] == -1


def test_what_is_logged_after_a_step_is_logged_by_the_training_step(tmp_path: Path) -> None:
    last: list[float] = []

    class Logs(Nested):
        def look(self) -> None:
            last.append(float(self.trainer._run.state.loss.detach()))

    made = trainer(tmp_path, max_epochs=1)
    made.fit(Logs(), data())
    assert float(made.callback_metrics["loss"]) == pytest.approx(last[-1])  # no mean of the epoch


def test_the_argument_of_the_trainer_is_enough(tmp_path: Path) -> None:
    model = Hand()
    model.automatic_optimization = True
    before = weights(model)
    with pytest.warns(DeprecationWarning, match="automatic_optimization"):
        made = trainer(tmp_path, max_epochs=1, automatic_optimization=False)
    made.fit(model, data())
    assert made.global_step == BATCHES and not torch.equal(weights(model), before)


def test_a_closure_is_a_function(tmp_path: Path) -> None:
    class Bad(Hand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.optimizers().step(closure=3)

    with pytest.raises(leyden.exceptions.MisconfigurationException, match="closure=3"):
        trainer(tmp_path, max_epochs=1).fit(Bad(), data())

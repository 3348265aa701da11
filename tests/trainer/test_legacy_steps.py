"""One batch by hand, and steps that a test replaces: as on the loops of Lightning 1.1's Trainer."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden.engine.optimizer_proxy import OptimizerProxy
from leyden.exceptions import MisconfigurationException

BATCH = torch.full((2, 4), 2.0)


class Model(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.called: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.called.append(batch_idx)
        loss = self.layer(batch).mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return batch_idx

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(8, 4), batch_size=2)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = train_dataloader


def trainer(**kwargs: Any) -> Any:
    quiet: dict[str, Any] = {
        "logger": False,
        "checkpoint_callback": False,
        "progress_bar_refresh_rate": 0,
        "weights_summary": None,
        "max_epochs": 1,
    }
    return leyden.Trainer(**{**quiet, **kwargs})


def test_a_batch_by_hand_trains_and_moves_no_counter() -> None:
    model, made = Model(), trainer()
    made.fit(model)
    before, expected = model.layer.weight.detach().clone(), model.layer(BATCH).mean()
    where = made.global_step, made.total_batch_idx
    out = made.train_loop.run_training_batch(BATCH, 3, 0)
    assert out.signal == 0 and out.grad_norm_dic == {}
    ((kept,),) = out.training_step_output_for_epoch_end
    assert kept["minimize"].equal(expected.detach())
    assert model.layer.weight.equal(before - 0.5 * 2.0)
    assert model.called[-1] == 3 and (made.global_step, made.total_batch_idx) == where
    made.max_epochs = 2
    made.fit(model)
    assert made.global_step == 2 * where[0]


def test_a_batch_by_hand_calls_the_hooks_of_its_start() -> None:
    seen: list[str] = []

    class Stops(Model):
        def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
            return -1 if batch_idx == 9 else None

    class Sees(leyden.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.append("callback")

    model, made = Stops(), trainer(callbacks=[Sees()], limit_train_batches=1)
    made.fit(model)
    assert made.train_loop.run_training_batch(BATCH, 9).signal == -1
    assert model.called == [0] and seen == ["callback", "callback"]
    assert made.train_loop.run_training_batch(None, 0).signal == 0


def test_a_step_that_returns_none_leaves_no_output() -> None:
    class Skips(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) if batch_idx % 2 else None

    model, made = Skips(), trainer()
    with pytest.warns(UserWarning, match="training_step returned None"):
        made.fit(model)
    loop = made.train_loop
    assert loop.run_training_batch(BATCH, 0, 0).training_step_output_for_epoch_end == [[]]
    assert loop.training_step_and_backward(BATCH, 0, 0, made.optimizers[0], None) is None
    assert loop.run_training_batch(BATCH, 1, 0).training_step_output_for_epoch_end != [[]]


def test_a_step_with_its_backward_pass_steps_nothing() -> None:
    model, made = Model(), trainer()
    made.fit(model)
    before = model.layer.weight.clone()
    found = made.train_loop.training_step_and_backward(BATCH, 0, 0, made.optimizers[0], None)
    assert found.loss.equal(found["training_step_output"].detach())
    assert model.layer.weight.equal(before) and bool((model.layer.weight.grad == 2).all())


def test_before_a_run_there_is_no_step() -> None:
    loop = trainer().train_loop
    with pytest.raises(MisconfigurationException, match=r"call trainer.fit\(model\) first"):
        loop.run_training_batch(BATCH, 0, 0)
    with pytest.raises(MisconfigurationException, match="evaluation_step has no steps"):
        trainer().evaluation_loop.evaluation_step(BATCH, 0, 0)


def test_a_training_step_that_is_replaced_is_called_with_the_clipped_gradient() -> None:
    model, made = Model(), trainer(gradient_clip_val=0.5, max_epochs=2)
    own = made.train_loop.training_step_and_backward
    norms: list[torch.Tensor] = []

    def looks(batch: Any, batch_idx: int, opt_idx: int, optimizer: Any, hiddens: Any) -> Any:
        found = own(batch, batch_idx, opt_idx, optimizer, hiddens)
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        norms.append(torch.cat(gradients).norm())
        return found

    made.train_loop.training_step_and_backward = looks
    assert made.train_loop.training_step_and_backward is looks
    assert "ReplacedSteps" in str(made.plan())
    made.fit(model)
    assert len(norms) == 8 and all(abs(norm - 0.5) < 1e-3 for norm in norms)
    del made.train_loop.training_step_and_backward
    made.max_epochs = 3
    made.fit(model)
    assert len(norms) == 8 and len(model.called) == 12


def test_replaced_or_not_the_weights_are_the_same() -> None:
    def trained(replace: bool) -> torch.Tensor:
        leyden.seed_everything(3)
        model, made = Model(), trainer(accumulate_grad_batches=2)
        if replace:
            made.train_loop.training_step_and_backward = made.train_loop.training_step_and_backward
        made.fit(model)
        return model.layer.weight.detach()

    assert trained(True).equal(trained(False))


def test_a_replaced_step_of_an_optimizer_that_waits_only_adds_to_the_gradients() -> None:
    class Waits(Model):
        def configure_optimizers(self) -> Any:
            return OptimizerProxy(super().configure_optimizers(), accumulate_grad_batches=2)

    def trained(replace: bool) -> torch.Tensor:
        leyden.seed_everything(3)
        model = Waits()
        made = trainer(gradient_clip_val=0.1, limit_train_batches=3)
        if replace:
            made.train_loop.training_step_and_backward = made.train_loop.training_step_and_backward
        made.fit(model)
        return model.layer.weight.detach()

    assert trained(True).equal(trained(False))


def test_a_mock_in_place_of_the_evaluation_step_sees_each_batch() -> None:
    model, made = Model(), trainer(num_sanity_val_steps=2, limit_val_batches=3)
    loop = made.evaluation_loop
    with mock.patch.object(loop, "evaluation_step", wraps=loop.evaluation_step) as seen:
        made.fit(model)
        assert seen.call_count == 2 + 3
        made.test(model, verbose=False)
        assert seen.call_count == 5 + 4 and seen.call_args.args[1:] == (3, 0)
    made.test(model, verbose=False)
    assert seen.call_count == 9
    assert made.evaluation_loop.evaluation_step(BATCH, 7, 0) == 7


def test_what_is_replaced_in_a_hook_is_called_from_then_on() -> None:
    seen: list[int] = []

    class Replaces(leyden.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.evaluation_loop.evaluation_step = lambda batch, index, _: seen.append(index)

    trainer(callbacks=[Replaces()], num_sanity_val_steps=1).fit(Model())
    assert seen == [0, 1, 2, 3]


def test_what_was_not_replaced_cannot_be_put_back() -> None:
    with pytest.raises(AttributeError, match="evaluation_step"):
        del trainer().evaluation_loop.evaluation_step

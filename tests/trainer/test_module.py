"""LightningModule without a run."""

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from leyden.exceptions import MisconfigurationException
from leyden.module import LightningModule
from leyden.overrides import overrides

MODULE_HOOKS = """prepare_data setup teardown on_fit_start on_fit_end on_train_start on_train_end
on_pretrain_routine_start on_pretrain_routine_end on_train_batch_start on_train_batch_end
on_validation_model_eval on_validation_model_train on_validation_batch_start on_validation_batch_end
on_test_batch_start on_test_batch_end on_test_model_eval on_test_model_train on_epoch_start
on_epoch_end on_train_epoch_start on_train_epoch_end on_validation_epoch_start
on_validation_epoch_end on_test_epoch_start on_test_epoch_end on_validation_start on_validation_end
on_test_start on_test_end on_before_zero_grad on_after_backward train_dataloader val_dataloader
test_dataloader configure_optimizers training_step training_step_end training_epoch_end
validation_step validation_step_end validation_epoch_end test_step test_step_end test_epoch_end
backward optimizer_step optimizer_zero_grad on_save_checkpoint on_load_checkpoint on_hpc_save
on_hpc_load predict_step predict_dataloader on_before_backward on_before_optimizer_step
configure_gradient_clipping lr_scheduler_step configure_callbacks transfer_batch_to_device
on_before_batch_transfer on_after_batch_transfer on_predict_start on_predict_end
tbptt_split_batch""".split()


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x)


def trainer(**attributes: Any) -> Any:
    given: dict[str, Any] = {"is_global_zero": True, "logger": None, "progress_bar_callback": None}
    given["truncated_bptt_steps"] = given["running_loss"] = None
    return SimpleNamespace(**{**given, **attributes})


@pytest.mark.parametrize("name", MODULE_HOOKS)
def test_every_hook_has_a_default_with_a_docstring(name: str) -> None:
    default = getattr(LightningModule, name)
    assert default.__doc__
    assert not overrides(Model(), name, LightningModule)


def test_it_stands_alone() -> None:
    model = Model()
    assert (model.current_epoch, model.global_step, model.global_rank, model.local_rank) == (0,) * 4
    assert model.trainer is model.logger is model.datamodule is model.example_input_array is None
    assert model.automatic_optimization and model.precision == 32 and not model.on_gpu
    assert model.configure_callbacks() == [] and model.configure_optimizers() is None
    assert (
        model.training_step(1, 2) is model.validation_step(1, 2) is model.train_dataloader() is None
    )
    assert torch.equal(model.predict_step(torch.ones(1, 2), 0), model(torch.ones(1, 2)))


def test_what_needs_a_trainer_says_so() -> None:
    for name in ("optimizers", "lr_schedulers"):
        with pytest.raises(RuntimeError, match=f"{name} was used on a Model without a Trainer"):
            getattr(Model(), name)()


def test_state_of_the_run_comes_from_the_trainer() -> None:
    model = Model()
    model.trainer = trainer(
        current_epoch=3, global_step=17, global_rank=2, local_rank=1, logger="l"
    )
    assert [model.current_epoch, model.global_step, model.global_rank] == [3, 17, 2]
    assert (model.local_rank, model.logger) == (1, "l")


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log(self, *args: Any) -> None:
        self.calls.append(args)


def test_log_hands_everything_on() -> None:
    model, recorder = Model(), Recorder()
    model.log("dropped", 1.0)  # Nothing records yet.
    model._recorder = recorder
    model.log("a", 1.0)
    defaults = (False, True, None, None, torch.mean, False, False, "mean", None, True, None, False)
    assert recorder.calls == [(model, "a", 1.0, *defaults)]
    recorder.calls.clear()
    model.log_dict({"b": 2, "c": 3}, prog_bar=True, batch_size=4, sync_dist_op="sum")
    changed = (True, True, None, None, torch.mean, False, False, "sum", None, True, 4, False)
    assert recorder.calls == [(model, "b", 2, *changed), (model, "c", 3, *changed)]


def test_log_says_what_has_no_effect() -> None:
    model = Model()
    model._recorder = Recorder()
    for arguments in ({"tbptt_pad_token": 1}, {"tbptt_reduce_fx": torch.sum}):
        with pytest.warns(UserWarning, match="log.'a'.*have no effect"):
            model.log("a", 1.0, **arguments)  # type: ignore[arg-type]


def test_device_and_dtype_follow_every_move() -> None:
    model = Model()
    outer = nn.Sequential(model)
    assert (str(model.device), model.dtype) == ("cpu", torch.float32)
    outer.double()
    assert model.dtype is torch.float64
    outer.to(torch.bfloat16)
    assert model.dtype is torch.bfloat16
    model.float().to("meta")
    assert (str(model.device), model.dtype) == ("meta", torch.float32)
    model.to_empty(device="cpu")
    assert str(model.device) == "cpu"
    model.share_memory()
    assert LightningModule().half().dtype is torch.float16  # Without a parameter, too.
    with torch.device("meta"):
        assert str(Model().device) == "meta"


def test_optimizers_and_schedulers() -> None:
    model = Model()
    one, two = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    model.trainer = trainer(optimizers=[one], lr_schedulers=[])
    assert model.optimizers() is one and model.lr_schedulers() is None
    model.trainer = trainer(
        optimizers=[one, two],
        lightning_optimizers={0: "proxy one", 1: "proxy two"},
        lr_schedulers=[{"scheduler": "s"}],
    )
    assert model.optimizers() == ["proxy one", "proxy two"]
    assert model.optimizers(use_pl_optimizer=False) == [one, two]
    assert model.lr_schedulers() == "s"
    model.trainer.lr_schedulers *= 2
    assert model.lr_schedulers() == ["s", "s"]


def test_steps_of_an_optimizer() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.layer.bias.detach().clone()

    def closure() -> torch.Tensor:
        loss = model(torch.ones(1, 2)).sum()
        model.backward(loss, optimizer, 0)
        return loss

    model.optimizer_step(0, 0, optimizer, 0, closure)
    assert torch.equal(model.layer.bias.detach(), before - 0.5)
    model.optimizer_zero_grad(0, 0, optimizer, 0)
    assert model.layer.bias.grad is None


def test_manual_backward() -> None:
    model = Model()
    with pytest.raises(MisconfigurationException, match="automatic_optimization=True"):
        model.manual_backward(model(torch.ones(1, 2)).sum())
    model.automatic_optimization = False
    model.manual_backward(model(torch.ones(1, 2)).sum())
    assert model.layer.bias.grad is not None
    seen: list[Any] = []
    model.trainer = trainer(manual_backward=lambda *args, **kw: seen.append((args, kw)))
    model.manual_backward("loss", "optimizer", retain_graph=True)  # type: ignore[arg-type]
    assert seen == [(("loss",), {"optimizer": "optimizer", "retain_graph": True})]


def test_toggling() -> None:
    model = Model()
    weight, bias = model.layer.weight, model.layer.bias
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in (weight, bias)]
    model.trainer = trainer(optimizers=optimizers)
    model.untoggle_optimizer(0)  # Nothing is toggled: nothing happens.
    model.toggle_optimizer(optimizers[0], 0)
    assert (weight.requires_grad, bias.requires_grad) == (True, False)
    model.untoggle_optimizer(0)
    assert weight.requires_grad and bias.requires_grad
    with pytest.raises(ZeroDivisionError), model.toggled_optimizer(optimizers[1]):
        assert (weight.requires_grad, bias.requires_grad) == (False, True)
        raise ZeroDivisionError
    assert weight.requires_grad and bias.requires_grad
    model.toggle_optimizer(optimizers[0])
    model.toggle_optimizer(optimizers[1])
    model.untoggle_optimizer(optimizers[1], 1)
    assert (weight.requires_grad, bias.requires_grad) == (True, False)
    model._untoggle_all()
    assert weight.requires_grad and bias.requires_grad


def test_clipping_takes_the_trainers_values() -> None:
    model = Model()
    optimizer = torch.optim.SGD([model.layer.bias], lr=0.1)

    def gradients() -> list[float]:
        return [
            float(p.grad.norm())
            for p in (model.layer.weight, model.layer.bias)
            if p.grad is not None
        ]

    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 4.0)
    before = gradients()
    model.clip_gradients(optimizer)
    assert gradients() == before
    model.trainer = trainer(gradient_clip_val=2.0, gradient_clip_algorithm="value")
    model.clip_gradients(optimizer)
    assert gradients() == [before[0], 2.0]
    model.configure_gradient_clipping(optimizer, 0, 1.0, "value")
    assert float(model.layer.weight.grad.max()) == 1.0  # type: ignore[union-attr]


def test_schedulers_get_their_metric() -> None:
    seen: list[Any] = []
    scheduler = SimpleNamespace(step=lambda *args: seen.append(args))
    Model().lr_scheduler_step(scheduler, 0, None)
    Model().lr_scheduler_step(scheduler, 0, 0.5)
    assert seen == [(), (0.5,)]


def test_norms_and_splits() -> None:
    model = Model()
    model(torch.ones(1, 2)).sum().backward()
    assert model.grad_norm("inf") == {
        "grad_inf_norm_layer.weight": 1.0,
        "grad_inf_norm_layer.bias": 1.0,
        "grad_inf_norm_total": 1.0,
    }
    assert len(model.tbptt_split_batch([torch.ones(2, 5)], 2)) == 3
    assert model.all_gather(3) == 3


def test_freezing_and_modes() -> None:
    model = Model()
    model.freeze()
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    model.unfreeze()
    assert model.training and all(p.requires_grad for p in model.parameters())
    for word in ("validation", "test", "predict"):
        getattr(model, f"on_{word}_model_eval")()
        assert not model.layer.training
        getattr(model, f"on_{word}_model_train")()
        assert model.layer.training


def test_print_is_for_rank_zero(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model()
    model.print("alone")
    model.trainer = trainer(is_global_zero=False)
    model.print("not seen")
    model.trainer = trainer(
        progress_bar_callback=SimpleNamespace(print=lambda *a: print("bar", *a))
    )
    model.print("above")
    assert capsys.readouterr().out == "alone\nbar above\n"


def test_items_of_the_progress_bar() -> None:
    model = Model()
    assert model.get_progress_bar_dict() == {}
    logger = SimpleNamespace(version="version_12345")
    model.trainer = trainer(running_loss=torch.tensor(0.123456), logger=logger)
    assert model.get_progress_bar_dict() == {"loss": "0.123", "v_num": "2345"}
    logger.version = 3
    assert model.get_progress_bar_dict()["v_num"] == 3
    model.trainer = trainer(truncated_bptt_steps=2, split_idx=1)
    assert model.get_progress_bar_dict() == {"loss": "nan", "split_idx": 1}


def test_predictions(tmp_path: Path) -> None:
    model = Model()
    model.write_prediction("n", [1], tmp_path / "x.pt")
    model.write_prediction_dict({"a": [1], "b": torch.ones(1)}, str(tmp_path / "y.pt"))
    assert model._predictions is not None
    model._predictions.write()
    assert torch.load(tmp_path / "x.pt") == [{"n": 1}]
    assert torch.load(tmp_path / "y.pt") == [{"a": 1, "b": torch.tensor(1.0)}]


def test_summary_of_the_module() -> None:
    model = Model()
    top, full = model.summarize(), model.summarize(max_depth=-1)
    assert model.summarize(mode=None) is None
    assert top is not None and top.layer_names == ["layer"]
    assert full is not None and full.layer_names == ["layer"]
    with pytest.raises(MisconfigurationException, match="mode='half'"):
        model.summarize("half")


def test_copies_leave_the_run_behind() -> None:
    model = Model()
    model.trainer = trainer(lock=lambda: "cannot be pickled")
    model._recorder = Recorder()
    model.save_hyperparameters({"x": 1})
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.trainer is None and other._recorder is None
        assert dict(other.hparams) == {"x": 1}
        assert torch.equal(other.layer.weight, model.layer.weight)
    assert model.trainer is not None


def test_state_dict_holds_weights_only() -> None:
    model = Model()
    model.trainer = trainer()
    assert sorted(model.state_dict()) == ["layer.bias", "layer.weight"]

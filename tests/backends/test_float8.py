"""Linear layers in float8: emulated on a CPU where torchao is there, refused without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leyden.backends import device_report
from leyden.backends.precision import float8
from leyden.backends.precision.float8 import Float8Training
from leyden.exceptions import MisconfigurationException
from tests.trainer.tiny import Bare, data, trainer, weights

# What torchao itself warns of when it is imported.
needs_torchao = [
    pytest.mark.skipif(
        float8._torchao() is None, reason="needs torchao: pip install leyden[quant]"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning:torchao", "ignore::DeprecationWarning"),
]


class Wide(Bare):
    """Some layers that fit, some that do not."""

    def __init__(self) -> None:
        super().__init__(lambda p: torch.optim.Adam(p, lr=1e-3))
        torch.manual_seed(3)
        self.net = nn.Sequential(
            nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1)
        )


class TestEmulated:
    pytestmark = needs_torchao

    def test_layers_that_fit_are_exchanged_for_the_run(self) -> None:
        model, kinds = Wide(), set()
        own = dict(model.named_parameters())
        layer = model.net[2]
        model.on_train_batch_start = lambda *rest: kinds.add(  # type: ignore[method-assign]
            tuple(type(part).__name__ for part in model.net)
        )
        run = trainer(plugins=Float8Training("cpu", emulate=True), max_epochs=2)
        run.fit(model, data())
        assert kinds == {("Linear", "ReLU", "Float8Linear", "ReLU", "Linear")}
        assert model.net[2] is layer and type(layer) is nn.Linear and layer.training
        assert all(value is own[key] for key, value in model.named_parameters())
        assert run.use_amp and run.precision_plugin.name == "fp8"

    @pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
    def test_it_learns_what_bfloat16_learns(self, recipe: str) -> None:
        found = []
        for precision in (None, Float8Training("cpu", recipe=recipe, emulate=True)):
            model = Wide()
            more: dict[str, Any] = {"plugins": precision} if precision else {"precision": "bf16"}
            run = trainer(max_epochs=3, **more)
            run.fit(model, data(8))
            found.append(float(torch.nn.functional.mse_loss(model.net(X).detach(), Y)))
        # Three bits of mantissa: a few per cent.
        assert found[1] == pytest.approx(found[0], rel=0.05)

    def test_a_resumed_run_is_exact_and_the_file_is_anybodys(self, tmp_path: Path) -> None:
        def fresh(**more: Any) -> Any:
            run = trainer(plugins=Float8Training("cpu", emulate=True), max_epochs=2, **more)
            return Wide(), run

        whole, run = fresh()
        from leyden.engine import Events

        @run.engine.on(Events.ITERATION_COMPLETED(once=8))
        def save(engine: Any) -> None:
            run.save_checkpoint(tmp_path / "middle.ckpt")

        run.fit(whole, data())
        again, run = fresh(resume_from_checkpoint=str(tmp_path / "middle.ckpt"))
        run.fit(again, data())
        assert torch.equal(weights(again), weights(whole))
        plain = trainer(max_epochs=2, resume_from_checkpoint=str(tmp_path / "middle.ckpt"))
        plain.fit(Wide(), data())

    def test_layers_are_given_back_after_an_error(self) -> None:
        class Fails(Wide):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                raise KeyError("no")

        model = Fails()
        with pytest.raises(KeyError):
            trainer(plugins=Float8Training("cpu", emulate=True), max_epochs=1).fit(model, data())
        assert {type(part).__name__ for part in model.net} == {"Linear", "ReLU"}

    def test_a_model_without_such_layers_trains_with_a_warning(self) -> None:
        with pytest.warns(UserWarning, match="Bare has none"):
            trainer(plugins=Float8Training("cpu", emulate=True), max_epochs=1).fit(Bare(), data())


X = torch.randn(64, 5, generator=torch.Generator().manual_seed(5))
Y = X.sum(1, keepdim=True)


def test_a_cpu_has_no_float8() -> None:
    with pytest.raises(MisconfigurationException, match="'fp8' cannot run here: float8 is for GPU"):
        trainer(precision="fp8")


def test_an_older_gpu_and_a_missing_package_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(MisconfigurationException, match=r"A100 has compute capability 8\.0.*8\.9"):
        Float8Training("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(device_report, "find_spec", lambda name: None)
    with pytest.raises(MisconfigurationException, match=r"pip install leyden\[quant\]"):
        Float8Training("cuda")
    monkeypatch.setattr(float8, "_torchao", lambda: None)
    with pytest.raises(MisconfigurationException, match=r"pip install leyden\[quant\]"):
        Float8Training("cpu", emulate=True)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    missing = device_report.why_no_fp8("cuda")
    if missing:
        pytest.skip(missing)
    model = Wide()
    run = trainer(gpus=1, precision="fp8", max_epochs=2)
    run.fit(model, data(50))
    assert bool(weights(model).isfinite().all())

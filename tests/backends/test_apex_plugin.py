"""NVIDIA's own apex behind its plugin: with a stand-in of its O2, then with the real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from leyden.backends.precision.apex import ApexPrecision, apex_amp
from leyden.engine import Events, TrainerEvents
from leyden.exceptions import MisconfigurationException
from tests.trainer.tiny import Bare, data, trainer, weights


class Amp:
    """What apex.amp does under O2, as far as one sees it from outside."""

    def __init__(self) -> None:
        self.scale, self.good = 256.0, 0
        self.patched: set[int] = set()

    def initialize(self, model: Any, optimizers: list[Any], *, opt_level: str) -> Any:
        assert opt_level == "O2"
        if id(model) in self.patched:
            raise RuntimeError("A second initialize")
        self.patched.add(id(model))
        model.half()
        model.forward = lambda x, call=model.forward: call(x.half()).float()
        for optimizer in optimizers:
            stash = optimizer._amp_stash = SimpleNamespace(
                lazy_init_called=False, already_patched=False
            )
            stash.all_fp16_params = [p for g in optimizer.param_groups for p in g["params"]]
            optimizer._lazy_init_maybe_master_weights = lambda o=optimizer: self.masters(o)
        return model, optimizers

    def masters(self, optimizer: Any) -> None:
        stash = optimizer._amp_stash
        stash.all_fp32_from_fp16_params = [
            p.detach().clone().float().requires_grad_() for p in stash.all_fp16_params
        ]
        new = iter(stash.all_fp32_from_fp16_params)
        for group in optimizer.param_groups:
            group["params"] = [next(new) for _ in group["params"]]
        step = optimizer.step

        def stepping() -> None:
            if stash.already_patched:
                stash.already_patched = False
            else:
                step()
            with torch.no_grad():
                for half, full in self.pairs(optimizer):
                    half.copy_(full)

        optimizer.step = stepping

    def pairs(self, optimizer: Any) -> Any:
        stash = optimizer._amp_stash
        return zip(stash.all_fp16_params, stash.all_fp32_from_fp16_params, strict=True)

    @contextmanager
    def scale_loss(self, loss: Any, optimizers: Any) -> Iterator[Any]:
        for optimizer in optimizers:
            for half, _ in self.pairs(optimizer):
                half.grad = None
        yield loss.float() * self.scale
        for optimizer in optimizers:
            for half, full in self.pairs(optimizer):
                if half.grad is None:
                    continue
                fresh = half.grad.float() / self.scale
                full.grad = fresh if full.grad is None else full.grad + fresh
                if not bool(fresh.isfinite().all()):
                    optimizer._amp_stash.already_patched = True
            if optimizer._amp_stash.already_patched:
                self.scale /= 2
        self.good += 1

    def state_dict(self) -> dict[str, Any]:
        return {"loss_scaler0": {"loss_scale": self.scale, "unskipped": self.good}}

    def load_state_dict(self, state: Any) -> None:
        assert set(state) == {"loss_scaler0"}  # the real one refuses what it does not know
        self.scale, self.good = state["loss_scaler0"].values()


class Calls(Bare):
    """Calls itself in the step, as apex wants it."""

    def __init__(self, bad: int | None = None) -> None:
        super().__init__(lambda p: torch.optim.Adam(p, lr=1e-2))
        self.bad = bad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(self(batch[0]), batch[1])
        return loss * float("inf") if batch_idx == self.bad else loss


def with_amp(**arguments: Any) -> Any:
    return trainer(plugins=ApexPrecision("O2", amp=Amp()), max_epochs=2, **arguments)


def test_gradients_are_those_of_the_float32_weights() -> None:
    run = with_amp(gradient_clip_val=0.1, accumulate_grad_batches=2)
    seen: list[tuple[float, float]] = []

    @run.engine.on(TrainerEvents.OPTIMIZER_STEP_STARTED)
    def look(engine: Any) -> None:
        optimizer = run.optimizers[0]
        masters = [p.grad for g in optimizer.param_groups for p in g["params"]]
        halves = [p.grad for p in run.lightning_module.parameters()]
        assert {g.dtype for g in masters} == {torch.float32}
        assert {g.dtype for g in halves} == {torch.float16}
        seen.append((norm(masters), norm(halves)))

    model = Calls()
    run.fit(model, data())
    assert len(seen) == 6
    for masters, halves in seen:
        assert masters == pytest.approx(0.1, rel=1e-4)  # clipped, and unscaled
        assert halves >= masters  # shown as they were before clipping, unscaled too
        assert halves < 256 * masters
    assert (run.amp_backend, run.use_amp, run.skipped_steps) == ("apex", True, 0)


def norm(gradients: list[Any]) -> float:
    return float(torch.linalg.vector_norm(torch.cat([g.float().flatten() for g in gradients])))


def test_a_step_left_out_is_counted() -> None:
    run = with_amp()
    model = Calls(bad=3)
    run.fit(model, data())
    assert run.skipped_steps == 2 and run.global_step == 12
    assert run.precision_plugin._amp.scale == 64.0
    assert bool(weights(model).isfinite().all())


@pytest.mark.parametrize("stop", [3, 8])
def test_a_resumed_run_is_exact(stop: int, tmp_path: Path) -> None:
    whole, run = Calls(), with_amp()

    @run.engine.on(Events.ITERATION_COMPLETED(once=stop))
    def save(engine: Any) -> None:
        run.save_checkpoint(tmp_path / "x.ckpt")

    run.fit(whole, data())
    kept = torch.load(tmp_path / "x.ckpt", weights_only=True)["amp_scaling_state"]
    assert set(kept) == {"loss_scaler0", "master_weights"}
    again, run = Calls(), with_amp(resume_from_checkpoint=str(tmp_path / "x.ckpt"))
    run.fit(again, data())
    assert torch.equal(weights(again), weights(whole))


def test_a_second_fit_goes_on_and_a_second_trainer_is_refused() -> None:
    model, amp = Calls(), Amp()
    run = trainer(plugins=ApexPrecision("O2", amp=amp), max_epochs=1)
    run.fit(model, data())
    run.max_epochs = 2
    run.fit(model, data())
    assert run.global_step == 12
    with pytest.raises(MisconfigurationException, match="patches a model once") as caught:
        trainer(plugins=ApexPrecision("O2", amp=amp), max_epochs=1).fit(model, data())
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_it_is_told_from_others_by_what_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("apex.amp")
    monkeypatch.setitem(sys.modules, "apex", ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.amp", other)
    assert apex_amp() is None
    other.initialize = lambda: None  # type: ignore[attr-defined]
    assert apex_amp() is other
    with pytest.raises(MisconfigurationException, match="this run is on cpu"):
        ApexPrecision("O1", device="cpu")
    monkeypatch.setitem(sys.modules, "apex", None)
    monkeypatch.setitem(sys.modules, "apex.amp", None)
    with pytest.raises(MisconfigurationException, match=r"no apex\.amp\.initialize"):
        ApexPrecision()
    with pytest.raises(MisconfigurationException, match="amp_level='O5' is unknown"):
        ApexPrecision("O5")


@pytest.mark.gpu
@pytest.mark.skipif(apex_amp() is None, reason="needs NVIDIA's apex, built from its source")
@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_the_real_one(level: str) -> None:
    model = Calls()
    run = trainer(plugins="apex", precision=16, amp_level=level, gpus=1, max_epochs=2)
    run.fit(model, data(20))
    assert bool(weights(model).isfinite().all()) and run.amp_backend == "apex"

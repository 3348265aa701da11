"""The opt-levels, compared with a hand-written loop bit for bit and with recorded runs of apex.

``tests/data/apex.json`` was recorded from apex 25.05 with its CUDA checks lifted, on torch 2.13 and
a CPU: losses, loss scale and counter at every batch, formats of everything, final weights.
"""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.backends.precision import ScaledLevel, opt_level
from leyden.engine import Events, TrainerEvents
from leyden.exceptions import MisconfigurationException
from tests.backends.by_hand import train_by_hand
from tests.trainer.tiny import Bare, Tiny, data, trainer, weights

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "apex.json").read_text()
)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "overflow_at_5_6_20": {"over": (5, 6, 20)},
    "accumulate_4": {"accumulate": 4},
    "clip_0.5": {"clip": 0.5},
    "accumulate_4_overflow_at_9": {"accumulate": 4, "over": (9,)},
}
STEPS = 60
TRACE = "trace[loss,loss_scale,good_steps]"


class Net(torch.nn.Module):
    """The net of the recording: convolution, batch norm with and without weights, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.c = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(4)
        self.bn2 = torch.nn.BatchNorm1d(16, affine=False)
        self.l1 = torch.nn.Linear(64, 16)
        self.l2 = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.c(x))).flatten(1)
        x = self.l2(torch.relu(self.bn2(self.l1(x))))
        return x


class Recorded(leyden.LightningModule):
    """Trains the net as the recording did, and notes what it saw."""

    def __init__(self, optimizer: str, over: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Net()
        self.kind, self.over = optimizer, over
        self.losses: list[float] = []
        self.seen: dict[str, dict[str, str]] = {}

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())

    def make(self, parameters: Any) -> torch.optim.Optimizer:
        if self.kind == "sgd":
            return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)
        return torch.optim.Adam(parameters, lr=1e-2)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen = {
            "parameter_dtypes": formats(self.net.named_parameters()),
            "buffer_dtypes": formats(self.net.named_buffers()),
        }
        return torch.nn.functional.cross_entropy(self.net(batch[0]).float(), batch[1])

    def backward(
        self, loss: torch.Tensor, optimizer: Any, optimizer_idx: Any, *args: Any, **kwargs: Any
    ) -> None:
        (loss * float("inf") if len(self.losses) in self.over else loss).backward()
        self.losses.append(float("nan"))  # its place; the loss itself is noted after it


def formats(named: Any) -> dict[str, str]:
    return {name: str(tensor.dtype) for name, tensor in named}


def saved_formats(model: torch.nn.Module) -> dict[str, str]:
    return {key.removeprefix("net."): str(t.dtype) for key, t in model.state_dict().items()}


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 1, 4, 4, generator=generator)
    y = (x.sum((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 1).long()
    rows = [i * 32 % 256 + j for i in range(STEPS) for j in range(32)]
    return DataLoader(TensorDataset(x[rows], y[rows]), batch_size=32)


#: What losses of one level differ by from one CPU to another: plain torch, without any of this,
#: gives no two kinds of CPU the same bits. (The recording one's kernels are not everybody's.)
ACROSS_MACHINES = {"O0": 2e-4, "O1": 0.05, "O2": 0.05, "O3": 0.08}


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_run_is_that_of_apex(name: str) -> None:
    level, kind, case = name.split("-", 2)
    arguments = CASES[case]
    overflows = arguments.get("over", ())
    model = Recorded(kind, overflows)
    run = trainer(
        precision=16,
        amp_backend="apex",
        amp_level=level,
        max_epochs=1,
        accumulate_grad_batches=arguments.get("accumulate", 1),
        gradient_clip_val=arguments.get("clip", 0),
    )
    scale = run.precision_plugin.loss_scale  # type: ignore[attr-defined]
    trace: list[Any] = []
    stepped: list[str] = []
    state_dicts: list[dict[str, str]] = []

    @run.engine.on(Events.ITERATION_COMPLETED)
    def note(engine: Any) -> None:
        trace.append([engine.state.loss.item(), scale.scale, scale.good])
        state_dicts[:] = [saved_formats(model)]

    @run.engine.on(TrainerEvents.OPTIMIZER_STEP_STARTED)
    def look(engine: Any) -> None:
        groups = engine.state.optimizer.param_groups
        stepped[:] = [str(p.dtype) for group in groups for p in group["params"]]

    run.fit(model, batches())

    # Bit for bit what a plain loop of apex's arithmetic does on this machine.
    twin = Recorded(kind)
    expected, masters = train_by_hand(twin.net, twin.make, level, batches(), **arguments)
    assert trace == expected
    assert all(map(torch.equal, model.parameters(), (m.float() for m in masters)))

    # And what apex itself was recorded to do: formats, scale and skips exactly.
    recorded = RECORDED[name]
    assert [row[1:] for row in trace] == [row[1:] for row in recorded[TRACE]]
    assert model.seen["parameter_dtypes"] == recorded["parameter_dtypes"]
    assert model.seen["buffer_dtypes"] == recorded["buffer_dtypes"]
    assert stepped == recorded["optimizer_parameter_dtypes"]
    assert state_dicts == [recorded["state_dict_dtypes"]]
    losses = [row[0] for row in recorded[TRACE]]
    assert [row[0] for row in trace] == pytest.approx(losses, abs=ACROSS_MACHINES[level])
    assert run.skipped_steps == (len(overflows) if level in ("O1", "O2") else 0)


def test_every_recorded_run_is_compared() -> None:
    assert len(RECORDED) == 29


# --- what is better than in apex


def levelled(level: str, **arguments: Any) -> leyden.Trainer:
    return trainer(precision=16, amp_backend="apex", amp_level=level, **arguments)


def test_clipping_sees_the_gradients_that_step() -> None:
    """1.1.8 clips scaled float16 gradients under O2, and batch norm's by a foreign norm."""
    model = Recorded("sgd")
    norms: list[float] = []
    run = levelled("O2", max_steps=3, gradient_clip_val=1e-3, max_epochs=1)

    @run.engine.on(TrainerEvents.OPTIMIZER_STEP_STARTED)
    def note(engine: Any) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert {g.dtype for g in gradients} == {torch.float32}
        norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))))

    run.fit(model, batches())
    assert norms == pytest.approx([1e-3] * 3, rel=1e-4)  # clip_grad_norm_ adds 1e-6 to the norm


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
@pytest.mark.parametrize("stop", [3, 5])
def test_a_resumed_run_is_exact(level: str, stop: int, tmp_path: Path) -> None:
    """Apex makes its float32 weights anew from the rounded ones, and is off by 0.002 from there."""

    def fresh(**arguments: Any) -> Any:
        make = lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-4)  # noqa: E731
        return Tiny(make), levelled(level, max_epochs=2, accumulate_grad_batches=2, **arguments)

    whole, run = fresh()
    run.fit(whole, data(), data())
    model, run = fresh()
    path = tmp_path / "middle.ckpt"

    @run.engine.on(Events.ITERATION_COMPLETED(once=stop))
    def save(engine: Any) -> None:
        run.save_checkpoint(path)

    run.fit(model, data(), data())
    assert torch.equal(weights(model), weights(whole))
    saved = torch.load(path, weights_only=True)
    assert "amp_scaling_state" in saved
    assert {v.dtype for v in saved["state_dict"].values()} == {torch.float32}
    model, run = fresh(resume_from_checkpoint=str(path))
    run.fit(model, data(), data())
    assert torch.equal(weights(model), weights(whole))


def test_an_overflow_before_the_checkpoint_is_not_forgotten(tmp_path: Path) -> None:
    """The scale is judged at the overflow, the step is left out two batches later."""
    path = tmp_path / "middle.ckpt"
    results = []
    for resume in (None, str(path)):
        model = Recorded("sgd", (0,) if resume is None else ())
        run = levelled("O2", max_steps=3, accumulate_grad_batches=4, resume_from_checkpoint=resume)
        if resume is None:

            @run.engine.on(Events.ITERATION_COMPLETED(once=2))
            def save(engine: Any, run: Any = run) -> None:
                run.save_checkpoint(path)

        run.fit(model, batches())
        assert run.skipped_steps == 1
        results.append(weights(model))
    assert torch.equal(*results)


def test_tied_weights_are_one_weight() -> None:
    class Tied(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Linear(5, 1))
            self.again = torch.nn.Linear(5, 5)
            self.again.weight = self.net[0].weight

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            out = self.net(self.again(batch[0]))
            assert self.again.weight.dtype is torch.float16
            return torch.nn.functional.mse_loss(out, batch[1])

    model = Tied()
    run = levelled("O2", max_epochs=2)
    run.fit(model, data())
    assert run.precision_plugin.loss_scale.good > 0  # type: ignore[attr-defined]
    assert model.again.weight is model.net[0].weight
    assert model.again.weight.dtype is torch.float32


def test_copies_and_pickles_are_of_float32(tmp_path: Path) -> None:
    copies: list[Any] = []
    model = Bare()
    run = levelled("O2", max_epochs=1)

    @run.engine.on(Events.ITERATION_COMPLETED(once=3))
    def copied(engine: Any) -> None:
        copies[:] = [copy.deepcopy(model.net), pickle.loads(pickle.dumps(model.net))]
        for one in copies:
            assert torch.equal(weights(one), weights(model.net))

    run.fit(model, data())
    assert len(copies) == 2 and weights(copies[0]).dtype is torch.float32
    assert torch.equal(weights(pickle.loads(pickle.dumps(model.net))), weights(model.net))


def test_weights_written_by_hand_within_a_step_count() -> None:
    class Clamped(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            with torch.no_grad():
                self.net[0].weight.fill_(0.125)
            return super().training_step(batch, batch_idx)

    model = Clamped(lambda p: torch.optim.SGD(p, lr=0.0))
    levelled("O2", max_epochs=1).fit(model, data())
    assert bool((model.net[0].weight == 0.125).all())


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_lbfgs_is_refused(level: str) -> None:
    model = Bare(lambda p: torch.optim.LBFGS(p))
    with pytest.raises(MisconfigurationException, match="evaluates the loss within its step"):
        levelled(level, max_epochs=1).fit(model, data())


def test_pure_half_warns_of_adam() -> None:
    with pytest.warns(UserWarning, match="eps is 0 in float16"):
        levelled("O3", max_steps=1).fit(Bare(lambda p: torch.optim.Adam(p)), data())


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_after_a_run_nothing_is_left_on_the_model(level: str) -> None:
    model = Tiny(lambda p: torch.optim.SGD(p, lr=0.01))
    levelled(level, max_epochs=1).fit(model, data(), data())
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks)
        assert not module._state_dict_hooks
    assert weights(model).dtype is torch.float32
    assert model.net(torch.zeros(1, 5)).dtype is torch.float32


def test_a_level_there_is_not_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="amp_level='O9' is unknown"):
        levelled("O9")
    with pytest.raises(ValueError, match="O9"):
        opt_level("O9")


def test_the_scale_grows_and_has_an_end() -> None:
    precision = ScaledLevel("O1")
    scale = precision.loss_scale
    for _ in range(2000 * 10):
        scale.judge(overflow=False)
    assert (scale.scale, scale.good) == (2.0**24, 0)
    scale.judge(overflow=True)
    assert (scale.scale, scale.good) == (2.0**23, 0)

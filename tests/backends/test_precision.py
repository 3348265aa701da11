"""Every precision: what handlers see, what a checkpoint holds, how several optimizers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.backends.precision import MixedPrecision, Precision, Scaler, precision_for
from leyden.backends.precision.casting import cast
from leyden.backends.precision.choice import BITS, WORDS
from leyden.engine import Events, TrainerEvents
from leyden.exceptions import MisconfigurationException
from leyden.handlers.gradient_norm import GradientNorm
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, trainer, weights

#: Each precision as arguments of a Trainer.
EVERY: dict[str, dict[str, Any]] = {
    # float8 has tests of its own: test_float8.py.
    **{str(value): {"precision": value} for value in (*BITS, *WORDS) if value != "fp8"},
    **{
        level: {"precision": 16, "amp_backend": "apex", "amp_level": level}
        for level in ("O0", "O1", "O2", "O3")
    },
}
PLAIN = ("32", "32-true")


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.5)


def total(model: torch.nn.Module) -> float:
    gradients = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.cat(gradients)))


@pytest.mark.parametrize("name", EVERY)
def test_who_looks_at_gradients_sees_true_ones(name: str) -> None:
    """Norm, clipping, hooks and NaN checks: as with 32 bits, up to what fewer bits round away."""

    def norms(arguments: dict[str, Any]) -> tuple[list[float], ...]:
        model = Bare(sgd)
        model.net[1] = torch.nn.Identity()
        run = trainer(
            **arguments,
            max_epochs=1,
            accumulate_grad_batches=2,
            gradient_clip_val=0.1,
            terminate_on_nan=True,
        )
        tracked: list[float] = []
        checked: list[float] = []
        hooked: list[float] = []
        stepped: list[float] = []
        run.handlers.add(
            GradientNorm(2, lambda found: tracked.append(float(found["grad_2_norm_total"])))
        )
        # Where NanTermination looks.
        run.engine.add_event_handler(
            TrainerEvents.GRADIENTS_READY,
            lambda engine: checked.append(float(engine.state.loss.detach())),
        )
        model.on_after_backward = lambda: hooked.append(total(model))  # type: ignore[method-assign]
        run.engine.add_event_handler(
            TrainerEvents.OPTIMIZER_STEP_STARTED, lambda engine: stepped.append(total(model))
        )
        # A small scale, so that no step is left out in the few there are.
        if run.scaler is not None:
            run.precision_plugin.scaler = Scaler("cpu", init_scale=256.0)
            run.precision_plugin._initial = run.scaler.state_dict()  # type: ignore[attr-defined]
        scale = getattr(run.precision_plugin, "loss_scale", None)
        if scale is not None and scale.dynamic:
            scale.scale = 256.0
            run.precision_plugin._initial = scale.state_dict()  # type: ignore[attr-defined]
        run.fit(model, data())
        assert run.skipped_steps == 0
        return tracked, hooked, stepped, checked

    tracked, hooked, stepped, checked = norms(EVERY[name])
    expected = norms({})
    # bfloat16 has 8 bits: a per cent; two bits of weight make another network.
    close = {"2": 1.0, "4": 0.3}.get(name, 0.03)
    assert len(tracked) == BATCHES // 2
    assert tracked == pytest.approx(expected[0], rel=close)
    assert stepped == pytest.approx([0.1] * (BATCHES // 2), rel=0.02)
    assert hooked == pytest.approx(stepped, rel=1e-6)
    assert checked == pytest.approx(expected[3], rel=close)


@pytest.mark.parametrize("name", EVERY)
def test_a_loss_that_is_nan_ends_the_run_and_overflow_by_scaling_does_not(name: str) -> None:
    class Odd(Bare):
        factor = float("nan")

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * self.factor if batch_idx == 3 else loss

    def fit() -> Any:
        run = trainer(**EVERY[name], max_epochs=1, terminate_on_nan=True)
        run.fit(model, data())
        return run

    model = Odd(sgd)
    with pytest.raises(ValueError, match="the loss is nan at epoch 0, batch 3"):
        fit()
    # Times the scale, 65536, this is more than float16 holds.
    model = Odd(sgd)
    model.factor = 30.0
    assert fit().global_step == BATCHES


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("stop", [3, 6, 8])
@pytest.mark.slow
def test_a_resumed_run_is_exact(name: str, stop: int, tmp_path: Path) -> None:
    def fresh(**more: Any) -> Any:
        arguments = {**EVERY[name], "max_epochs": 2, "accumulate_grad_batches": 2, **more}
        make = lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-4)  # noqa: E731
        return Tiny(make), trainer(**arguments)

    whole, run = fresh()
    path = tmp_path / "middle.ckpt"

    @run.engine.on(Events.ITERATION_COMPLETED(once=stop))
    def save(engine: Any) -> None:
        run.save_checkpoint(path)

    run.fit(whole, data(), data())
    model, again = fresh(resume_from_checkpoint=str(path))
    again.fit(model, data(), data())
    assert torch.equal(weights(model), weights(whole))
    assert again.skipped_steps == run.skipped_steps
    assert again.callback_metrics == run.callback_metrics


@pytest.mark.parametrize("name", PLAIN)
def test_with_32_bits_nothing_is_attached(name: str) -> None:
    run = trainer(**EVERY[name], max_epochs=1)
    run.fit(Bare(), data())
    assert "PrecisionHandler" not in run.handlers
    assert run._run.step.run == run._run.step._straight
    assert run._run.step.backward is None and run._run.step.stepper is None
    assert not run.use_amp and run.amp_backend is None and run.scaler is None


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"32", "32-true"}))
def test_every_loop_computes_with_it(name: str) -> None:
    """Training, validation, test and prediction run; the formats are those that were asked for."""
    seen: dict[str, torch.dtype] = {}

    class Looks(Tiny):
        def note(self, where: str, batch: Any) -> torch.Tensor:
            out = torch.nn.functional.linear(batch[0], batch[0])
            seen[where] = out.dtype
            return self.net(batch[0])

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return torch.nn.functional.mse_loss(self.note("train", batch), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.note("validate", batch)

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.note("test", batch)

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return self.note("predict", batch)

    model = Looks(sgd)
    run = trainer(**EVERY[name], max_epochs=1)
    run.fit(model, data(), data())
    run.test(model, data(), verbose=False)
    run.predict(model, data())
    half = {"16": torch.bfloat16, "16-mixed": torch.float16, "16-true": torch.float16}
    double = {"64": torch.float64, "64-true": torch.float64, "O1": torch.float16}
    expected = {**half, **double}.get(
        name, torch.bfloat16 if name.startswith("bf16") else torch.float32
    )
    assert seen == dict.fromkeys(("train", "validate", "test", "predict"), expected)
    assert torch.get_default_dtype() is torch.float32


class Two(leyden.LightningModule):
    """Two networks with an optimizer each; the first sees gradients a thousand times larger."""

    def __init__(self, *, by_hand: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = torch.nn.Linear(5, 1), torch.nn.Linear(5, 1)
        self.automatic_optimization = not by_hand

    def loss(self, index: int, batch: Any) -> torch.Tensor:
        out = (self.one, self.two)[index](batch[0])
        return torch.nn.functional.mse_loss(out, batch[1]) * (1000.0, 1.0)[index]

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.SGD(self.one.parameters(), lr=1e-5),
            torch.optim.SGD(self.two.parameters(), lr=1e-2),
        ]


class Alternating(Two):
    """The loop steps."""

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> torch.Tensor:
        return self.loss(optimizer_idx, batch)


class ByHand(Two):
    """The step steps; both losses are differentiated before either does."""

    def __init__(self) -> None:
        super().__init__(by_hand=True)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers = self.optimizers()
        for index in range(2):
            self.manual_backward(self.loss(index, batch))
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("kind", [Alternating, ByHand])
@pytest.mark.parametrize("name", ["16-mixed", "O1", "O2"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_several_optimizers_keep_their_scales_apart(
    kind: type[Any], name: str, accumulate: int
) -> None:
    """The first one overflows and brings the scale down; the second one's gradients stay true."""
    model = kind()
    run = trainer(**EVERY[name], max_epochs=4, accumulate_grad_batches=accumulate)
    seen: list[float] = []

    @run.engine.on(TrainerEvents.ZERO_GRAD_STARTED)
    def note(engine: Any) -> None:
        if model.two.weight.grad is not None:
            seen.append(float(model.two.weight.grad.abs().max()))

    run.fit(model, data(6))
    assert run.skipped_steps > 0
    assert seen and max(s for s in seen) < 100.0 * 65536.0
    assert bool(torch.isfinite(weights(model)).all())
    # The same in 32 bits; steps that were left out are the difference, and small.
    plain = kind()
    trainer(max_epochs=4, accumulate_grad_batches=accumulate).fit(plain, data(6))
    # Every step of the second one was made unless it overflowed: it moved as far.
    moved = (model.two.weight - kind().two.weight).detach().norm()
    expected = (plain.two.weight - kind().two.weight).detach().norm()
    assert float(moved) == pytest.approx(float(expected), rel=0.5)


def test_a_step_that_overflows_is_left_out_and_counted() -> None:
    class Once(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if batch_idx == 2 else loss

    model = Once(sgd)
    precision = MixedPrecision(torch.float16, scaler=Scaler("cpu", init_scale=8.0))
    run = trainer(plugins=precision, max_epochs=1)
    before: list[torch.Tensor] = []
    run.engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: before.append(weights(model))
    )
    run.fit(model, data())
    assert torch.equal(before[2], before[1]) and not torch.equal(before[3], before[2])
    assert run.skipped_steps == 1 and run.scaler.get_scale() == 4.0
    assert run.global_step == BATCHES  # tried, so counted, as in Lightning 1.1


def test_the_scaler_is_saved_under_lightnings_key(tmp_path: Path) -> None:
    run = trainer(precision="16-mixed", max_epochs=1)
    run.fit(Bare(sgd), data())
    run.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert saved["native_amp_scaling_state"] == run.scaler.state_dict()
    assert set(saved["native_amp_scaling_state"]) == {
        "scale",
        "growth_factor",
        "backoff_factor",
        "growth_interval",
        "_growth_tracker",
    }


def test_another_model_begins_with_a_scale_of_its_own() -> None:
    run = trainer(precision="16-mixed", max_epochs=1)
    begins: list[Any] = []
    run.engine.add_event_handler(
        Events.STARTED, lambda engine: begins.append((run.scaler.get_scale(), run.skipped_steps))
    )
    for _ in range(2):
        run.fit(Alternating(), data())
        assert run.scaler.get_scale() < 65536.0 and run.skipped_steps
    assert begins == [(65536.0, 0)] * 2


def test_lbfgs_goes_with_bf16_and_not_with_a_scale() -> None:
    lbfgs = lambda p: torch.optim.LBFGS(p, max_iter=2)  # noqa: E731
    trainer(precision="bf16", max_steps=2).fit(Bare(lbfgs), data())
    with pytest.raises(MisconfigurationException, match="bf16-mixed"):
        trainer(precision="16-mixed", max_steps=2).fit(Bare(lbfgs), data())


def test_an_optimizer_step_of_ones_own_is_told() -> None:
    told: list[bool] = []

    class Own(Bare):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            told.append(kwargs["using_native_amp"])
            args[2].step(closure=args[4])

    for precision in ("16-mixed", 32):
        trainer(precision=precision, max_steps=1).fit(Own(sgd), data())
    assert told == [True, False]


def test_a_closure_that_is_not_stepped_keeps_its_gradient() -> None:
    """Unscaled for the step that was not made, the gradient is scaled again for the next one."""

    class Every(Bare):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            if args[1] % 2:
                args[2].step(closure=args[4])
            else:
                args[4]()

    models = []
    for precision in (None, MixedPrecision(torch.float16, scaler=Scaler("cpu", init_scale=2.0**8))):
        model = Every(sgd)
        trainer(plugins=precision, max_epochs=1).fit(model, data())
        models.append(weights(model))
    assert torch.allclose(*models, rtol=0, atol=2e-3)  # float16 has 11 bits


def test_a_ready_part_and_the_argument_exclude_each_other() -> None:
    with pytest.raises(MisconfigurationException, match="pass only one"):
        trainer(plugins=MixedPrecision(), precision=16)
    with pytest.raises(MisconfigurationException, match="two parts of one kind"):
        trainer(plugins=[MixedPrecision(), Precision()])
    with pytest.raises(MisconfigurationException, match="plugins"):
        trainer(plugins="apex")


def test_what_is_asked_for_is_checked() -> None:
    with pytest.raises(ValueError, match="precision=7"):
        precision_for(7)
    with pytest.raises(ValueError, match="no 16-bit format"):
        MixedPrecision(torch.float64)


def test_casting_looks_everywhere_and_keeps_the_rest() -> None:
    from collections import OrderedDict, defaultdict, namedtuple

    pair = namedtuple("pair", "x n")
    batch = {
        "a": [torch.ones(1), "text"],
        "b": pair(torch.ones(1), torch.arange(1)),
        "c": OrderedDict(x=torch.ones(1)),
        "d": defaultdict(list, x=torch.ones(1)),
    }
    found = cast(batch, torch.float16)
    assert found["a"][0].dtype is torch.float16 and found["a"][1] == "text"
    assert found["b"].x.dtype is torch.float16 and found["b"].n.dtype is torch.int64
    assert type(found["c"]) is OrderedDict and found["c"]["x"].dtype is torch.float16
    assert found["d"].default_factory is list and found["d"]["x"].dtype is torch.float16
    assert batch["a"][0].dtype is torch.float32

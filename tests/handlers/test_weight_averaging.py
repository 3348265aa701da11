"""Averaged weights: validated and saved with, and the run's own untouched."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.engine.errors import MisconfigurationException
from leyden.handlers import checkpoint_io, checkpoint_state
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.model_checkpoint import ModelCheckpoint
from leyden.handlers.weight_averaging import (
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
    annealed,
)
from tests.handlers.callback_runs import BATCHES, Run, batches

State = dict[str, torch.Tensor]


class Watch(CallbackBase):
    """Keeps the weights after each step, and those that validations see."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[State] = []
        self.validated: list[State] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.steps.append(weights(pl_module))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.validated.append(weights(pl_module))


def weights(module: torch.nn.Module) -> State:
    return copy.deepcopy(module.state_dict())


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def ema_of(steps: list[State], decay: float) -> State:
    average = copy.deepcopy(steps[0])
    for step in steps[1:]:
        for name, value in average.items():
            value.lerp_(step[name], 1 - decay)
    return average


def test_the_runs_own_weights_are_bitwise_those_without(tmp_path: Path) -> None:
    plain, watched = Watch(), Watch()
    Run(tmp_path, [plain], scores=[1.0], validate_at=(2, 4)).fit(3)
    average = EMAWeightAveraging(decay=0.5)
    run = Run(tmp_path, [watched, average], scores=[1.0], validate_at=(2, 4)).fit(3)
    assert len(plain.steps) == 3 * BATCHES
    assert all(same(a, b) for a, b in zip(plain.steps, watched.steps, strict=True))
    # Validation sees the average of the steps so far, the module ends with the last.
    assert all(
        same(seen, ema_of(plain.steps[: 2 * i + 2], 0.5))
        for i, seen in enumerate(watched.validated)
    )
    assert same(weights(run.model), ema_of(plain.steps, 0.5))


def test_checkpoints_hold_the_average_and_resume_exactly(tmp_path: Path) -> None:
    def make(epochs: int, found: Any = None) -> tuple[Watch, Run]:
        watch, checkpoint = Watch(), ModelCheckpoint(dirpath=tmp_path, save_top_k=-1)
        run = Run(tmp_path, [watch, EMAWeightAveraging(decay=0.5), checkpoint], scores=[1.0])
        if found is not None:
            for callback in run.callbacks:
                if callback.defines("on_fit_start"):
                    callback.on_fit_start(run, run.model)  # type: ignore[attr-defined]
            checkpoint_state.restore(run, found)
        return watch, run.fit(epochs)

    whole, run = make(4)
    found = torch.load(tmp_path / "epoch=1-step=7.ckpt", weights_only=True)
    assert same(found["state_dict"], ema_of(whole.steps[:8], 0.5))
    again, second = make(2, found)
    assert all(same(a, b) for a, b in zip(again.steps, whole.steps[8:], strict=True))
    assert same(weights(second.model), weights(run.model))


def test_a_file_written_after_the_end_and_a_second_fit(tmp_path: Path) -> None:
    plain, watch = Watch(), Watch()
    average = EMAWeightAveraging(decay=0.5)
    Run(tmp_path, [plain]).fit(4)
    run = Run(tmp_path, [watch, average]).fit(2)
    ended = weights(run.model)
    run.save_checkpoint(str(tmp_path / "x.ckpt"))
    run.save_checkpoint(str(tmp_path / "w.ckpt"), True)
    for name in ("x", "w"):
        assert same(checkpoint_io.load(tmp_path / f"{name}.ckpt")["state_dict"], ended)
    run.fit(4)
    assert all(same(a, b) for a, b in zip(plain.steps, watch.steps, strict=True))


def test_weights_loaded_between_two_fits_count(tmp_path: Path) -> None:
    average = EMAWeightAveraging(decay=0.5)
    run = Run(tmp_path, [average]).fit(1)
    with torch.no_grad():
        run.model.weight.fill_(9.0)  # type: ignore[operator, union-attr]
    average.on_train_start(run, run.model)
    assert torch.equal(run.model.weight, torch.full((1, 2), 9.0))  # type: ignore[arg-type]
    assert not average.average


def test_a_failing_validation_leaves_the_runs_own_weights(tmp_path: Path) -> None:
    class Fails(CallbackBase):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            raise ZeroDivisionError

    plain = Watch()
    Run(tmp_path, [plain]).fit(1)
    average = EMAWeightAveraging(decay=0.5)
    run = Run(tmp_path, [average, Fails()], scores=[1.0])
    run.callbacks[0].on_train_end = lambda *a: None  # type: ignore[attr-defined]
    average.detach()
    average.attach(run.engine)
    average.attach(run.evaluator)
    with pytest.raises(ZeroDivisionError):
        run.fit(1)
    assert same(weights(run.model), plain.steps[-1])


@pytest.mark.parametrize(
    ("arguments", "updates"),
    [
        ({}, 8),
        ({"update_every_n_steps": 3}, 2),
        ({"update_starting_at_step": 5}, 3),
        ({"update_starting_at_epoch": 1}, 4),
    ],
)
def test_when_it_is_updated(tmp_path: Path, arguments: dict[str, int], updates: int) -> None:
    average = EMAWeightAveraging(**arguments)  # type: ignore[arg-type]
    Run(tmp_path, [average]).fit(2)
    assert average.updates == updates


def test_accumulated_batches_are_one_update(tmp_path: Path) -> None:
    average = EMAWeightAveraging()
    Run(tmp_path, [average], accumulate=2).fit(2)
    assert average.updates == 4


def test_tied_weights_and_buffers(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
            self.b.weight = self.a.weight
            self.norm = torch.nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.norm(self.b(self.a(x)))

    for use in (True, False):
        average = EMAWeightAveraging(decay=0.5, use_buffers=use)
        run = Run(tmp_path, [average], model=Model()).fit(1)
        run.save_checkpoint(str(tmp_path / "x.ckpt"))
        found = checkpoint_io.load(tmp_path / "x.ckpt")
        state = found["state_dict"]
        assert torch.equal(state["a.weight"], state["b.weight"])
        assert ("norm.running_mean" in average.average) is use
        assert int(state["norm.num_batches_tracked"]) == BATCHES
        own = found["callbacks"]["EMAWeightAveraging"]["own"]
        assert not torch.equal(own["a.weight"], state["a.weight"])


def test_equal_shares() -> None:
    model, average = torch.nn.Linear(2, 1, bias=False), WeightAveraging()
    for value in (1.0, 2.0, 6.0):
        torch.nn.init.constant_(model.weight, value)
        average.update(model)
    assert torch.allclose(average.average["weight"], torch.full((1, 2), 3.0))


# ------------------------------------------------------------------ stochastic weight averaging


def test_swa_averages_the_ends_of_the_last_epochs_at_its_own_rate(tmp_path: Path) -> None:
    watch, rates = Watch(), []
    swa = StochasticWeightAveraging(
        0.5, swa_epoch_start=3, annealing_epochs=2, annealing_strategy="linear"
    )
    run = Run(tmp_path, [swa, watch])
    run.on_batch = lambda run: rates.append(run.optimizers[0].param_groups[0]["lr"])
    run.fit(5)
    expected = [0.1] * 8 + [0.1] * 4 + [0.3] * 4 + [0.5] * 4
    assert rates == pytest.approx(expected)
    ends = [watch.steps[i] for i in (11, 15, 19)]
    for name, value in run.model.state_dict().items():
        # The running mean is made in another order than this sum.
        assert torch.allclose(value, torch.stack([end[name] for end in ends]).mean(0), atol=1e-6)
    assert swa.updates == 3


def test_swa_start_as_a_share_and_custom_average(tmp_path: Path) -> None:
    swa = StochasticWeightAveraging([0.1], swa_epoch_start=0.5, avg_fn=lambda old, new, n: new)
    watch = Watch()
    run = Run(tmp_path, [swa, watch]).fit(4)
    assert swa.updates == 2 and same(weights(run.model), watch.steps[-1])


def test_swa_measures_batch_normalisation_again(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    swa = StochasticWeightAveraging(0.1, swa_epoch_start=1)
    run = Run(tmp_path, [swa], model=model, train_dataloader=batches())
    random = torch.get_rng_state()
    run.fit(2)
    inputs = torch.stack([model[0](batch).mean(0) for batch in batches()]).mean(0)
    assert torch.allclose(model[1].running_mean, inputs, atol=1e-6)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), random)


def test_swa_resumes(tmp_path: Path) -> None:
    first = StochasticWeightAveraging(0.5, swa_epoch_start=1)
    run = Run(tmp_path, [first]).fit(1)
    again = StochasticWeightAveraging(0.5, swa_epoch_start=1)
    checkpoint_state.restore(Run(tmp_path, [again]), checkpoint_state.dump(run))
    assert again.first_rates == [0.1] and again.updates == 1


def test_swa_needs_one_optimizer_and_fitting_rates(tmp_path: Path) -> None:
    run = Run(tmp_path, [StochasticWeightAveraging(0.1)])
    run.optimizers = run.optimizers * 2
    with pytest.raises(MisconfigurationException, match="this run has 2"):
        run.fit(1)
    with pytest.raises(MisconfigurationException, match="2 rates, the optimizer has 1"):
        Run(tmp_path, [StochasticWeightAveraging([0.1, 0.2])]).fit(1)


def test_annealing() -> None:
    assert [round(annealed(t, 4, "cos"), 4) for t in range(6)] == [0, 0.1464, 0.5, 0.8536, 1, 1]
    assert annealed(0, 0, "cos") == annealed(0, 0, "linear") == 1.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: EMAWeightAveraging(decay=1.5), "decay=1.5"),
        (lambda: EMAWeightAveraging(update_every_n_steps=0), "update_every_n_steps=0"),
        (lambda: StochasticWeightAveraging(0.0), "swa_lrs=0.0"),
        (lambda: StochasticWeightAveraging([]), r"swa_lrs=\[\]"),
        (lambda: StochasticWeightAveraging(0.1, 0), "swa_epoch_start=0"),
        (lambda: StochasticWeightAveraging(0.1, 1.5), "swa_epoch_start=1.5"),
        (lambda: StochasticWeightAveraging(0.1, "a"), "swa_epoch_start='a'"),
        (lambda: StochasticWeightAveraging(0.1, annealing_epochs=-1), "annealing_epochs=-1"),
        (lambda: StochasticWeightAveraging(0.1, annealing_strategy="x"), "annealing_strategy='x'"),
    ],
)
def test_bad_arguments_are_refused(make: Any, text: str) -> None:
    with pytest.raises(MisconfigurationException, match=text):
        make()

"""Compiled steps: the same numbers, what is logged, keys of checkpoints, what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.backends import compile as compiled
from leyden.backends.compile import Compilation, compile_options, unwrapped
from leyden.backends.device_report import compiler
from leyden.exceptions import MisconfigurationException
from tests.backends.test_precision import EVERY
from tests.ranks import ranks
from tests.trainer import ranks_runs
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, trainer, weights

# What torch's own compiler warns of.
pytestmark = [
    pytest.mark.slow,  # torch._dynamo alone takes seconds to import
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


class Counted:
    """A backend that counts the graphs it is given, and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def run_of(model: Any, **arguments: Any) -> leyden.Trainer:
    run = trainer(max_epochs=2, **arguments)
    run.fit(model, data(), data(2))
    return run


def test_the_numbers_are_those_of_the_plain_run() -> None:
    plain = Tiny()
    expected = run_of(plain)
    backend = Counted()
    model = Tiny()
    found = run_of(model, compile={"backend": backend})
    assert torch.equal(weights(model), weights(plain))
    assert found.callback_metrics == expected.callback_metrics
    assert found.logged_metrics == expected.logged_metrics
    assert backend.graphs == 2  # of training and of validation, whole but for what is logged
    # The module is as it was: nothing is left on it.
    assert not {"log", "forward", "training_step"} & set(model.__dict__)


def test_a_compiled_module_is_trained_as_itself(tmp_path: Path) -> None:
    plain = Tiny()
    run_of(plain)
    backend = Counted()
    model = Tiny()
    wrapped = torch.compile(model, backend=backend)
    run = run_of(wrapped)
    assert torch.equal(weights(model), weights(plain)) and backend.graphs == 2
    assert run.lightning_module is model
    run.save_checkpoint(tmp_path / "x.ckpt")
    keys = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert list(keys) == list(model.state_dict()) and not any("_orig_mod" in key for key in keys)
    again = Tiny.load_from_checkpoint(tmp_path / "x.ckpt")
    assert torch.equal(weights(again), weights(model))
    # Given on its own afterwards, the module is not compiled.
    graphs = backend.graphs
    run.validate(model, data(2), verbose=False)
    assert backend.graphs == graphs


def test_test_and_predict_take_a_compiled_module() -> None:
    class Tested(Tiny):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_score", self.net(batch[0]).mean())

        def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.net(batch[0])

    model, backend = Tested(), Counted()
    wrapped = torch.compile(model, backend=backend)
    run = trainer()
    expected = run.test(model, data(2), verbose=False)
    assert run.test(wrapped, data(2), verbose=False) == expected and backend.graphs == 1
    assert run.predict(wrapped, data(2))[0].shape == (4, 1) and backend.graphs == 2


def test_a_search_takes_a_compiled_module() -> None:
    class Rated(Bare):
        lr = 0.1

        def train_dataloader(self) -> Any:
            return data()

    model = Rated()
    wrapped = torch.compile(model, backend="eager")
    found = trainer().tuner.lr_find(wrapped, num_training=5)
    assert found is not None and len(found.results["loss"]) == 5
    trainer(auto_lr_find=True).tune(wrapped, data())
    assert model.lr != 0.1


def test_a_resumed_run_is_exact(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"compile": {"backend": "eager"}}
    whole = Tiny()
    run = trainer(max_epochs=2, **arguments)

    @run.engine.on(leyden.engine.Events.ITERATION_COMPLETED(once=BATCHES + 2))  # type: ignore[attr-defined]
    def save(engine: Any) -> None:
        run.save_checkpoint(tmp_path / "middle.ckpt")

    run.fit(whole, data(), data())
    again = Tiny()
    trainer(max_epochs=2, resume_from_checkpoint=str(tmp_path / "middle.ckpt"), **arguments).fit(
        again, data(), data()
    )
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize("name", sorted({"bf16", "16-mixed", "64", "O1", "O2", "8", "2"}))
def test_with_every_kind_of_precision(name: str) -> None:
    found = []
    for more in ({}, {"compile": {"backend": "eager"}}):
        model = Bare()
        run = trainer(max_epochs=2, gradient_clip_val=0.1, **EVERY[name], **more)
        run.fit(model, data())
        found.append(weights(model))
    assert torch.equal(*found)


def on_a_rank(compile: Any) -> torch.Tensor:
    """Train on the ranks that are there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ranks_runs.Net()
        run = ranks_runs.trainer(max_epochs=2, accumulate_grad_batches=2, compile=compile)
        run.fit(model, ranks_runs.loader(32, 8), ranks_runs.loader(16, 8))
    return ranks_runs.weights(model)


def test_in_several_processes() -> None:
    plain = ranks(2).run(on_a_rank, False)
    found = ranks(2).run(on_a_rank, {"backend": "eager"})
    assert torch.equal(plain[0], plain[1])
    assert torch.equal(found[0], plain[0]) and torch.equal(found[1], plain[0])


class ByHand(Bare):
    """Optimizes by hand, with a forward of its own."""

    automatic_optimization = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        loss = torch.nn.functional.mse_loss(self(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss)


def test_by_hand_the_forward_is_compiled() -> None:
    plain, backend = ByHand(), Counted()
    trainer(max_epochs=2).fit(plain, data())
    model = ByHand()
    trainer(max_epochs=2, compile={"backend": backend}).fit(model, data())
    assert torch.equal(weights(model), weights(plain)) and backend.graphs == 1
    assert "forward" not in model.__dict__

    class Without(Bare):
        automatic_optimization = False

    with pytest.raises(MisconfigurationException, match="has none: define forward"):
        trainer(max_epochs=1, compile={"backend": backend}).fit(Without(), data())


def test_the_module_is_as_it_was_after_an_error() -> None:
    class Fails(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise KeyError("no such thing")

    model = Fails()
    with pytest.raises(KeyError):
        trainer(max_epochs=1, compile={"backend": "eager"}).fit(model, data())
    assert not {"log", "forward"} & set(model.__dict__)


@pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler: g++ or clang++")
def test_inductor() -> None:
    """The compiler itself; it may order sums otherwise, so that last digits differ."""

    class Small(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(5, 1)

    plain, model = Small(), Small()
    trainer(max_epochs=1).fit(plain, data())
    trainer(max_epochs=1, compile=True).fit(model, data())
    assert torch.allclose(weights(model), weights(plain), rtol=1e-5, atol=1e-6)


def test_what_can_be_given() -> None:
    assert compile_options(False) is None and compile_options(None) is None
    assert compile_options(True) == {}
    assert compile_options({"mode": "max-autotune", "backend": "eager"}) == {
        "mode": "max-autotune",
        "backend": "eager",
    }
    assert trainer(compile={"backend": "eager"}).compile == {"backend": "eager"}
    assert trainer().compile is False


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1, "compile=1 is a int: pass True, False, or a dict"),
        ("inductor", "is a str"),
        ({"backed": "eager"}, "did you mean 'backend'"),
        ({"model": 1}, "did you mean 'mode'"),
        ({"x": 1}, "pass backend, disable"),
        ({"backend": "aot_eger"}, "did you mean 'aot_eager'"),
    ],
)
def test_what_cannot_be_given(value: Any, said: str) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        trainer(compile=value)


def test_without_a_compiler_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compiler", lambda: None)
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    with pytest.raises(MisconfigurationException, match="compile=True: .* install g\\+\\+"):
        trainer(compile=True)
    with pytest.raises(MisconfigurationException, match="needs triton"):
        Compilation.with_options({"fullgraph": True}, "cuda")
    trainer(compile={"backend": "aot_eager"})


def test_only_what_was_compiled_is_taken_apart() -> None:
    model = Bare()
    assert unwrapped(model) == (model, None)
    assert unwrapped(None) == (None, None)
    found, make = unwrapped(torch.compile(model, backend="eager"))
    assert found is model and callable(make)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    plain, model = Bare(), Bare()
    trainer(max_epochs=1, gpus=1).fit(plain, data())
    trainer(max_epochs=1, gpus=1, compile=True).fit(model, data())
    # Dropout draws other numbers in a compiled graph; the weights have moved by as much.
    assert weights(model).shape == weights(plain).shape
    assert bool(weights(model).isfinite().all())

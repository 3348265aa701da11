"""What every handler must do, whoever wrote it: the list is walked by reflection."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden.handlers
from leyden.backends.precision import precision_for
from leyden.backends.strategies import DDPStrategy, Strategy
from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.step import register_training_events
from leyden.engine.uneven_feed import UnevenFeed
from leyden.handlers import Handler, ModelCheckpoint
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.evaluation import evaluator
from leyden.handlers.loggers import DummyLogger
from leyden.handlers.metric_stage import Stage
from leyden.handlers.precision import PrecisionHandler
from tests.trainer.tiny import BATCHES, Tiny, data, trainer, weights

Make = Callable[[Path], Any]


def rich_bar(root: Path) -> Any:
    console = pytest.importorskip("rich.console", reason="rich is missing")
    return leyden.handlers.RichProgressBar(console=console.Console(file=io.StringIO()))


def scheduler(root: Path) -> Any:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    entry = {
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        **{"interval": "epoch", "frequency": 1, "reduce_on_plateau": False, "monitor": None},
    }
    optimizer.step()  # a scheduler that is stepped first warns
    return leyden.handlers.LRSchedulers([entry], dict)


def optimizer_step(root: Path) -> Any:
    return leyden.handlers.OptimizerStep(torch.optim.SGD([torch.zeros(1)], lr=1.0))


class Ignored:
    """A profiler that measures nothing."""

    def start(self, name: str) -> None: ...

    def stop(self, name: str) -> None: ...


#: How each handler is made. A handler that is not here fails the test below.
CASES: dict[str, Make] = {
    "Agreement": lambda root: leyden.handlers.Agreement(
        Strategy(), stopping=leyden.handlers.Stopping, interruption=leyden.handlers.Interruption()
    ),
    "FillerBatches": lambda root: leyden.handlers.FillerBatches(
        [evaluator(lambda engine, batch: None, "test")], lambda: Stage("test"), lambda: None
    ),
    "DeviceStatsMonitor": lambda root: leyden.handlers.DeviceStatsMonitor(cpu_stats=True),
    "PrecisionHandler": lambda root: PrecisionHandler(precision_for("16-mixed")),
    "EMAWeightAveraging": lambda root: leyden.handlers.EMAWeightAveraging(decay=0.5),
    "EarlyStopping": lambda root: leyden.handlers.EarlyStopping("val_score", patience=9),
    "GradientAccumulation": lambda root: leyden.handlers.GradientAccumulation({0: 2, 1: 4}),
    "GradientAccumulationScheduler": lambda root: leyden.handlers.GradientAccumulationScheduler(
        {0: 2, 1: 4}
    ),
    "GradientAveraging": lambda root: leyden.handlers.GradientAveraging(lambda optimizer: None),
    "GradientClipping": lambda root: leyden.handlers.GradientClipping(0.01),
    "GradientNorm": lambda root: leyden.handlers.GradientNorm(2, lambda norms: None),
    "Interruption": lambda root: leyden.handlers.Interruption(grace=30),
    "Journal": lambda root: leyden.handlers.Journal(root / "journal.jsonl", losses=True),
    "LRFinder": lambda root: leyden.handlers.LRFinder(num_training=99),
    "LRSchedulers": scheduler,
    "LearningRateMonitor": lambda root: leyden.handlers.LearningRateMonitor(),
    "SamplerEpoch": lambda root: leyden.handlers.SamplerEpoch(lambda: None),
    "LoaderReload": lambda root: leyden.handlers.LoaderReload(lambda: None),
    "LoggerFlush": lambda root: leyden.handlers.LoggerFlush(lambda: None, every_n_steps=2),
    "LoggerLifecycle": lambda root: leyden.handlers.LoggerLifecycle(DummyLogger),
    "ModelCheckpoint": lambda root: leyden.handlers.ModelCheckpoint(
        dirpath=root / "saved", monitor="val_score", save_top_k=2
    ),
    "NanTermination": lambda root: leyden.handlers.NanTermination(),
    "OptimizerStep": optimizer_step,
    "Outputs": lambda root: leyden.handlers.Outputs(),
    "Position": lambda root: leyden.handlers.Position(),
    "Profiling": lambda root: leyden.handlers.Profiling(Ignored()),
    "ProgressBar": lambda root: leyden.handlers.ProgressBar(),
    "RichProgressBar": rich_bar,
    "RunningLoss": lambda root: leyden.handlers.RunningLoss(window=3),
    "StochasticWeightAveraging": lambda root: leyden.handlers.StochasticWeightAveraging(0.05, 0.5),
    "StepMark": lambda root: leyden.handlers.StepMark(lambda: None),
    "Stopping": lambda root: leyden.handlers.Stopping(max_steps=99),
    "SummaryPrinter": lambda root: leyden.handlers.SummaryPrinter(write=lambda text: None),
    "ThroughputMonitor": lambda root: leyden.handlers.ThroughputMonitor(),
    "Timer": lambda root: leyden.handlers.Timer(timedelta(days=1)),
    "TorchFlags": lambda root: leyden.handlers.TorchFlags(benchmark=True),
    "UnevenBatches": lambda root: leyden.handlers.UnevenBatches(
        DDPStrategy(join_uneven_inputs=True),
        feed=lambda: UnevenFeed([], rank=0, counts=[float("inf")], tell=lambda has: [has]),
        recorder=lambda: None,
    ),
    "Validation": lambda root: leyden.handlers.Validation(lambda on_epoch: None, every_n_batches=2),
    "WeightAveraging": lambda root: leyden.handlers.WeightAveraging(),
}
#: What others are derived from, and what refuses to be made where its device is missing.
NO_CASES = {
    "Handler",
    "Callback",
    "CallbackBase",
    "CheckpointRecord",
    "ProgressBarBase",
    "GPUStatsMonitor",
}
ALL = pytest.mark.parametrize("name", sorted(CASES))
#: A Trainer steps its optimizers itself: OptimizerStep has tests of its own.
TRAINED = pytest.mark.parametrize("name", sorted(set(CASES) - {"OptimizerStep"}))


def classes() -> dict[str, type[Handler]]:
    """Every handler class in the files of ``leyden.handlers``."""
    found = {}
    for module in pkgutil.walk_packages(leyden.handlers.__path__, "leyden.handlers."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(kind) and issubclass(kind, Handler) and not name.startswith("_"):
                if kind.__module__ == module.name:
                    found[name] = kind
    return found


CLASSES = classes()


def engines() -> list[Engine]:
    """A training engine and a validation engine without anything on them."""
    train = Engine(lambda engine, batch: None, data_ends_epoch=True)
    register_training_events(train)
    return [train, evaluator(lambda engine, batch: None, "validate")]


def attach(handler: Handler, to: list[Engine]) -> None:
    for engine in to if isinstance(handler, CallbackBase) else to[:1]:
        handler.attach(engine)


def entries(of: list[Engine]) -> list[tuple[Any, ...]]:
    return [
        (index, entry.event, entry.order, getattr(entry.handler, "__qualname__", ""))
        for index, engine in enumerate(of)
        for entry in engine.entries()
    ]


def run(root: Path, *handlers: Handler, epochs: int = 3, **arguments: Any) -> tuple[Any, Tiny]:
    """Make a Trainer with these handlers, and a module."""
    callbacks = [handler for handler in handlers if isinstance(handler, CallbackBase)]
    made = trainer(
        root,
        max_epochs=epochs,
        callbacks=callbacks,
        checkpoint_callback=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        logger=DummyLogger(),
        log_every_n_steps=1,
        **arguments,
    )
    for handler in handlers:
        if isinstance(handler, leyden.handlers.Outputs):
            handler.attach(made.evaluators["validate"])
        elif not isinstance(handler, CallbackBase):
            made.handlers.add(handler)
    return made, Tiny(with_scheduler)


def with_scheduler(parameters: Any) -> Any:
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)]


def test_every_handler_is_in_the_list_and_can_be_imported_from_the_package() -> None:
    assert set(CLASSES) == set(CASES) | NO_CASES
    missing = set(CLASSES) - set(leyden.handlers.__all__)
    assert missing <= {"Callback", "CheckpointRecord"}, f"add to handlers/__init__.py: {missing}"
    assert all(getattr(leyden.handlers, name) for name in leyden.handlers.__all__)
    assert not set(leyden.handlers.__all__) - set(dir(leyden.handlers))


@ALL
def test_making_it_touches_nothing(name: str, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    handler = CASES[name](tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(tmp_path.iterdir()) and not handler.attached


@ALL
def test_it_says_why_its_order_differs(name: str) -> None:
    kind = CLASSES[name]
    plain = CallbackBase.order if issubclass(kind, CallbackBase) else Handler.order
    assert kind.order == plain or kind.order_reason, f"give {name}.order_reason"
    assert isinstance(kind.state_keys, tuple) and kind.__doc__


@ALL
def test_detached_it_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    handler, on = CASES[name](tmp_path), engines()
    attach(handler, on)
    assert handler.attached
    for _ in range(2):
        handler.detach()
        assert entries(on) == [] and not handler.attached
    assert not any(engine.channel(event).live for engine in on for event in engine._allowed_events)


@ALL
def test_events_that_it_does_not_use_stay_free(name: str, tmp_path: Path) -> None:
    handler, on = CASES[name](tmp_path), engines()
    attach(handler, on)
    for index, engine in enumerate(on):
        used = {event for at, event, *_ in entries(on) if at == index}
        for event in engine._allowed_events:
            assert bool(engine.channel(event).handlers) == (event in used)


@ALL
def test_two_do_not_disturb_each_other(name: str, tmp_path: Path) -> None:
    alone, on = CASES[name](tmp_path), engines()
    attach(alone, on)
    expected = entries(on)
    first, second, both = CASES[name](tmp_path), CASES[name](tmp_path), engines()
    attach(first, both)
    attach(second, both)
    assert len(entries(both)) == 2 * len(expected)
    first.detach()
    assert entries(both) == expected and second.attached and not first.attached
    first.load_state_dict(first.state_dict())


@ALL
def test_a_bare_engine_takes_it_in_any_order(name: str, tmp_path: Path) -> None:
    """Without a Trainer: the training events and their counters come with the first handler."""
    engine = Engine(lambda engine, batch: None)
    handler = CASES[name](tmp_path)
    handler.attach(engine)
    assert all(hasattr(engine.state, key) for key in ("optimizer_steps", "epoch_start", "trainer"))
    filtered = TrainerEvents.OPTIMIZER_STEP_COMPLETED(every=2)
    Handler().listen(engine, filtered, lambda engine: None)
    handler.detach()
    assert engine.run([1, 2], max_epochs=2).iteration == 4


@TRAINED
def test_it_runs_twice_and_can_be_taken_off(name: str, tmp_path: Path) -> None:
    handler = CASES[name](tmp_path)
    made, model = run(tmp_path, handler, epochs=2)
    made.fit(model, data(), data(2))
    made.max_epochs = 4
    made.fit(model, data(), data(2))
    assert made.current_epoch == 3 and made.engine.state.iteration == 4 * BATCHES
    if handler in made.handlers:
        made.handlers.remove(handler)
    handler.detach()
    for engine in (made.engine, *made.evaluators.values()):
        assert not [entry for entry in engine.entries() if entry.owner is handler]
    made.max_epochs = 5
    made.fit(model, data(), data(2))
    assert made.engine.state.iteration == 5 * BATCHES


@TRAINED
def test_saved_in_mid_epoch_and_restored_it_ends_as_uninterrupted(
    name: str, tmp_path: Path
) -> None:
    killed, kept = tmp_path / "killed", tmp_path / "kept"

    def fit(root: Path, save: bool = False, **arguments: Any) -> tuple[Any, Tiny]:
        def save_all(engine: Engine) -> None:
            made.save_checkpoint(root / "middle.ckpt")
            shutil.copytree(root, kept)  # what a process finds that follows a killed one

        handler = CASES[name](root)
        made, model = run(root, handler, **arguments)
        if save:
            at = Events.ITERATION_COMPLETED(once=BATCHES + 2)
            made.engine.listen(at, save_all, order=200)
        torch.manual_seed(5)
        made.fit(model, data(shuffle=True), data(2))
        return handler, model

    reference, expected = fit(tmp_path / "whole")
    fit(killed, save=True)
    shutil.rmtree(killed)
    kept.rename(killed)
    torch.manual_seed(6)
    resumed, model = fit(killed, resume_from_checkpoint=str(killed / "middle.ckpt"))
    assert torch.equal(weights(model), weights(expected))
    assert comparable(resumed.state_dict()) == comparable(reference.state_dict())


DIFFERENT = {"dirpath", "elapsed", "time_elapsed"}


def comparable(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.tolist()
    if isinstance(state, dict):
        # Seconds differ from run to run, and so do the folders of files.
        kept = {key: value for key, value in state.items() if key not in DIFFERENT}
        return {comparable(key): comparable(value) for key, value in kept.items()}
    if isinstance(state, str):
        return Path(state).name
    if isinstance(state, (list, tuple)):
        return [comparable(item) for item in state]
    return state


def test_the_gpu_monitor_says_what_is_missing() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Exception, match="GPU"):
        leyden.handlers.GPUStatsMonitor()

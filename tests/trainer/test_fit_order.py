"""The order of ``callbacks=`` changes nothing: weights, metrics and checkpoints are the same."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from leyden import Callback
from leyden.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
)
from leyden.engine import Events
from leyden.handlers.loggers import DummyLogger
from tests.trainer.tiny import Tiny, data, trainer


class Noise(Callback):
    """Draws random numbers in validation, which training must not notice."""

    def on_validation_batch_end(self, *args: Any) -> None:
        torch.rand(3)


ARGUMENTS = st.fixed_dictionaries(
    {
        "max_epochs": st.integers(2, 4),
        "val_check_interval": st.sampled_from([1.0, 0.5, 2]),
        "check_val_every_n_epoch": st.integers(1, 2),
        "gradient_clip_val": st.sampled_from([0, 0.05]),
        "limit_train_batches": st.sampled_from([1.0, 3, 0.5]),
        "num_sanity_val_steps": st.sampled_from([0, 2]),
        "min_epochs": st.integers(1, 2),
        "log_every_n_steps": st.sampled_from([1, 3]),
        "track_grad_norm": st.sampled_from([-1, 2]),
    }
)


def callbacks(root: Path, chosen: set[str]) -> list[Any]:
    made: dict[str, Any] = {
        "checkpoint": lambda: ModelCheckpoint(
            dirpath=root / "best", monitor="val_score", save_top_k=2, save_last=True
        ),
        "second checkpoint": lambda: ModelCheckpoint(
            dirpath=root / "steps", every_n_train_steps=2, save_top_k=-1
        ),
        "early stopping": lambda: EarlyStopping("val_score", patience=1),
        "accumulation": lambda: GradientAccumulationScheduler({0: 1, 1: 2}),
        "average": lambda: EMAWeightAveraging(decay=0.5),
        "rates": lambda: LearningRateMonitor(),
        "timer": lambda: Timer("00:10:00:00"),
        "noise": Noise,
    }
    return [made[name]() for name in sorted(chosen)]


NAMES = (
    "checkpoint",
    "second checkpoint",
    "early stopping",
    "accumulation",
    "average",
    "rates",
    "timer",
    "noise",
)


def scheduled(parameters: Any) -> Any:
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {
            "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
            "monitor": "val_score",
            "strict": False,  # not every epoch validates
        },
    }


@contextlib.contextmanager
def outcome(chosen: set[str], shuffle: random.Random | None, given: Any) -> Iterator[Any]:
    """Everything that a run leaves: weights, optimizer, metrics, files and what is in them."""
    root = Path(tempfile.mkdtemp())
    try:
        listed = callbacks(root, chosen)
        if shuffle is not None:
            shuffle.shuffle(listed)
        made = trainer(
            root,
            callbacks=listed,
            checkpoint_callback="checkpoint" in chosen or "second checkpoint" in chosen,
            logger=DummyLogger(),
            **given,
        )
        model = Tiny(scheduled, noise=True)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.fit(model, data(shuffle=True), data(2))
        files = {}
        for path in sorted(root.rglob("*.ckpt")):
            state = torch.load(path, weights_only=True)["state_dict"]
            files[str(path.relative_to(root))] = plain(state)
        yield {
            "weights": plain(model.state_dict()),
            "optimizer": plain(made.optimizers[0].state_dict()),
            "metrics": plain(dict(made.callback_metrics)),
            "position": (made.current_epoch, made.global_step, made.should_stop),
            "files": files,
        }
    finally:
        shutil.rmtree(root)


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # a smaller example takes minutes to find, and tells no more
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
@given(
    arguments=ARGUMENTS,
    chosen=st.sets(st.sampled_from(NAMES), min_size=2),
    seed=st.integers(0, 2**16),
)
def test_shuffled_callbacks_give_the_same_run(
    arguments: dict[str, Any], chosen: set[str], seed: int
) -> None:
    if arguments["limit_train_batches"] == 3 and arguments["val_check_interval"] == 2:
        arguments = {**arguments, "val_check_interval": 1.0}
    with (
        outcome(chosen, None, arguments) as listed,
        outcome(chosen, random.Random(seed), arguments) as shuffled,
    ):
        assert listed == shuffled


def test_all_of_them_in_both_directions() -> None:
    arguments = {"max_epochs": 3, "val_check_interval": 0.5}

    class Backwards(random.Random):
        def shuffle(self, x: Any) -> None:  # type: ignore[override]
            x.reverse()

    with (
        outcome(set(NAMES), None, arguments) as listed,
        outcome(set(NAMES), Backwards(), arguments) as reversed_,
    ):
        assert listed == reversed_ and listed["files"]


def test_a_checkpoint_of_a_step_knows_the_validation_of_that_step(tmp_path: Path) -> None:
    saved = ModelCheckpoint(dirpath=tmp_path, monitor="val_score", save_top_k=-1)
    made = trainer(
        tmp_path, max_epochs=1, val_check_interval=2, callbacks=[saved], checkpoint_callback=True
    )
    scores: list[float] = []
    made.evaluators["validate"].listen(
        Events.COMPLETED,
        lambda engine: scores.append(float(made.callback_metrics["val_score"])),
        order=95,
    )
    made.fit(Tiny(), data(), data(2))
    assert len(scores) == 3
    assert sorted(float(v) for v in saved.best_k_models.values()) == sorted(scores)

"""What Lightning 1.1 deprecated works, with one warning each, at the line that wrote it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.deprecations import DEPRECATED, REMOVED
from leyden.profiler import PassThroughProfiler, SimpleProfiler
from tests.trainer.tiny import QUIET, Tiny, data


def made(**arguments: Any) -> Any:
    """A Trainer, made by a line of this file."""
    return leyden.Trainer(**{**QUIET, **arguments})


@contextmanager
def told(*words: str) -> Iterator[None]:
    """Exactly one warning, which holds these words and points at this file."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    assert len(found) == 1, [str(one.message) for one in found]
    (one,) = found
    assert one.category is DeprecationWarning and one.filename == __file__
    for word in (*words, "is deprecated since Lightning", " there, but works here: "):
        assert word in str(one.message)


def test_a_checkpoint_callback_as_argument(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path)
    with told(
        "Trainer(checkpoint_callback=ModelCheckpoint)", "callbacks=[...]", "supported in v1.3"
    ):
        one = made(checkpoint_callback=saver)
    assert one.checkpoint_callback is saver


@pytest.mark.parametrize(("given", "kind"), [(True, SimpleProfiler), (False, PassThroughProfiler)])
def test_a_profiler_that_is_a_bool(given: bool, kind: type) -> None:
    with told(f"Trainer(profiler={given})", "profiler='simple'"):
        one = made(profiler=given)
    assert type(one.profiler) is kind


def test_automatic_optimization_of_the_trainer() -> None:
    with told("self.automatic_optimization = False in the module's __init__"):
        made(automatic_optimization=False)


def test_distributed_backend_but_not_its_other_names() -> None:
    with told("accelerator='ddp_cpu'"):
        made(distributed_backend="ddp_cpu", num_processes=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(strategy="auto")


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_arguments_without_effect(name: str) -> None:
    with told(f"Trainer({name}=...)", "leave it out"):
        made(**{name: True})
    made(**{name: None})  # its default


def test_every_row_says_what_to_write() -> None:
    assert set(DEPRECATED) < set(leyden.Trainer.default_attributes())
    for row in DEPRECATED.values():
        assert row.since in ("1.0", "1.1") and row.instead.startswith(("pass", "set"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"filepath": "c/{epoch}"}, "pass dirpath= and filename="),
        ({"prefix": "run", "dirpath": "c"}, "put it at the beginning of filename="),
        ({"mode": "auto", "monitor": "val_loss"}, "pass mode='min' or mode='max'"),
    ],
)
def test_arguments_of_model_checkpoint(arguments: dict[str, Any], words: str) -> None:
    with told(words, f"ModelCheckpoint({next(iter(arguments))}="):
        saver = ModelCheckpoint(**arguments)
    assert saver.mode == "min"


def test_the_mode_of_early_stopping() -> None:
    with told("EarlyStopping(mode='auto')"):
        stopper = EarlyStopping("val_acc", mode="auto")
    assert stopper.mode == EarlyStopping("val_acc").mode == "max"


LOGGED = {"log": {"a": torch.tensor(1.0)}, "progress_bar": {"b": torch.tensor(2.0)}}


class Returns(Tiny):
    """Logs by what one method returns."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def answer(self, method: str, normally: Any) -> Any:
        return {"loss": normally, **LOGGED} if method == self.method else normally

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.answer("training_step", super().training_step(batch, batch_idx))

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.answer("validation_step", super().validation_step(batch, batch_idx))

    def training_epoch_end(self, outputs: Any) -> Any:
        return self.answer("training_epoch_end", None)

    def validation_epoch_end(self, outputs: Any) -> Any:
        return self.answer("validation_epoch_end", None)


@pytest.mark.parametrize(
    "method", ["training_step", "validation_step", "training_epoch_end", "validation_epoch_end"]
)
def test_dicts_that_log(method: str) -> None:
    run, model = made(max_epochs=2, log_every_n_steps=1), Returns(method)
    if method == "validation_step":  # an epoch end would be what speaks for the steps
        model.validation_epoch_end = None  # type: ignore[assignment]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run.fit(model, data(), data(2))
    (one,) = [one for one in found if one.category is DeprecationWarning]
    assert f"Returns.{method} returns" in str(one.message) and "self.log(" in str(one.message)
    assert run.callback_metrics["a"] == 1 and run.progress_bar_metrics["b"] == 2


@pytest.mark.parametrize("name", ["EvalResult", "TrainResult"])
def test_result_objects_are_refused_with_what_to_write(name: str) -> None:
    from leyden import compat

    compat.install(force=True)
    try:
        with pytest.raises(ImportError, match=f"{name} is not there in leyden: .*self.log"):
            exec(f"from pytorch_lightning.core.step_result import {name}\n{name}(None)", {})
    finally:
        compat.uninstall()

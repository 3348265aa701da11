"""After a search nothing is changed: not when it ends well, not when it fails or is interrupted."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.exceptions import MisconfigurationException
from leyden.loggers import CSVLogger
from tests.trainer.tiny import trainer, weights
from tests.trainer.tuning_cases import Rich, fingerprint, rows

Search = Callable[[leyden.Trainer, Rich], Any]


def rate(made: leyden.Trainer, module: Rich) -> Any:
    return made.tuner.lr_find(module, num_training=20, max_lr=0.5)


def size(made: leyden.Trainer, module: Rich) -> Any:
    found = made.tuner.scale_batch_size(module, "binsearch", max_trials=8)
    module.hparams["batch_size"] = 4  # the one thing that it may change
    return found


SEARCHES = pytest.mark.parametrize("search", [rate, size])


def made(root: Path, **arguments: Any) -> leyden.Trainer:
    return trainer(
        root,
        **{
            "max_epochs": 2,
            "logger": CSVLogger(str(root)),
            "log_every_n_steps": 1,
            "checkpoint_callback": True,
            "callbacks": [
                ModelCheckpoint(dirpath=root / "saved", monitor="val_loss", save_top_k=2)
            ],
            "num_sanity_val_steps": 1,
            "gradient_clip_val": 0.5,
            **arguments,
        },
    )


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


@pytest.mark.slow
@SEARCHES
@pytest.mark.parametrize("trained", [False, True])
def test_everything_is_as_before(search: Search, trained: bool, tmp_path: Path) -> None:
    module, on = Rich(limit=13), made(tmp_path)
    if trained:
        on.fit(module)
        module.head.weight.grad = torch.rand(1, 8)
        module.net.eval()
    module.trainer = on
    before = fingerprint(module, on, tmp_path)
    assert search(on, module) is not None
    assert differences(before, fingerprint(module, on, tmp_path)) == []


@pytest.mark.slow
@SEARCHES
def test_fit_is_bit_for_bit_what_it_would_have_been(search: Search, tmp_path: Path) -> None:
    found = []
    for part, tuned in (("plain", False), ("tuned", True)):
        root = tmp_path / part
        root.mkdir()
        leyden.seed_everything(7)
        module, on = Rich(limit=13), made(root)
        if tuned:
            search(on, module)
        on.fit(module)
        if tuned:
            search(on, module)
        on.max_epochs = 3
        on.fit(module)
        row = (root / "default/version_0/metrics.csv").read_text()
        found.append((weights(module), module.history, row, on.global_step))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


class Planned(Exception):
    """What the tests raise."""


HOOKS = ["setup", "configure_optimizers", "on_train_start", "training_step", "validation_step"]


@pytest.mark.slow
@SEARCHES
@pytest.mark.parametrize("hook", [*HOOKS, "on_train_end"])
@pytest.mark.parametrize("error", [Planned, KeyboardInterrupt, SystemExit])
def test_a_search_that_raises_changes_nothing(
    search: Search, hook: str, error: type[BaseException], tmp_path: Path
) -> None:
    calls = []

    def trouble(name: str) -> None:
        calls.append(name)
        if calls.count(hook) == (3 if hook == "training_step" else 1) and name == hook:
            raise error

    module, on = Rich(limit=13, trouble=trouble), made(tmp_path)
    module.trainer = on
    before = fingerprint(module, on, tmp_path)
    with pytest.raises(error):
        search(on, module)
    assert calls.count(hook)
    assert differences(before, fingerprint(module, on, tmp_path)) == []


@SEARCHES
def test_ctrl_c_ends_the_search_and_reaches_the_caller(search: Search, tmp_path: Path) -> None:
    def trouble(name: str) -> None:
        if name == "training_step":
            signal.raise_signal(signal.SIGINT)

    module, on = Rich(trouble=trouble), made(tmp_path)
    module.trainer = on
    before, handler = fingerprint(module, on, tmp_path), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        search(on, module)
    assert len(module.history) == 0
    assert differences(before, fingerprint(module, on, tmp_path)) == []
    assert signal.getsignal(signal.SIGINT) is handler


@SEARCHES
def test_callbacks_loggers_and_profiler_are_left_alone(search: Search, tmp_path: Path) -> None:
    seen: list[str] = []

    class Listening(leyden.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append("callback")

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            seen.append("callback")

    shown: list[Any] = []

    class Looking(Rich):
        def configure_callbacks(self) -> list[Any]:
            seen.append("asked for callbacks")
            return []

        def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            self.logger.experiment.add_scalar("x", 1)
            on = self.trainer
            shown.append((on.callbacks, on.checkpoint_callback, on.logger.name, len(on.optimizers)))

    on = trainer(
        tmp_path,
        callbacks=[Listening()],
        logger=CSVLogger(str(tmp_path)),
        profiler="simple",
        auto_lr_find=True,
    )
    search(on, Looking())
    assert seen == [] and not list(tmp_path.iterdir())
    assert shown[0] == ([], None, "", 1)
    assert not on.profiler.recorded_durations


def test_user_hooks_keep_what_lies_elsewhere(tmp_path: Path) -> None:
    calls: list[str] = []

    class Elsewhere(Rich):
        box: dict[str, Any] = {"average": torch.ones(2)}

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            calls.append("save")
            checkpoint["average"] = self.box["average"]

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            calls.append("load")
            self.box["average"] = checkpoint["average"]
            assert set(checkpoint) >= {"epoch", "global_step", "state_dict"}
            self.head.weight.data.zero_()  # has no effect: the weights are restored last

        def on_train_batch_end(self, *args: Any) -> None:
            self.box["average"].mul_(0.9)

    module, on = Elsewhere(), trainer(tmp_path)
    before = weights(module)
    rate(on, module)
    assert calls == ["save", "load"]
    assert torch.equal(module.box["average"], torch.ones(2))
    assert torch.equal(weights(module), before)


def test_loaders_that_are_passed_are_left_as_they_were(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    given = DataLoader(rows(), batch_size=4, shuffle=True, generator=generator)
    before = generator.get_state()
    trainer(tmp_path).tuner.lr_find(Rich(), given, num_training=20)
    assert torch.equal(generator.get_state(), before) and given._iterator is None


def test_a_loader_with_a_state_of_its_own_gets_it_back(tmp_path: Path) -> None:
    class Stateful:
        def __init__(self) -> None:
            self.at = 7

        def __iter__(self) -> Any:
            for start in range(0, 40, 4):
                self.at += 1
                yield rows()[start : start + 4]

        def state_dict(self) -> dict[str, int]:
            return {"at": self.at}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.at = state["at"]

    given = Stateful()
    trainer(tmp_path).tuner.lr_find(Rich(), given, num_training=20)
    assert given.at == 7


def test_batches_that_come_once_are_not_used_up(tmp_path: Path) -> None:
    given = (rows()[i : i + 4] for i in range(0, 40, 4))
    with pytest.raises(MisconfigurationException, match="can be gone through once"):
        trainer(tmp_path).tuner.lr_find(Rich(), given)
    assert len(list(given)) == 10


@pytest.mark.slow
def test_persistent_workers_stay(tmp_path: Path) -> None:
    given = DataLoader(rows(), batch_size=4, num_workers=1, persistent_workers=True)
    iter(given)
    iterator = given._iterator
    before = {process.pid for process in multiprocessing.active_children()}
    trainer(tmp_path).tuner.lr_find(Rich(), given, num_training=3)
    assert given._iterator is iterator and iterator is not None
    assert {process.pid for process in multiprocessing.active_children()} == before
    assert len(list(given)) == 12
    iterator._shutdown_workers()  # type: ignore[attr-defined]


class Data(leyden.LightningDataModule):
    """Splits with random numbers in setup, frees in teardown."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        CALLS.append("prepare_data")

    def setup(self, stage: str | None = None) -> None:
        CALLS.append("setup")
        self.part = torch.utils.data.Subset(rows(), torch.randperm(48)[:24].tolist())

    def teardown(self, stage: str | None = None) -> None:
        CALLS.append("teardown")
        del self.part

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.part, batch_size=self.batch_size)


CALLS: list[str] = []


def test_a_data_module_is_as_it_was_and_is_set_up_again(tmp_path: Path) -> None:
    CALLS.clear()
    data, module, on = Data(), Rich(limit=13), trainer(tmp_path, max_epochs=1)
    assert on.tuner.lr_find(module, datamodule=data, num_training=4) is not None
    assert not data.has_setup_fit and not data.has_prepared_data and not hasattr(data, "part")
    assert CALLS == ["prepare_data", "setup", "teardown"]
    # the module's batch_size is the one in its hparams; both are written
    with pytest.warns(UserWarning, match="several places"):
        data.batch_size = 3
        assert on.tuner.scale_batch_size(module, datamodule=data, batch_arg_name="batch_size") == 8
    assert data.batch_size == 8 and module.hparams["batch_size"] == 8
    assert CALLS.count("setup") == 5  # and one for each size
    assert CALLS.count("teardown") == 4  # not after the one that failed
    on.fit(module, datamodule=data)
    assert CALLS[-3:] == ["prepare_data", "setup", "teardown"]
    assert on.global_step == 3

"""Callbacks and loggers that were written for today's Lightning."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from leyden.exceptions import MisconfigurationException
from leyden.foreign import adapted, is_foreign
from tests.trainer.tiny import Tiny, data, trainer


class Base:
    """The base class of another Lightning's callbacks, as far as it is looked at."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None: ...

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None: ...

    def on_train_start(self, trainer: Any, pl_module: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


Base.__name__ = "Callback"


class Counts(Base):
    """Hooks with the signatures of 2.x."""

    def __init__(self) -> None:
        self.batches = 0
        self.seen: list[Any] = []

    @property
    def state_key(self) -> str:
        return "Counts of mine"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.seen.append(("setup", stage))

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(("batch", sorted(outputs), float(outputs["loss"])))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(("epoch", trainer.current_epoch, trainer.is_last_batch))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(("step", type(optimizer).__name__))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.seen.append(("exception", str(exception)))

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


def test_only_what_is_overridden_is_bound() -> None:
    counts = Counts()
    assert is_foreign(counts)
    handler = adapted(counts, "callbacks[0]")
    assert handler.defines("setup") and handler.defines("on_train_epoch_end")
    assert not handler.defines("on_train_start") and not handler.defines("on_fit_start")
    assert type(handler).__name__ == "Counts" and handler.state_key == "Counts of mine"


def test_hooks_are_called_with_what_they_take(tmp_path: Path) -> None:
    counts = Counts()
    made = trainer(tmp_path, max_epochs=1, callbacks=[counts])
    model = Tiny()
    made.fit(model, data(), data(2))
    words = [seen[0] for seen in counts.seen]
    assert words[0] == "setup" and words[1:3] == ["step", "batch"] and words[-1] == "epoch"
    assert counts.batches == words.count("batch") == made.global_step
    assert counts.seen[2][1] == ["loss"] and isinstance(counts.seen[2][2], float)
    assert counts.seen[-1] == ("epoch", 0, True)
    assert made.callbacks[0] is counts and "Counts" in made.handlers.names()
    assert "Counts.on_train_epoch_end" in str(made.plan())


def test_its_state_is_in_checkpoints(tmp_path: Path) -> None:
    counts = Counts()
    made = trainer(tmp_path, max_epochs=1, callbacks=[counts])
    made.fit(Tiny(), data())
    made.save_checkpoint(tmp_path / "a.ckpt")
    again = Counts()
    trainer(tmp_path, max_epochs=2, callbacks=[again]).fit(
        Tiny(), data(), ckpt_path=tmp_path / "a.ckpt"
    )
    assert again.batches == 2 * counts.batches


def test_what_is_taken_out_of_the_list_is_not_called(tmp_path: Path) -> None:
    counts = Counts()
    made = trainer(tmp_path, max_epochs=1, callbacks=[counts])
    made.callbacks.remove(counts)
    made.fit(Tiny(), data())
    assert counts.seen == []


def test_exceptions_reach_it(tmp_path: Path) -> None:
    class Fails(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("no luck")

    counts = Counts()
    with pytest.raises(RuntimeError, match="no luck"):
        trainer(tmp_path, max_epochs=1, callbacks=[counts]).fit(Fails(), data())
    assert counts.seen[-1] == ("exception", "no luck")


def test_a_mock_is_told_of_every_hook_of_1_1(tmp_path: Path) -> None:
    heard = mock.MagicMock()
    made = trainer(
        tmp_path, max_epochs=1, callbacks=[heard], limit_train_batches=1, limit_val_batches=0
    )
    assert heard.method_calls == [mock.call.on_init_start(made), mock.call.on_init_end(made)]
    heard.reset_mock()
    model = Tiny()
    made.fit(model, data())
    made.save_checkpoint(tmp_path / "a.ckpt")
    names = [call[0] for call in heard.method_calls]
    assert (
        names
        == (
            "setup on_fit_start on_pretrain_routine_start on_pretrain_routine_end on_train_start "
            "on_epoch_start on_train_epoch_start on_batch_start on_train_batch_start "
            "on_after_backward on_before_zero_grad on_batch_end on_train_batch_end on_epoch_end "
            "on_train_epoch_end on_train_end on_fit_end teardown on_save_checkpoint"
        ).split()
    )
    assert heard.method_calls[0] == mock.call.setup(made, model, "fit")
    assert heard.method_calls[-1] == mock.call.on_save_checkpoint(made, model)


# ---------------------------------------------------------------- with Lightning itself


@pytest.fixture
def lightning() -> Any:
    return pytest.importorskip("lightning.pytorch", reason="lightning is not installed")


pytestmark = pytest.mark.filterwarnings("ignore")  # what importing another Lightning warns of


@pytest.mark.slow
def test_callbacks_of_todays_lightning(lightning: Any, tmp_path: Path) -> None:
    class Mine(lightning.Callback):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any
        ) -> None:
            self.losses.append(float(outputs["loss"]))

    said: list[str] = []
    told = lightning.callbacks.LambdaCallback
    mine, few = Mine(), told(on_train_end=lambda trainer, module: said.append("end"))
    made = trainer(tmp_path, max_epochs=1, callbacks=[mine, few])
    made.fit(Tiny(), data())
    assert len(mine.losses) == made.global_step and said == ["end"]
    assert not made.handlers["Mine"].defines("on_fit_start")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "cure"),
    [
        ("ModelCheckpoint", {}, "use leyden.callbacks.ModelCheckpoint"),
        ("EarlyStopping", {"monitor": "a"}, "use leyden.callbacks.EarlyStopping"),
        ("ModelSummary", {}, "derive your own from leyden.Callback"),
    ],
)
def test_what_lightning_ships_is_refused(
    lightning: Any, name: str, arguments: dict[str, Any], cure: str
) -> None:
    theirs = getattr(lightning.callbacks, name)(**arguments)
    with pytest.raises(MisconfigurationException, match=rf"callbacks\[0\]={name}.*{cure}"):
        trainer(callbacks=[theirs], checkpoint_callback=True)


@pytest.mark.slow
def test_loggers_of_todays_lightning(lightning: Any, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    made = trainer(tmp_path, max_epochs=1, logger=logger, log_every_n_steps=1)
    model = Tiny()
    model.save_hyperparameters({"width": 3})
    made.fit(model, data())
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert len(rows) > made.global_step and "epoch" in rows[0]
    assert "width: 3" in (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()
    assert made.log_dir == logger.log_dir and torch.is_grad_enabled()


@pytest.mark.slow
def test_its_module_and_data_module_are_refused_with_the_cure(lightning: Any) -> None:
    class Model(lightning.LightningModule):  # type: ignore[misc,name-defined]
        pass

    with pytest.raises(MisconfigurationException, match="derive it from leyden.LightningModule"):
        trainer().fit(Model(), data())
    with pytest.raises(MisconfigurationException, match="leyden.LightningDataModule"):
        trainer().fit(Tiny(), datamodule=lightning.LightningDataModule())

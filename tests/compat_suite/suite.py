"""A test suite for code on Lightning 1.1: run by pytest -p leyden.compat."""

import argparse
import os
import pickle
import sys
from argparse import Namespace
from unittest import mock
from unittest.mock import MagicMock, Mock, patch

import pytest
import pytorch_lightning as pl
import torch
from boring import BoringDataModule, BoringModel, RandomDataset
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.core.memory import ModelSummary
from pytorch_lightning.core.saving import (
    load_hparams_from_tags_csv,
    load_hparams_from_yaml,
    save_hparams_to_tags_csv,
    save_hparams_to_yaml,
)
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, TestTubeLogger
from pytorch_lightning.loggers.base import DummyExperiment, DummyLogger, LightningLoggerBase
from pytorch_lightning.profiler.profilers import (
    AdvancedProfiler,
    PassThroughProfiler,
    SimpleProfiler,
)
from pytorch_lightning.trainer.connectors.logger_connector import LoggerConnector
from pytorch_lightning.trainer.logging import TrainerLoggingMixin
from pytorch_lightning.trainer.states import TrainerState
from pytorch_lightning.utilities import (
    APEX_AVAILABLE,
    NATIVE_AMP_AVAILABLE,
    AMPType,
    DistributedType,
)
from pytorch_lightning.utilities.cloud_io import atomic_save
from pytorch_lightning.utilities.cloud_io import load as pl_load
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset

# Imported, as suites do, and used by nothing here.
UNUSED = (TestTubeLogger, LoggerConnector, TrainerLoggingMixin, APEX_AVAILABLE, DistributedType)


def few(tmpdir, **kwargs):
    return Trainer(
        default_root_dir=tmpdir, limit_train_batches=4, limit_val_batches=2, limit_test_batches=2,
        weights_summary=None, progress_bar_refresh_rate=0, **{"max_epochs": 1, **kwargs},
    )  # fmt: skip


def test_fit_and_test(tmpdir):
    model, trainer = BoringModel(), few(tmpdir)
    assert trainer.state == TrainerState.INITIALIZING
    assert trainer.fit(model) == 1
    assert trainer.state == TrainerState.FINISHED
    assert trainer.get_model() is model and trainer.model is model
    assert trainer.global_step == 4 and trainer.current_epoch == 0
    assert trainer.test(model) == 1 or isinstance(trainer.test(model), list)
    assert (trainer.num_training_batches, trainer.num_val_batches) == (4, [2])


def test_hooks_can_be_set_to_none(tmpdir):
    model = BoringModel()
    for name in ("training_epoch_end", "validation_step", "validation_epoch_end", "test_epoch_end",
                 "training_step_end", "val_dataloader"):  # fmt: skip
        setattr(model, name, None)
    trainer = few(tmpdir)
    trainer.fit(model)
    assert trainer.disable_validation


@pytest.mark.parametrize("save_top_k", [-1, 0, 1, 2])
def test_checkpoints(tmpdir, save_top_k):
    class Model(BoringModel):
        def training_step(self, batch, batch_idx):
            out = super().training_step(batch, batch_idx)
            self.log("early_stop_on", out["loss"])
            return out

        def validation_epoch_end(self, outputs):
            self.log("val_acc", torch.tensor(0.1 * (self.current_epoch + 1)))

    checkpoint = ModelCheckpoint(
        dirpath=tmpdir, monitor="val_acc", mode="max", save_top_k=save_top_k, filename="{epoch}"
    )
    trainer = few(tmpdir, max_epochs=3, callbacks=[checkpoint], logger=False)
    trainer.fit(Model())
    files = sorted(path for path in os.listdir(tmpdir) if path.endswith(".ckpt"))
    assert len(files) == {-1: 3, 0: 0, 1: 1, 2: 2}[save_top_k]
    if save_top_k > 0:
        assert checkpoint.best_model_path.endswith("epoch=2.ckpt")
        assert len(checkpoint.best_k_models) == save_top_k
        assert checkpoint.best_model_score == pytest.approx(0.3)
        saved = pl_load(checkpoint.best_model_path, map_location=lambda storage, loc: storage)
        assert saved["epoch"] == 3 and saved["global_step"] == 12
        assert saved["callbacks"] and "pytorch-lightning_version" in saved
    name = ModelCheckpoint(dirpath=tmpdir, filename="{epoch:03d}-{foo}").format_checkpoint_name(
        3, 2, {"foo": 4}
    )
    assert name == str(tmpdir / "epoch=003-foo=4.ckpt")


def test_early_stopping(tmpdir):
    class Model(BoringModel):
        losses = [5.0, 4.0, 4.5, 4.6, 4.7]

        def validation_epoch_end(self, outputs):
            self.log("abc", torch.tensor(self.losses[self.current_epoch]))

    stopping = EarlyStopping(monitor="abc", patience=2)
    trainer = few(tmpdir, max_epochs=5, callbacks=[stopping])
    trainer.fit(Model())
    assert trainer.current_epoch == 3 and stopping.stopped_epoch == 3
    assert stopping.wait_count == 2 and stopping.best_score == 4
    with pytest.raises(RuntimeError):
        few(tmpdir, callbacks=[EarlyStopping(monitor="nothing")]).fit(Model())


def test_callbacks_are_called_in_their_order(tmpdir):
    called = []

    class Called(Callback):
        def on_train_start(self, trainer, pl_module):
            called.append("on_train_start")

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
            called.append("batch")

        def on_validation_end(self, trainer, pl_module):
            called.append("on_validation_end")

        def on_train_end(self, trainer, pl_module):
            called.append("on_train_end")

    trainer = few(tmpdir, callbacks=Called(), num_sanity_val_steps=0)
    trainer.fit(BoringModel())
    assert called == ["on_train_start", *["batch"] * 4, "on_validation_end", "on_train_end"]


def test_mocks_of_hooks_are_called(tmpdir):
    model = BoringModel()
    model.on_train_start = MagicMock()
    with patch.object(BoringModel, "on_fit_end", create=False) as ended:
        few(tmpdir).fit(model)
    model.on_train_start.assert_called_once_with()
    ended.assert_called_once()
    with mock.patch("pytorch_lightning.loggers.TensorBoardLogger.log_metrics") as logged:
        few(tmpdir, log_every_n_steps=1).fit(Logs())
    assert logged.call_count >= 4


class Logs(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("a", loss, on_step=True, on_epoch=True)
        self.log_dict({"b": loss}, prog_bar=True, logger=False)
        return loss

    training_epoch_end = None

    def validation_step(self, batch, batch_idx):
        self.log("c", self.layer(batch).mean())

    validation_epoch_end = None


def test_metrics(tmpdir):
    trainer = few(tmpdir, log_every_n_steps=1)
    trainer.fit(Logs())
    assert set(trainer.logged_metrics) == {"a_step", "a_epoch", "c", "epoch"}
    assert {"a", "a_step", "a_epoch", "b", "c"} <= set(trainer.callback_metrics)
    assert set(trainer.progress_bar_metrics) == {"b"}
    assert trainer.logger_connector.callback_metrics["c"] == trainer.callback_metrics["c"]


def test_a_run_goes_on_from_a_checkpoint(tmpdir):
    checkpoint = ModelCheckpoint(dirpath=tmpdir, save_last=True)
    trainer = few(tmpdir, max_epochs=2, callbacks=[checkpoint])
    trainer.fit(BoringModel())
    again = few(tmpdir, max_epochs=3, resume_from_checkpoint=str(tmpdir / "last.ckpt"))
    model = BoringModel()
    again.fit(model)
    assert again.current_epoch == 2 and again.global_step == 12
    path = str(tmpdir / "by_hand.ckpt")
    again.save_checkpoint(path)
    loaded = BoringModel.load_from_checkpoint(path)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
    )


def test_hyper_parameters(tmpdir):
    class Model(BoringModel):
        def __init__(self, width=3, name="x", **kwargs):
            super().__init__()
            self.save_hyperparameters()

    model = Model(width=5, extra=True)
    assert model.hparams == {"width": 5, "name": "x", "extra": True} and model.hparams.width == 5
    trainer = few(tmpdir)
    trainer.fit(model)
    path = trainer.checkpoint_callback.best_model_path
    assert Model.load_from_checkpoint(path, name="y").hparams["name"] == "y"
    save_hparams_to_yaml(str(tmpdir / "h.yaml"), model.hparams)
    assert load_hparams_from_yaml(str(tmpdir / "h.yaml")) == dict(model.hparams)
    save_hparams_to_tags_csv(str(tmpdir / "h.csv"), Namespace(width=5))
    assert load_hparams_from_tags_csv(str(tmpdir / "h.csv")) == {"width": 5}


def test_data_modules(tmpdir):
    dm = BoringDataModule()
    trainer = few(tmpdir)
    assert trainer.fit(BoringModel(), datamodule=dm)
    assert trainer.datamodule is dm and dm.trainer is trainer
    assert dm.has_prepared_data and dm.has_setup_fit


def test_arguments():
    parser = Trainer.add_argparse_args(argparse.ArgumentParser(add_help=False))
    args = parser.parse_args(["--max_epochs", "3", "--fast_dev_run", "--gpus", "0"])
    trainer = Trainer.from_argparse_args(args, logger=False, min_epochs=1)
    assert trainer.fast_dev_run and trainer.max_epochs == 1
    assert Trainer.default_attributes()["max_epochs"] == 1000
    with mock.patch.dict(os.environ, {"PL_TRAINER_GRADIENT_CLIP_VAL": "0.5"}):
        assert Trainer().gradient_clip_val == 0.5
    with pytest.raises(MisconfigurationException):
        Trainer(limit_train_batches=1.2)
    with pytest.raises(TypeError):
        Trainer(nonsense=1)


def test_loggers(tmpdir):
    logger = CSVLogger(tmpdir, name="csv")
    trainer = few(
        tmpdir, logger=[logger, TensorBoardLogger(tmpdir, name="tb")], log_every_n_steps=1
    )
    trainer.fit(Logs())
    assert os.path.isfile(os.path.join(logger.log_dir, "metrics.csv"))
    assert isinstance(trainer.logger.experiment, list)
    pickle.loads(pickle.dumps(TensorBoardLogger(tmpdir)))
    dummy = DummyLogger()
    assert isinstance(dummy.experiment, DummyExperiment) and isinstance(dummy, LightningLoggerBase)
    assert dummy[0] is dummy and dummy.experiment.add_scalar("a", 1) is None


def test_profilers(tmpdir):
    for kind, text in ((SimpleProfiler, "simple"), (AdvancedProfiler, "advanced")):
        trainer = few(tmpdir, profiler=text)
        assert isinstance(trainer.profiler, kind)
        trainer.fit(BoringModel())
    assert isinstance(Trainer().profiler, PassThroughProfiler)


def test_tuning(tmpdir):
    class Model(BoringModel):
        def __init__(self):
            super().__init__()
            self.lr, self.batch_size = 1.0, 2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

        def train_dataloader(self):
            return DataLoader(RandomDataset(32, 64), batch_size=self.batch_size)

    model = Model()
    trainer = Trainer(default_root_dir=tmpdir, max_epochs=2, progress_bar_refresh_rate=0)
    finder = trainer.tuner.lr_find(model, num_training=20, early_stop_threshold=None)
    assert len(finder.results["lr"]) <= 21 and finder.suggestion() is not None
    trainer.tuner.scale_batch_size(model, mode="binsearch", max_trials=3)
    assert model.batch_size > 2


def test_manual_optimization(tmpdir):
    class Model(BoringModel):
        @property
        def automatic_optimization(self):
            return False

        def training_step(self, batch, batch_idx, optimizer_idx=None):
            opt = self.optimizers()
            loss = self.loss(batch, self.layer(batch))
            self.manual_backward(loss, opt)
            opt.step()
            opt.zero_grad()

        training_epoch_end = None

    model = Model()
    before = model.layer.weight.clone()
    trainer = few(tmpdir)
    trainer.fit(model)
    assert not torch.equal(before, model.layer.weight) and trainer.global_step == 4


def test_a_stream_of_batches(tmpdir):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.randn(10, 32))

    trainer = few(tmpdir)
    trainer.fit(BoringModel(), DataLoader(Stream(), batch_size=2))
    assert trainer.global_step == 4


def test_properties():
    model = BoringModel()
    assert (model.current_epoch, model.global_step, model.on_gpu) == (0, 0, False)
    trainer = Mock(current_epoch=123)
    model.trainer = trainer
    assert model.current_epoch == 123
    assert seed_everything(17) == 17 and os.environ["PL_GLOBAL_SEED"] == "17"
    assert NATIVE_AMP_AVAILABLE and AMPType.NATIVE == "native"
    summary = ModelSummary(BoringModel())
    assert summary.total_parameters == 66 and "layer" in str(summary)
    assert pl.__version__ == "1.1.8"


def test_atomic_save(tmpdir):
    atomic_save({"a": torch.ones(1)}, str(tmpdir / "a.pt"))
    assert pl_load(str(tmpdir / "a.pt"))["a"] == 1


def test_lr_monitor(tmpdir):
    monitor = LearningRateMonitor()
    few(tmpdir, callbacks=[monitor], max_epochs=2).fit(BoringModel())
    assert monitor.lr_sch_names == ["lr-SGD"] and len(monitor.lrs["lr-SGD"]) > 0
    with pytest.raises(MisconfigurationException):
        few(tmpdir, callbacks=[LearningRateMonitor()], logger=False).fit(BoringModel())


def test_a_trainer_can_be_pickled(tmpdir):
    trainer = few(tmpdir, callbacks=[EarlyStopping("abc")])
    assert isinstance(pickle.loads(pickle.dumps(trainer)), Trainer)


@pytest.mark.parametrize("extra", [{}, {"logger": True}, {"checkpoint_callback": True}])
def test_arguments_reach_the_constructor(extra):
    parsed = Namespace(logger=False, unknown_arg=0)
    with mock.patch("pytorch_lightning.Trainer.__init__", autospec=True, return_value=None) as init:
        trainer = Trainer.from_argparse_args(parsed, **extra)
        init.assert_called_with(trainer, **{"logger": False, **extra})
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'unknown_arg'"):
        Trainer.from_argparse_args(parsed, unknown_arg=0)


def test_a_loss_that_is_no_number_ends_the_run(tmpdir):
    class Model(BoringModel):
        def training_step(self, batch, batch_idx):
            output = super().training_step(batch, batch_idx)
            if batch_idx == 2:
                output["loss"] = output["loss"] * torch.tensor(float("inf"))
            return output

    model = Model()
    with pytest.raises(ValueError):
        few(tmpdir, terminate_on_nan=True).fit(model)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_an_interrupt_is_told_and_ends_the_run(tmpdir):
    class Interrupts(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx):
            raise KeyboardInterrupt

    class Hears(Callback):
        found = None

        def on_keyboard_interrupt(self, trainer, pl_module):
            self.found = sys.exc_info()[1]

    hears = Hears()
    trainer = few(tmpdir, callbacks=[Interrupts(), hears])
    trainer.fit(BoringModel())
    assert trainer.interrupted and isinstance(hears.found, KeyboardInterrupt)
    assert trainer.state == TrainerState.INTERRUPTED


def test_a_test_takes_the_best_the_last_or_a_given_file(tmpdir):
    trainer = few(tmpdir, max_epochs=2, callbacks=[ModelCheckpoint(monitor="a_epoch")])
    trainer.fit(Logs())
    trainer.test(ckpt_path=None)
    assert trainer.tested_ckpt_path is None
    trainer.test(ckpt_path="best")
    assert trainer.tested_ckpt_path == trainer.checkpoint_callback.best_model_path
    with pytest.raises(FileNotFoundError):
        trainer.test(ckpt_path="random.ckpt")


def test_optimizers_can_be_asked_for(tmpdir):
    optimizers, schedulers, frequencies = few(tmpdir).init_optimizers(BoringModel())
    assert len(optimizers) == len(schedulers) == 1 and frequencies == []
    assert schedulers[0]["interval"] == "epoch"

"""An autoencoder with many callbacks and a bar of one's own, in the style of Lightning 1.1."""

from argparse import ArgumentParser

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from pytorch_lightning.callbacks.base import Callback as BaseCallback
from pytorch_lightning.callbacks.progress import ProgressBarBase
from pytorch_lightning.loggers import CSVLogger, LoggerCollection, TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerState
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader

assert Callback is BaseCallback

HOOKS = [
    "on_init_start", "on_init_end", "setup", "on_fit_start", "on_pretrain_routine_start",
    "on_pretrain_routine_end", "on_sanity_check_start", "on_sanity_check_end", "on_train_start",
    "on_epoch_start", "on_train_epoch_start", "on_batch_start", "on_train_batch_start",
    "on_after_backward", "on_before_zero_grad", "on_batch_end", "on_train_batch_end",
    "on_validation_start", "on_validation_epoch_start", "on_validation_batch_start",
    "on_validation_batch_end", "on_validation_epoch_end", "on_validation_end", "on_epoch_end",
    "on_train_epoch_end", "on_train_end", "on_fit_end", "teardown", "on_save_checkpoint",
]  # fmt: skip


class EveryHook(Callback):
    """Notes the name of each hook when it is first called."""

    def __init__(self):
        self.called = []

    def note(self, name):
        if name not in self.called:
            self.called.append(name)

    def on_init_start(self, trainer):
        self.note("on_init_start")

    def on_init_end(self, trainer):
        self.note("on_init_end")

    def setup(self, trainer, pl_module, stage):
        assert stage == "fit"
        self.note("setup")

    def teardown(self, trainer, pl_module, stage):
        self.note("teardown")

    def on_train_epoch_end(self, trainer, pl_module, outputs):
        assert len(outputs) == 1 and len(outputs[0]) == trainer.num_training_batches
        self.note("on_train_epoch_end")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
        assert outputs[0][0]["minimize"] is not None
        self.note("on_train_batch_end")

    def on_save_checkpoint(self, trainer, pl_module):
        self.note("on_save_checkpoint")
        return {"called": list(self.called)}

    def on_load_checkpoint(self, callback_state):
        self.called = list(callback_state["called"])


def _noting(name):
    def hook(self, trainer, pl_module, *args):
        self.note(name)

    return hook


for _name in HOOKS:
    if _name not in vars(EveryHook):
        setattr(EveryHook, _name, _noting(_name))


class QuietBar(ProgressBar):
    def init_validation_tqdm(self):
        bar = super().init_validation_tqdm()
        bar.set_description("running validation ...")
        return bar


class CountingBar(ProgressBarBase):
    def __init__(self):
        super().__init__()
        self.enabled = True
        self.shown = 0

    def disable(self):
        self.enabled = False

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        assert self.train_batch_idx == batch_idx + 1 <= self.total_train_batches
        self.shown += 1


class LitAutoEncoder(pl.LightningModule):
    def __init__(self, hparams):
        super().__init__()
        self.hparams = hparams
        self.encoder = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, hparams.code))
        self.decoder = nn.Sequential(nn.Linear(hparams.code, 8), nn.ReLU(), nn.Linear(8, 16))

    def forward(self, x):
        return self.encoder(x)

    def step(self, batch):
        x = batch.view(batch.size(0), -1)
        return F.mse_loss(self.decoder(self.encoder(x)), x)

    def training_step(self, batch, batch_idx):
        loss = self.step(batch)
        result = {"loss": loss, "log": {"train_loss": loss}, "progress_bar": {"tl": loss}}
        return result

    def validation_step(self, batch, batch_idx, dataloader_idx):
        return {"val_loss": self.step(batch)}

    def validation_epoch_end(self, outputs):
        assert len(outputs) == 2
        loss = torch.stack([row["val_loss"] for rows in outputs for row in rows]).mean()
        return {"val_loss": loss, "log": {"val_loss": loss}, "progress_bar": {"val_loss": loss}}

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)]

    def prepare_data(self):
        generator = torch.Generator().manual_seed(0)
        base = torch.rand(4, 16, generator=generator)
        mix = torch.rand(160, 4, generator=generator)
        self.data = mix @ base / 2

    def train_dataloader(self):
        return DataLoader(self.data[:96], batch_size=8)

    def val_dataloader(self):
        return [DataLoader(self.data[96:128], batch_size=8), DataLoader(self.data[128:], 8)]


def make(args, **kwargs):
    hooks = EveryHook()
    said = []
    callbacks = [
        hooks,
        LambdaCallback(setup=lambda trainer, pl_module, stage: said.append(stage)),
        EarlyStopping("val_loss", min_delta=0.0, patience=50, verbose=False, mode="min"),
        GradientAccumulationScheduler(scheduling={2: 2}),
        ModelCheckpoint(dirpath="checkpoints", monitor="val_loss", save_last=True, verbose=True),
        *kwargs.pop("more", []),
    ]
    trainer = pl.Trainer.from_argparse_args(args, callbacks=callbacks, **kwargs)
    return trainer, hooks, said


def main(args):
    pl.seed_everything(args.seed)
    model = LitAutoEncoder(AttributeDict(code=3, lr=0.05))
    logger = [TensorBoardLogger("logs", name="tb"), CSVLogger("logs", name="csv")]
    monitor = LearningRateMonitor(logging_interval="epoch")
    trainer, hooks, said = make(args, logger=logger, more=[monitor, QuietBar(refresh_rate=5)])
    assert trainer.state == TrainerState.INITIALIZING
    trainer.fit(model)
    assert trainer.state == TrainerState.FINISHED and trainer.state == "FINISHED"
    missing = [name for name in HOOKS if name not in hooks.called]
    assert not missing, missing
    assert said == ["fit"] and isinstance(trainer.logger, LoggerCollection)
    assert len(monitor.lrs["lr-SGD"]) == args.max_epochs
    assert trainer.accumulate_grad_batches in (1, 2)
    stopper = trainer.early_stopping_callback
    assert stopper.best_score == trainer.callback_metrics["val_loss"]

    # A second process would go on like this.
    last = trainer.checkpoint_callback.last_model_path
    bar = CountingBar()
    again, hooks, _ = make(
        args, logger=False, resume_from_checkpoint=last, more=[bar], progress_bar_refresh_rate=1
    )
    again.max_epochs = args.max_epochs + 1
    fresh = LitAutoEncoder(AttributeDict(code=3, lr=0.05))
    again.fit(fresh)
    assert bar.shown == again.num_training_batches and again.current_epoch == args.max_epochs
    assert "on_fit_end" in hooks.called

    try:
        pl.Trainer(gradient_clip_val=-1)
    except MisconfigurationException as error:
        print("refused:", error)
    print("loss", float(again.callback_metrics["val_loss"]))


if __name__ == "__main__":
    parser = ArgumentParser(add_help=False)
    parser = pl.Trainer.add_argparse_args(parser)
    parser.add_argument("--seed", type=int, default=5)
    parser.set_defaults(max_epochs=4)
    main(parser.parse_args())

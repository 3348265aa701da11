"""An LSTM with truncated back-propagation, a logger and a profiler of one's own: 1.1 style."""

import collections
import logging

import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers.base import LightningLoggerBase, rank_zero_experiment
from pytorch_lightning.profiler import SimpleProfiler
from pytorch_lightning.utilities.apply_func import move_data_to_device
from pytorch_lightning.utilities.distributed import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader, Dataset

logging.getLogger("lightning").setLevel(logging.ERROR)

SPLIT, LENGTH = 5, 20


class Sines(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        t = torch.arange(LENGTH + 1) * 0.3 + index
        wave = torch.sin(t).unsqueeze(-1)
        return wave[:-1], wave[1:]


class MemoryLogger(LightningLoggerBase):
    def __init__(self):
        super().__init__()
        self.rows, self.hparams, self.status = [], None, None

    @property
    def name(self):
        return "MemoryLogger"

    @property
    @rank_zero_experiment
    def experiment(self):
        return self.rows

    @property
    def version(self):
        return "0.1"

    @rank_zero_only
    def log_hyperparams(self, params):
        self.hparams = params

    @rank_zero_only
    def log_metrics(self, metrics, step):
        self.experiment.append((step, dict(metrics)))

    def save(self):
        super().save()

    @rank_zero_only
    def finalize(self, status):
        self.status = status


class LSTMModel(LightningModule):
    def __init__(self, hparams=None):
        super().__init__()
        self.hparams = hparams or {"hidden": 16, "lr": 0.02}
        self.lstm = nn.LSTM(1, self.hparams["hidden"], batch_first=True)
        self.head = nn.Linear(self.hparams["hidden"], 1)
        self.splits = collections.Counter()
        self.steps_per_batch = collections.Counter()

    def forward(self, x, hiddens=None):
        out, hiddens = self.lstm(x, hiddens)
        return self.head(out), hiddens

    def training_step(self, batch, batch_idx, hiddens):
        x, y = batch
        assert x.shape[1] == SPLIT
        assert (hiddens is None) == (self.trainer.split_idx == 0)
        pred, hiddens = self(x, hiddens)
        loss = nn.functional.mse_loss(pred, y)
        self.splits[self.trainer.split_idx] += 1
        self.log("train_loss", loss, prog_bar=True)
        return {"loss": loss, "hiddens": tuple(h.detach() for h in hiddens)}

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu,
                       using_native_amp, using_lbfgs):  # fmt: skip
        # Warm the rate up over the first steps, as the documentation of 1.1 shows.
        if self.trainer.global_step < 4:
            scale = min(1.0, float(self.trainer.global_step + 1) / 4.0)
            for pg in optimizer.param_groups:
                pg["lr"] = scale * self.hparams["lr"]
        self.steps_per_batch[batch_idx] += 1
        optimizer.step(closure=optimizer_closure)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99),
                "interval": "step",
            },
        }

    def train_dataloader(self):
        return DataLoader(Sines(), batch_size=8)

    def get_progress_bar_dict(self):
        items = super().get_progress_bar_dict()
        items.pop("v_num", None)
        return items


if __name__ == "__main__":
    pl.seed_everything(3)
    model, logger = LSTMModel(), MemoryLogger()
    profiler = SimpleProfiler()
    trainer = Trainer(
        max_epochs=10,
        truncated_bptt_steps=SPLIT,
        logger=logger,
        profiler=profiler,
        checkpoint_callback=False,
        log_every_n_steps=2,
        gradient_clip_val=1.0,
        weights_summary=None,
        track_grad_norm=2,
    )
    trainer.fit(model)
    assert set(model.splits) == {0, 1, 2, 3} and len(set(model.splits.values())) == 1
    losses = [row["train_loss"] for _, row in logger.rows if "train_loss" in row]
    assert losses[-1] < losses[0] / 4, losses
    assert any("grad_2.0_norm_total" in row for _, row in logger.rows)
    assert logger.status == "success" and logger.hparams["hidden"] == 16
    assert "split_idx" in trainer.progress_bar_dict and "v_num" not in trainer.progress_bar_dict
    assert "run_training_epoch" in profiler.summary()
    assert move_data_to_device([torch.ones(1)], torch.device("cpu"))[0].item() == 1
    print("loss", float(losses[-1]))

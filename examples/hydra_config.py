"""A run that is all configuration: hydra makes the Trainer, its callbacks and the model.

    python examples/hydra_config.py
    python examples/hydra_config.py trainer.max_epochs=3 model.lr=0.1

Every argument of ``leyden.Trainer`` is plain data or an object that can be made of plain data, so
``hydra.utils.instantiate`` builds one from YAML. Options on the command line override the text
below, by dots; what the run was made of stands beside its checkpoints. Needs ``pip install
'leyden[examples]'``.
"""

import sys
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden

__all__ = ["Sines", "main"]

CONFIG = """
seed: 3
out: runs/hydra
model:
  _target_: hydra_config.Sines
  hidden: 32
  lr: 0.02
data:
  samples: 512
  batch_size: 64
trainer:
  _target_: leyden.Trainer
  max_epochs: 30
  default_root_dir: ${out}
  gradient_clip_val: 1.0
  accumulate_grad_batches: {0: 1, 20: 2}
  progress_bar_refresh_rate: 0
  weights_summary: null
  logger:
    _target_: leyden.loggers.CSVLogger
    save_dir: ${out}
  callbacks:
    - _target_: leyden.callbacks.EarlyStopping
      monitor: loss_epoch
      mode: min
      patience: 10
    - _target_: leyden.callbacks.ModelCheckpoint
      monitor: loss_epoch
      mode: min
"""


class Sines(leyden.LightningModule):
    """A curve through points."""

    def __init__(self, hidden: int, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def main(overrides: list[str] | None = None) -> float:
    """Make everything of the text and the overrides, train, and give the last loss."""
    # The class is found by the name of this file, also where it runs as the program.
    sys.modules.setdefault("hydra_config", sys.modules[__name__])
    torch.set_num_threads(1)
    config = OmegaConf.merge(OmegaConf.create(CONFIG), OmegaConf.from_dotlist(overrides or []))
    leyden.seed_everything(config.seed)
    x = torch.linspace(-3, 3, config.data.samples).unsqueeze(1)
    points = TensorDataset(x, torch.sin(2 * x))
    model = instantiate(config.model)
    # all: lists and dicts of plain Python, which is what the Trainer takes.
    trainer = instantiate(config.trainer, _convert_="all")
    trainer.fit(model, DataLoader(points, batch_size=config.data.batch_size, shuffle=True))
    loss = float(trainer.callback_metrics["loss_epoch"])
    kept = Path(trainer.logger.log_dir) / "config.yaml"
    kept.write_text(OmegaConf.to_yaml(config, resolve=True))
    print(f"loss {loss:.4f} after {trainer.current_epoch + 1} epochs; made of {kept}")
    return loss


if __name__ == "__main__":
    main(sys.argv[1:])

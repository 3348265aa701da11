"""Schedulers under the Trainer: which epochs they step in."""

from typing import Any

import pytest
import torch

import leyden
from leyden.exceptions import MisconfigurationException
from leyden.optimizers import configured
from tests.trainer.tiny import QUIET, Tiny, data


class Watched(Tiny):
    """Logs a validation value that never gets better, and notes the rate of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("v", 1.0)

    def on_train_epoch_start(self) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "v"}


def test_plateau_waits_for_an_epoch_that_validates() -> None:
    model = Watched()
    trainer = leyden.Trainer(max_epochs=7, check_val_every_n_epoch=2, **QUIET)
    trainer.fit(model, data(), data())
    # Validated after epochs 1, 3 and 5; the first value sets the mark, each later one is no better.
    assert model.rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_plateau_takes_the_last_value_of_an_epoch_that_validates_inside() -> None:
    model = Watched()
    trainer = leyden.Trainer(max_epochs=4, val_check_interval=0.5, **QUIET)
    trainer.fit(model, data(), data())
    assert model.rates == [1.0, 1.0, 0.5, 0.25]


def test_a_scheduler_of_an_optimizer_that_does_not_train_is_refused() -> None:
    module = torch.nn.Linear(1, 1)
    one, other = (torch.optim.SGD(module.parameters(), lr=0.1) for _ in range(2))
    stray = torch.optim.lr_scheduler.StepLR(other, 1)
    for returned in ([[one], [stray]], {"optimizer": one, "lr_scheduler": stray}):
        with pytest.raises(MisconfigurationException, match="StepLR .* that wasn't returned"):
            configured(returned)
    assert len(configured([[one, other], [stray]]).schedulers) == 1

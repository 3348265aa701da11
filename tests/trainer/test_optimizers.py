"""What ``configure_optimizers`` may return."""

from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ChainedScheduler, ExponentialLR, StepLR

from leyden.engine.errors import MisconfigurationException
from leyden.optimizers import configured


def made() -> SGD:
    return SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)


def test_other_keys_of_a_dict_are_ignored_with_a_warning() -> None:
    optimizer = made()
    returned = {"optimizer": optimizer, "interval": "step", "name": "first"}
    with pytest.warns(RuntimeWarning, match=r"unknown keys \['interval', 'name'\]") as caught:
        found = configured(returned)
    assert len(caught) == 1
    assert found.optimizers == [optimizer] and not found.schedulers


def test_a_dict_without_an_optimizer_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"no 'optimizer', but \['lr_scheduler'\]"):
        configured({"lr_scheduler": None})


@pytest.mark.parametrize(
    "form",
    [
        lambda kept, scheduler: ([kept], [scheduler]),
        lambda kept, scheduler: {"optimizer": kept, "lr_scheduler": scheduler},
        lambda kept, scheduler: [{"optimizer": kept, "lr_scheduler": {"scheduler": scheduler}}],
    ],
)
def test_a_scheduler_of_another_optimizer_is_refused(form: Any) -> None:
    with pytest.raises(MisconfigurationException, match="an optimizer .SGD. .* attatched with"):
        configured(form(made(), StepLR(made(), 1)))
    kept = made()
    assert len(configured(form(kept, StepLR(kept, 1))).schedulers) == 1


def test_schedulers_of_schedulers_belong_to_their_optimizer() -> None:
    kept = made()
    chained = ChainedScheduler([StepLR(kept, 1), ExponentialLR(kept, 0.9)])
    assert len(configured(([kept], [chained])).schedulers) == 1

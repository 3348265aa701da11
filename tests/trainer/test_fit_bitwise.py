"""The weights after a run are bitwise those of the loop that one would write by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.loggers import CSVLogger
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, network, trainer, weights

EPOCHS = 3
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def by_hand(
    optimizer: str, *, factor: int = 1, clip: float = 0.0, algorithm: str = "norm", every: int = 0
) -> torch.Tensor:
    """A plain loop: dropout, a shuffled loader, and a learning rate that falls every few steps."""
    torch.manual_seed(3)
    net = network()
    steps = OPTIMIZERS[optimizer](net.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(steps, every, 0.5) if every else None
    loader = data(shuffle=True)
    torch.manual_seed(0)
    for _ in range(EPOCHS):
        for index, (x, y) in enumerate(loader):
            loss = torch.nn.functional.mse_loss(net(x), y)
            (loss / factor).backward()
            if (index + 1) % factor == 0 or index + 1 == len(loader):
                if clip and algorithm == "norm":
                    torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
                elif clip:
                    torch.nn.utils.clip_grad_value_(net.parameters(), clip)
                steps.step()
                steps.zero_grad()
                if schedule is not None:
                    schedule.step()
    return weights(net)


def fitted(root: Path, model: Any, *val: Any, **arguments: Any) -> torch.Tensor:
    made = trainer(root, **{"max_epochs": EPOCHS, **arguments})
    loader = data(shuffle=True)
    torch.manual_seed(0)
    assert made.fit(model, loader, *val) == 1
    return weights(model)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_plain_run(optimizer: str, factor: int, clip: float, tmp_path: Path) -> None:
    found = fitted(
        tmp_path,
        Bare(OPTIMIZERS[optimizer]),
        accumulate_grad_batches=factor,
        gradient_clip_val=clip,
    )
    assert torch.equal(found, by_hand(optimizer, factor=factor, clip=clip))


def test_clipping_by_value(tmp_path: Path) -> None:
    found = fitted(
        tmp_path,
        Bare(OPTIMIZERS["adam"]),
        gradient_clip_val=0.01,
        gradient_clip_algorithm="value",
    )
    assert torch.equal(found, by_hand("adam", clip=0.01, algorithm="value"))
    assert not torch.equal(found, by_hand("adam"))


def test_a_scheduler_that_goes_by_steps(tmp_path: Path) -> None:
    def make(parameters: Any) -> Any:
        optimizer = OPTIMIZERS["momentum"](parameters)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    assert torch.equal(fitted(tmp_path, Bare(make)), by_hand("momentum", every=2))


def everything(root: Path) -> dict[str, Any]:
    """What watches a run, and so must not change it."""
    return dict(
        logger=CSVLogger(str(root)),
        checkpoint_callback=True,
        progress_bar_refresh_rate=1,
        weights_summary="full",
        num_sanity_val_steps=2,
        val_check_interval=2,
        terminate_on_nan=True,
        track_grad_norm=2,
        log_every_n_steps=1,
    )


@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_with_everything_that_should_not_change_them(
    optimizer: str, factor: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    found = fitted(
        tmp_path,
        Tiny(OPTIMIZERS[optimizer], noise=True),
        data(3, seed=2, shuffle=True),
        accumulate_grad_batches=factor,
        gradient_clip_val=0.05,
        **everything(tmp_path),
    )
    assert torch.equal(found, by_hand(optimizer, factor=factor, clip=0.05))


@pytest.mark.parametrize("name", [*everything(Path()), "validation"])
def test_each_of_them_alone(name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    arguments = {key: value for key, value in everything(tmp_path).items() if key == name}
    validates = name in ("validation", "num_sanity_val_steps", "val_check_interval")
    model = Tiny(OPTIMIZERS["adam"], noise=True) if validates else Bare(OPTIMIZERS["adam"])
    val = [data(3, seed=2, shuffle=True)] if validates else []
    found = fitted(tmp_path, model, *val, **arguments)
    assert torch.equal(found, by_hand("adam"))


@pytest.mark.slow
def test_workers_and_the_main_process_give_the_same_run(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=2)
    model = Bare()
    loader = data(shuffle=True)
    loader = torch.utils.data.DataLoader(loader.dataset, batch_size=4, shuffle=True, num_workers=1)
    torch.manual_seed(0)
    made.fit(model, loader)
    alone = Bare()
    torch.manual_seed(0)
    trainer(tmp_path, max_epochs=2).fit(alone, data(shuffle=True))
    assert torch.equal(weights(model), weights(alone))
    assert made.engine.state.iteration == 2 * BATCHES

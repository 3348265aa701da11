"""Hooks in which a module or data module does itself what the Trainer would do."""

from typing import Any

import pytest
import torch

import leyden
from tests.trainer.tiny import BATCHES, Bare, data, trainer


class Scheduled(Bare):
    """Two optimizers, each with a scheduler; the second one watches a metric."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.step()
        self.log("score", 2.0)

    def configure_optimizers(self) -> Any:
        first, second = (torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2))
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(second)
        entry = {"scheduler": plateau, "monitor": "score", "reduce_on_plateau": True}
        return [first, second], [torch.optim.lr_scheduler.StepLR(first, 1), entry]


class Own(Scheduled):
    """Steps its schedulers itself, as Lightning 1.6 asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.stepped: list[Any] = []

    def lr_scheduler_step(self, scheduler: Any, optimizer_idx: int, metric: Any) -> None:
        self.stepped.append((type(scheduler).__name__, optimizer_idx, metric))
        super().lr_scheduler_step(scheduler, optimizer_idx, metric)


class OwnAsToday(Own):
    """The same in the form of Lightning 2.x."""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:  # type: ignore[override]
        super().lr_scheduler_step(scheduler, -1, metric)


@pytest.mark.parametrize(("kind", "numbers"), [(Own, [0, 1]), (OwnAsToday, [-1, -1])])
def test_the_module_steps_its_schedulers_itself(kind: type[Own], numbers: list[int]) -> None:
    model = kind()
    run = trainer(max_epochs=2)
    run.fit(model, data())
    names = ("StepLR", "ReduceLROnPlateau")
    a_turn = [(name, i, m) for name, i, m in zip(names, numbers, (None, 2.0), strict=True)]
    assert model.stepped == a_turn * 2
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)  # 0.1, twice a tenth


class Data(leyden.LightningDataModule):
    """Changes the batches before and after they are moved."""

    def train_dataloader(self) -> Any:
        return data()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 0, batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 7, batch[1]]


class Sees(Bare):
    """Notes what reaches its step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen += batch[0].unique().tolist()
        return super().training_step(batch, batch_idx)


class SeesItself(Sees):
    """Has a hook that the data module has, too."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        raise AssertionError("the data module's own hook stands for this one")


@pytest.mark.parametrize("kind", [Sees, SeesItself])
def test_the_data_module_changes_its_batches(kind: type[Sees]) -> None:
    model = kind()
    trainer(max_epochs=1).fit(model, datamodule=Data())
    assert model.seen == [7.0] * BATCHES


@pytest.mark.parametrize("arguments", [("batch", "device"), ("batch", "device", "dataloader_idx")])
def test_a_data_module_moves_its_batches_itself(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[torch.device] = []
    if len(arguments) == 2:

        def move(self: Any, batch: Any, device: torch.device) -> Any:
            moved.append(device)
            return [item.to("cpu") for item in batch]

    else:

        def move(  # type: ignore[misc]
            self: Any, batch: Any, device: torch.device, dataloader_idx: int
        ) -> Any:
            moved.append(device)
            return [item.to("cpu") for item in batch]

    own = type("Moves", (Data,), {"transfer_batch_to_device": move})
    # Stands for an accelerator: the batches are on the CPU, so it is asked to bring them.
    monkeypatch.setattr(Sees, "device", property(lambda self: torch.device("meta")))
    model = Sees()
    trainer(max_epochs=1).fit(model, datamodule=own())
    assert moved == [torch.device("meta")] * BATCHES
    assert model.seen == [7.0] * BATCHES

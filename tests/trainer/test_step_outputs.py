"""What steps return: to whom it is handed on, in which form, and how its 'log' entry is logged."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from tests.trainer.tiny import trainer

pytestmark = pytest.mark.filterwarnings("ignore:logging by the .log.:DeprecationWarning")


class Two(leyden.LightningModule):
    """Two optimizers, each of which returns something of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:
        loss = (self.left, self.right)[optimizer_idx](batch).mean()
        name = ("left", "right")[optimizer_idx]
        shown = {name: torch.tensor(float(batch_idx + 1))}
        return OrderedDict({"loss": loss, "log": shown, "progress_bar": shown})

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.left, self.right)]

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(8, 2), batch_size=2)  # type: ignore[arg-type]


class One(Two):
    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        return {"loss": self.left(batch).mean(), "number": batch_idx}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_what_every_optimizer_returns_is_logged() -> None:
    made = trainer(log_every_n_steps=1, max_epochs=1)
    made.fit(Two())
    for metrics in (made.logged_metrics, made.progress_bar_metrics, made.callback_metrics):
        assert metrics["left"] == metrics["right"] == 4


def test_with_a_step_end_it_is_what_that_returns() -> None:
    class Ends(Two):
        def training_step_end(self, output: Any) -> Any:
            return {**output, "log": {name: value * 2 for name, value in output["log"].items()}}

    made = trainer(log_every_n_steps=1, max_epochs=1)
    made.fit(Ends())
    assert made.logged_metrics["left"] == made.logged_metrics["right"] == 8


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_callback_gets_what_the_steps_of_an_epoch_returned(accumulate: int) -> None:
    seen: list[Any] = []

    class Reads(leyden.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
            seen.append(outputs)

    trainer(callbacks=[Reads()], max_epochs=2, accumulate_grad_batches=accumulate).fit(One())
    for outputs in seen:
        ((*batches,),) = outputs
        assert [split["number"] for (split,) in batches] == [0, 1, 2, 3]
        assert all(split["minimize"].grad_fn is None for (split,) in batches)
    assert len(seen) == 2


def test_a_module_gets_them_for_each_optimizer() -> None:
    seen: list[Any] = []

    class Reads(Two):
        def on_train_epoch_end(self, outputs: Any) -> None:
            seen.append(outputs)

    trainer(max_epochs=1).fit(Reads())
    ((left, right),) = seen
    assert len(left) == len(right) == 4
    assert left[2][0]["minimize"] != right[2][0]["minimize"]


def test_nothing_is_kept_for_who_takes_nothing() -> None:
    kept: list[int] = []

    class Leaves(leyden.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # type: ignore[override]
            kept.append(len(trainer._run.module_handler.kept_outputs))

    trainer(callbacks=[Leaves()], max_epochs=1).fit(One())
    assert kept == [0]


class Validates(One):
    """Returns a dict from each validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        number = torch.tensor(float(batch_idx))
        return {"val_loss": number, "log": {"logged": number}, "progress_bar": {"shown": number}}

    def val_dataloader(self) -> Any:
        return DataLoader(torch.ones(6, 2), batch_size=2)  # type: ignore[arg-type]


def test_without_an_epoch_end_the_last_evaluation_step_speaks_for_all() -> None:
    made = trainer(max_epochs=1)
    made.fit(Validates())
    metrics = made.callback_metrics
    assert metrics["val_loss"] == metrics["logged"] == metrics["shown"] == 2
    assert made.logged_metrics["logged"] == made.progress_bar_metrics["shown"] == 2


def test_with_an_epoch_end_what_evaluation_steps_return_is_for_that_alone() -> None:
    class Ends(Validates):
        def validation_epoch_end(self, outputs: Any) -> Any:
            return {"val_mean": torch.stack([one["val_loss"] for one in outputs]).mean()}

    made = trainer(max_epochs=1)
    with pytest.warns(UserWarning, match="The validation_epoch_end should not return anything"):
        made.fit(Ends())
    assert made.callback_metrics["val_mean"] == 1
    assert not {"val_loss", "logged", "shown"} & set(made.callback_metrics)


def test_several_loaders_have_no_last_step_that_speaks_for_all() -> None:
    class Several(Validates):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:  # type: ignore[override]
            return {"val_loss": torch.tensor(1.0)}

        def val_dataloader(self) -> Any:
            return [super().val_dataloader(), super().val_dataloader()]

    made = trainer(max_epochs=1)
    made.fit(Several())
    assert "val_loss" not in made.callback_metrics


def test_the_hooks_at_the_end_of_an_epoch_see_its_values() -> None:
    seen: list[tuple[str, float]] = []

    class Logs(One):
        def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
            self.log("mean", 10.0 * self.current_epoch + batch_idx, on_step=False, on_epoch=True)
            return self.left(batch).mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", 1.0 + self.current_epoch)

        def val_dataloader(self) -> Any:
            return DataLoader(torch.ones(2, 2))  # type: ignore[arg-type]

        def on_epoch_end(self) -> None:
            self.log("more", 2.0 + self.current_epoch)

        def training_epoch_end(self, outputs: Any) -> None:
            seen.append(("training_epoch_end", self.look("mean") + self.look("more")))

        def look(self, name: str) -> float:
            assert self.trainer.logged_metrics[name] == self.trainer.callback_metrics[name]
            return float(self.trainer.callback_metrics[name])

    class Looks(leyden.Callback):
        def on_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(("on_epoch_end", pl_module.look("mean")))

        def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
            seen.append(("on_train_epoch_end", pl_module.look("mean") + pl_module.look("more")))

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(("on_validation_epoch_end", pl_module.look("val")))

    trainer(max_epochs=2, callbacks=[Looks()], num_sanity_val_steps=0).fit(Logs())
    names = ["on_epoch_end", "on_train_epoch_end", "training_epoch_end", "on_validation_epoch_end"]
    assert seen == [*zip(names, (1.5, 3.5, 3.5, 1), strict=True)] + [
        *zip(names, (11.5, 14.5, 14.5, 2), strict=True)
    ]


class Ends(One):
    """Keeps what its epoch end is given; returns nothing in all batches, or only in some."""

    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.returned = returned
        self.given: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        return self.returned(self.left(batch).mean(), batch_idx)

    def training_epoch_end(self, outputs: Any) -> None:
        self.given.append(outputs)


@pytest.mark.filterwarnings("ignore:training_step returned None")
def test_the_epoch_end_is_called_where_no_step_returned_anything() -> None:
    model = Ends(lambda loss, number: None)
    trainer(max_epochs=2).fit(model)
    assert model.given == [[], []]


def test_by_hand_the_epoch_end_gets_a_list_for_each_optimizer() -> None:
    class ByHand(Ends):
        automatic_optimization = False  # type: ignore[assignment]

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    model = ByHand(lambda loss, number: None)
    trainer(max_epochs=1).fit(model)
    assert model.given == [[[], []]]


def test_hidden_states_are_not_kept_for_the_epoch_end() -> None:
    model = Ends(lambda loss, number: {"loss": loss, "hiddens": loss, "number": number})
    trainer(max_epochs=1).fit(model)
    assert [sorted(output) for output in model.given[0]] == [["loss", "number"]] * 4


def test_optimizers_that_take_turns_give_one_list_in_the_order_of_batches() -> None:
    given: list[Any] = []

    class Turns(Two):
        def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:
            loss = (self.left, self.right)[optimizer_idx](batch).mean()
            return {"loss": loss, "turn": (batch_idx, optimizer_idx)}

        def training_epoch_end(self, outputs: Any) -> None:
            given.extend(output["turn"] for output in outputs)

        def configure_optimizers(self) -> Any:
            pair = super().configure_optimizers()
            return [{"optimizer": one, "frequency": n} for one, n in zip(pair, (2, 1), strict=True)]

    trainer(max_epochs=1).fit(Turns())
    assert given == [(0, 0), (1, 0), (2, 1), (3, 0)]

"""What fit takes for data, and what it says about data that it cannot take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from leyden import LightningDataModule, LightningModule
from leyden.exceptions import MisconfigurationException
from tests.trainer.tiny import BATCHES, Bare, Tiny, data, trainer, weights


class Generated:
    """An iterable without a length: a new generator each epoch."""

    def __init__(self, count: int = BATCHES) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        yield from (tuple(batch) for batch in data(self.count))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for x, y in data():
            yield from zip(x, y, strict=True)


FORMS: dict[str, Any] = {
    "DataLoader": data,
    "list": lambda: list(data()),
    "tuple": lambda: tuple(data()),
    "generator of epochs": Generated,
    "IterableDataset": lambda: DataLoader(Stream(), batch_size=4),
    "dataset of batches": lambda: DataLoader(list(data()), batch_size=None),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factor", [1, 3])
def test_every_form_of_data_gives_the_same_weights(form: str, factor: int, tmp_path: Path) -> None:
    found = []
    for make in (data, FORMS[form]):
        made, model = trainer(tmp_path, max_epochs=2, accumulate_grad_batches=factor), Bare()
        model.net[1].p = 0.0  # a DataLoader draws its seed where a list draws nothing
        made.fit(model, make())
        assert made.engine.state.iteration == 2 * BATCHES
        found.append(weights(model))
    assert torch.equal(*found)


def test_a_generator_is_good_for_one_epoch_and_the_second_says_so(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1)
    made.fit(Bare(), (batch for batch in data()))
    assert made.engine.state.iteration == BATCHES == made.global_step
    made = trainer(tmp_path, max_epochs=2)
    with pytest.raises(MisconfigurationException, match="gave no batch in epoch 1"):
        made.fit(Bare(), (batch for batch in data()))
    assert made.global_step == BATCHES


def test_no_batch_is_fetched_that_a_limit_excludes(tmp_path: Path) -> None:
    class Counted(Generated):
        taken = 0

        def __iter__(self) -> Iterator[Any]:
            for batch in super().__iter__():
                self.taken += 1
                yield batch

    loader = Counted()
    made = trainer(tmp_path, max_epochs=2, limit_train_batches=2)
    made.fit(Bare(), loader)
    assert made.engine.state.iteration == 4 and loader.taken == 4


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda x, y: {"x": x, "y": y}, lambda batch: (batch["x"], batch["y"])),
        (lambda x, y: [x, {"deep": (y,)}], lambda batch: (batch[0], batch[1]["deep"][0])),
        (lambda x, y: Custom(x, y), lambda batch: (batch.x, batch.y)),
    ],
)
def test_batches_of_any_shape(wrap: Any, unwrap: Any, tmp_path: Path) -> None:
    class Unwraps(Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(unwrap(batch), batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(unwrap(batch), batch_idx)

    made, model, plain = trainer(tmp_path, max_epochs=1), Unwraps(), Tiny()
    model.net[1].p = plain.net[1].p = 0.0
    made.fit(model, [wrap(x, y) for x, y in data()], [[wrap(x, y) for x, y in data(2)]])
    other = trainer(tmp_path, max_epochs=1)
    other.fit(plain, data(), data(2))
    assert torch.equal(weights(model), weights(plain))
    assert torch.equal(made.callback_metrics["val_score"], other.callback_metrics["val_score"])


class Custom:
    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y


def test_several_validation_loaders_are_told_apart(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Two(Tiny):
        def validation_step(  # type: ignore[override]
            self, batch: Any, batch_idx: int, dataloader_idx: int
        ) -> None:
            seen.append((dataloader_idx, batch_idx))
            self.log("v", float(dataloader_idx))

    made = trainer(tmp_path, max_epochs=1)
    made.fit(Two(), data(), [data(2), Generated(1), data(3)])
    assert seen == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert made.num_val_batches == [2, float("inf"), 3]
    assert {name: float(made.callback_metrics[name]) for name in made.callback_metrics} == {
        **{f"v/dataloader_idx_{n}": float(n) for n in range(3)},
        **{"loss": pytest.approx(float(made.callback_metrics["loss"]))},
        **{k: float(v) for k, v in made.callback_metrics.items() if k.startswith("loss_")},
    }


def test_a_data_module_brings_the_loaders(tmp_path: Path) -> None:
    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return data()

        def val_dataloader(self) -> Any:
            return data(2)

    by_module, by_loader = Tiny(), Tiny()
    torch.manual_seed(0)
    trainer(tmp_path, max_epochs=1).fit(by_module, datamodule=Data())
    torch.manual_seed(0)
    trainer(tmp_path, max_epochs=1).fit(by_loader, data(), data(2))
    assert torch.equal(weights(by_module), weights(by_loader))


@pytest.mark.parametrize("empty", [lambda: [], lambda: data(0)])
def test_a_loader_of_no_batches_is_refused(empty: Any, tmp_path: Path) -> None:
    made, model = trainer(tmp_path, max_epochs=2), Tiny()
    with pytest.raises(ValueError, match="the training loader has no batches, its length is 0"):
        made.fit(model, empty(), data(2))
    made.fit(model, data(), data(2))
    assert made.global_step == 2 * BATCHES
    for empties in (data(0), [data(0)], [data(1), data(0)]):
        with pytest.raises(ValueError, match="a loader of val_dataloader has no batches"):
            trainer(tmp_path, max_epochs=1).fit(Tiny(), data(), empties)
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(Tiny(), data(), data(0))


def test_a_share_that_leaves_no_batch_warns_and_trains_nothing(tmp_path: Path) -> None:
    made, model = trainer(tmp_path, max_epochs=2, limit_train_batches=0.1), Bare()
    before = weights(model)
    with pytest.warns(UserWarning, match="limit_train_batches=0.1 leaves no batch"):
        made.fit(model, data())
    assert made.global_step == 0 and torch.equal(weights(model), before)


def test_the_length_of_a_stream_is_warned_of(tmp_path: Path) -> None:
    class Counted(Stream):
        def __len__(self) -> int:
            return 4 * BATCHES

    loader = DataLoader(Counted(), batch_size=4)
    with pytest.warns(UserWarning, match="Your `IterableDataset` has `__len__` defined"):
        trainer(tmp_path, max_epochs=1).fit(Bare(), loader)


@pytest.mark.parametrize("limit", ["val_check_interval", "limit_train_batches"])
def test_a_share_of_a_stream_is_refused(limit: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=1, **{limit: 0.5})
    with pytest.raises(MisconfigurationException, match="when using an IterableDataset"):
        made.fit(Tiny(), DataLoader(Stream(), batch_size=4), data(1))


def test_a_loader_of_unknown_length_that_is_empty_is_an_error(tmp_path: Path) -> None:
    made, model = trainer(tmp_path, max_epochs=2), Bare()
    with pytest.raises(MisconfigurationException, match="gave no batch in epoch 0"):
        made.fit(model, Generated(0))
    assert made.fit(model, data()) == 1 and made.global_step


@pytest.mark.parametrize(
    ("model", "loaders", "message"),
    [
        (lambda: Bare(), (), "no training data: pass train_dataloader="),
        (lambda: torch.nn.Linear(1, 1), (data(),), "is a Linear, not a LightningModule"),
        (lambda: LightningModule(), (data(),), r"has no training_step\(\)"),
        (lambda: Bare(), (3,), "int"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(
    model: Any, loaders: tuple[Any, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises((MisconfigurationException, TypeError), match=message):
        trainer(tmp_path, max_epochs=1).fit(model(), *loaders)


def test_a_step_without_a_loader_and_a_loader_without_a_step_warn(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no validation loader"):
        trainer(tmp_path, max_epochs=1).fit(Tiny(), data())
    with pytest.warns(UserWarning, match="no validation_step"):
        trainer(tmp_path, max_epochs=1).fit(Bare(), data(), data(2))


def test_a_loader_that_fails_in_mid_epoch_is_the_error_that_arrives(tmp_path: Path) -> None:
    class Breaks(Generated):
        def __iter__(self) -> Iterator[Any]:
            for index, batch in enumerate(super().__iter__()):
                if index == 2:
                    raise OSError("disk gone")
                yield batch

    made = trainer(tmp_path, max_epochs=2)
    with pytest.raises(OSError, match="disk gone"):
        made.fit(Bare(), Breaks())
    assert made.optimizer_steps == 2
    assert made.fit(Bare(), data()) == 1


@pytest.mark.parametrize("form", [dict, list])
def test_several_training_loaders_are_refused(tmp_path: Path, form: type) -> None:
    loaders = {"a": data(), "b": data()} if form is dict else [data(), data()]
    with pytest.raises(MisconfigurationException, match=f"a {form.__name__} of loaders.*pass one"):
        trainer(tmp_path, max_epochs=1).fit(Bare(), loaders)

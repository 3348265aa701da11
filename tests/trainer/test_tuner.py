"""tune(): what it searches, where it writes the result, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden.exceptions import MisconfigurationException
from leyden.handlers.lr_curve import LRCurve
from tests.trainer.tiny import Bare, data, trainer, weights
from tests.trainer.tuning_cases import rows


@pytest.fixture(autouse=True)
def uncollected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is collected between the sizes: that takes most of the time of small searches."""
    monkeypatch.setattr("leyden.handlers.batch_size_scaler.gc.collect", lambda: 0)


class Rated(Bare):
    """Uses ``self.lr``."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Sized(Bare):
    """Uses ``self.batch_size``; above ``limit`` memory runs out."""

    def __init__(self, limit: int = 20, count: int = 200) -> None:
        super().__init__()
        self.batch_size = 2
        self.limit = limit
        self.count = count

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(batch[0]) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().training_step(batch, batch_idx)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(rows(self.count), batch_size=self.batch_size)


# ---------------------------------------------------------------- tune


@pytest.mark.slow
def test_tune_searches_the_size_first_and_returns_what_it_found(tmp_path: Path) -> None:
    order = []

    class Both(Sized):
        lr = 0.01

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            order.append(self.batch_size)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    module = Both()
    on = trainer(tmp_path, auto_lr_find=True, auto_scale_batch_size="binsearch", max_epochs=5)
    before = weights(module)
    found = on.tune(module)
    assert list(found) == ["scale_batch_size", "lr_find"]
    assert found["scale_batch_size"] == module.batch_size == 20
    assert found["lr_find"].suggestion() == module.lr != 0.01
    assert order[0] == 2 and set(order[-50:]) == {20}
    assert torch.equal(weights(module), before) and on.global_step == 0
    assert not list(tmp_path.iterdir())
    on.fit(module)
    assert on.optimizers[0].param_groups[0]["lr"] == module.lr and on.global_step == 50


def test_fit_never_tunes_by_itself(tmp_path: Path) -> None:
    module = Rated()
    trainer(tmp_path, auto_lr_find=True, max_epochs=1).fit(module, data())
    assert module.lr == 0.01


def test_with_nothing_switched_on_it_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"tune\(\) has nothing to do"):
        assert trainer(tmp_path).tune(Rated(), data()) == {}


@pytest.mark.filterwarnings("ignore:(Skipping .*)?fast_dev_run")
def test_fast_dev_run_skips_the_searches_and_says_so(tmp_path: Path) -> None:
    module = Rated()
    on = trainer(tmp_path, fast_dev_run=True, auto_lr_find=True)
    with pytest.warns(UserWarning, match="Skipping learning rate finder since fast_dev_run"):
        assert on.tune(module, data()) == {}
    with pytest.warns(UserWarning, match="Skipping learning rate finder since fast_dev_run"):
        assert on.tuner.lr_find(module, data()) is None
    with pytest.warns(UserWarning, match="Skipping batch size scaler since fast_dev_run"):
        assert on.tuner.scale_batch_size(Sized()) is None
    assert module.lr == 0.01 and on.model is None
    with pytest.raises(MisconfigurationException, match="should have one of these fields"):
        on.tune(Bare(), data())


def test_a_data_module_in_the_place_of_the_loader(tmp_path: Path) -> None:
    module = leyden.LightningDataModule.from_datasets(rows(), batch_size=4)
    on = trainer(tmp_path, auto_lr_find=True)
    rated = Rated()
    assert set(on.tune(rated, module)) == {"lr_find"} and rated.lr != 0.01


def test_a_data_module_and_loaders_contradict_each_other(tmp_path: Path) -> None:
    module = leyden.LightningDataModule.from_datasets(rows())
    with pytest.raises(MisconfigurationException, match="both given"):
        trainer(tmp_path).tune(Rated(), data(), datamodule=module)


def test_tuning_during_a_run_is_refused(tmp_path: Path) -> None:
    class Nested(Rated):
        def on_train_start(self) -> None:
            self.trainer.tuner.lr_find(self)

    with pytest.raises(MisconfigurationException, match="tuning was asked for during fit"):
        trainer(tmp_path, max_epochs=1).fit(Nested(), data())


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    linear: Any = torch.nn.Linear(1, 1)
    for search in (trainer(tmp_path).tuner.lr_find, trainer(tmp_path).tuner.scale_batch_size):
        with pytest.raises(MisconfigurationException, match="not a LightningModule"):
            search(linear)


# ---------------------------------------------------------------- the learning rate


@pytest.mark.slow
def test_where_the_rate_is_written(tmp_path: Path) -> None:
    class Hparams(Bare):
        def __init__(self, **values: Any) -> None:
            super().__init__()
            self.save_hyperparameters(values)

    for flag, module, read in [
        (True, Rated(), lambda m: m.lr),
        ("trainer_rate", Rated(), lambda m: m.trainer_rate),
        (True, Hparams(learning_rate=0.01), lambda m: m.hparams.learning_rate),
        ("hparams.optim.rate", Hparams(optim={"rate": 0.01}), lambda m: m.hparams.optim["rate"]),
    ]:
        if flag == "trainer_rate":
            module.trainer_rate = 0.01  # type: ignore[assignment]
        found = trainer(tmp_path, auto_lr_find=flag).tune(module, data())
        assert read(module) == found["lr_find"].suggestion() != 0.01


def test_a_rate_on_the_module_and_in_its_hparams_is_written_to_both(tmp_path: Path) -> None:
    class Doubled(Rated):
        def __init__(self, lr: float = 0.01) -> None:
            super().__init__(lr)
            self.save_hyperparameters()

    module = Doubled()
    trainer(tmp_path, auto_lr_find=True).tune(module, data())
    assert module.lr == module.hparams.lr != 0.01
    assert module.hparams_initial["lr"] == 0.01


@pytest.mark.parametrize("flag", [True, "nope", "hparams.nope", "nope.lr", "hparams.lr.deeper"])
def test_without_an_attribute_nothing_is_searched(flag: Any, tmp_path: Path) -> None:
    class Untouched(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            raise AssertionError("the search began")

    with pytest.raises(MisconfigurationException, match="has no attribute to write to"):
        trainer(tmp_path, auto_lr_find=flag).tune(Untouched(), data())


def test_a_property_without_a_setter_is_refused_before_the_search(tmp_path: Path) -> None:
    class Fixed(Bare):
        @property
        def lr(self) -> float:
            return 0.1

    with pytest.raises(MisconfigurationException, match=r"Fixed\.lr is a property"):
        trainer(tmp_path, auto_lr_find=True).tune(Fixed(), data())


def test_a_search_too_short_for_a_suggestion_leaves_the_attribute(tmp_path: Path) -> None:
    module = Rated()
    tuner = trainer(tmp_path, auto_lr_find=True).tuner
    with pytest.warns(UserWarning, match="no learning rate to suggest"):
        tuner.lr_find(module, data(), num_training=8, update_attr=True)
    assert module.lr == 0.01


def test_a_run_that_has_begun_goes_on_with_its_rate_and_it_says_so(tmp_path: Path) -> None:
    module, on = Rated(), trainer(tmp_path, auto_lr_find=True, max_epochs=1)
    on.fit(module, data())
    with pytest.warns(UserWarning, match="the training of this module has begun"):
        on.tune(module, data())
    assert on.optimizers[0].param_groups[0]["lr"] == 0.01 != module.lr


def test_the_number_of_epochs_does_not_cut_the_search(tmp_path: Path) -> None:
    curve = trainer(tmp_path, max_epochs=1).tuner.lr_find(Rated(), data(2), num_training=30)
    assert isinstance(curve, LRCurve) and len(curve.results["lr"]) == 30


@pytest.mark.parametrize("factor", [2, 3, {0: 1, 1: 2}])
def test_accumulated_batches_make_one_step(factor: Any, tmp_path: Path) -> None:
    on = trainer(tmp_path, accumulate_grad_batches=factor)
    curve = on.tuner.lr_find(Rated(), data(), num_training=9)
    assert curve is not None and len(curve.results["loss"]) == 9
    # 0-based, of the last batch that the search took.
    assert curve._total_batch_idx + 1 == (6 + 3 * 2 if isinstance(factor, dict) else 9 * factor)


def test_schedulers_rest_and_can_be_read(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Scheduled(Rated):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            assert self.trainer.lr_schedulers[0]["scheduler"].last_epoch == 0

    curve = trainer(tmp_path).tuner.lr_find(Scheduled(), data(), num_training=12)
    assert curve is not None and seen == curve.results["lr"]


def test_hand_made_optimization_is_searched_too(tmp_path: Path) -> None:
    class Manual(Rated):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            optimizer = self.optimizers()
            loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    curve = trainer(tmp_path).tuner.lr_find(Manual(), data(), num_training=12)
    assert curve is not None and len(curve.results["loss"]) == 12


class Two(Bare):
    def training_step(  # type: ignore[override]
        self, batch: Any, batch_idx: int, optimizer_idx: int
    ) -> torch.Tensor:
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[3])]


def test_several_optimizers_by_index(tmp_path: Path) -> None:
    tuner = trainer(tmp_path).tuner
    with pytest.raises(MisconfigurationException, match="pass optimizer_idx"):
        tuner.lr_find(Two(), data())
    for index in (0, 1, [0, 1]):
        curve = tuner.lr_find(Two(), data(), num_training=12, optimizer_idx=index)
        assert curve is not None and len(curve.results["loss"]) == 12


def test_a_loss_that_is_nan_from_the_first_step(tmp_path: Path) -> None:
    class Broken(Rated):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * math.nan

    module = Broken()
    before = weights(module)
    with pytest.raises(MisconfigurationException, match="the loss is nan at the first step"):
        trainer(tmp_path, auto_lr_find=True, terminate_on_nan=True).tune(module, data())
    assert torch.equal(weights(module), before) and module.lr == 0.01


@pytest.mark.parametrize(
    "arguments", [dict(min_lr=1), dict(num_training=0), dict(mode="power"), dict(max_lr=math.nan)]
)
def test_bad_arguments_are_refused_before_anything_runs(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    class Untouched(Rated):
        def prepare_data(self) -> None:
            raise AssertionError("something ran")

    with pytest.raises(MisconfigurationException):
        trainer(tmp_path).tuner.lr_find(Untouched(), data(), **arguments)


def test_the_bar_is_shown_where_bars_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on = trainer(tmp_path, progress_bar_refresh_rate=1, auto_lr_find=True)
    module = Rated()
    on.tune(module, data())
    text = capsys.readouterr().out
    assert "Search for the learning rate: 100% 100/100" in text
    assert f"lr: 0.01 -> {module.lr:.4g}" in text
    trainer(tmp_path, auto_lr_find=True).tune(Rated(), data())
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- the batch size


def test_where_the_size_is_written(tmp_path: Path) -> None:
    class Data(leyden.LightningDataModule):
        size = 2

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(rows(100), batch_size=self.size)

    class Limited(Sized):
        train_dataloader = Bare.train_dataloader

    brings, module = Data(), Limited(limit=40)
    tuner = trainer(tmp_path).tuner
    assert tuner.scale_batch_size(module, datamodule=brings, batch_arg_name="size") == 32
    assert brings.size == 32 and not hasattr(module, "size") and module.batch_size == 2


def test_the_size_is_bounded_by_the_samples(tmp_path: Path) -> None:
    module = Sized(limit=10**6, count=30)
    assert trainer(tmp_path).tuner.scale_batch_size(module) == 30


def test_a_loader_with_a_bound_of_its_own(tmp_path: Path) -> None:
    class Bounded(Sized):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(rows(self.count), batch_size=min(self.batch_size, 12))

    assert trainer(tmp_path).tuner.scale_batch_size(Bounded(limit=99)) == 12


def test_a_loader_that_does_not_use_the_attribute(tmp_path: Path) -> None:
    class Deaf(Sized):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(rows(self.count), batch_size=3)

    module = Deaf()
    with pytest.raises(MisconfigurationException, match="batches of 3 both with batch_size=2"):
        trainer(tmp_path).tuner.scale_batch_size(module)
    assert module.batch_size == 2


def test_a_first_size_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    module = Sized(limit=5)
    before = weights(module)
    with pytest.raises(MisconfigurationException, match=r"a batch of 8 \(init_val=8\)"):
        trainer(tmp_path).tuner.scale_batch_size(module, init_val=8)
    assert module.batch_size == 2 and torch.equal(weights(module), before)


def test_the_margin_and_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on = trainer(tmp_path, progress_bar_refresh_rate=1)
    assert on.tuner.scale_batch_size(Sized(), margin=0.25) == 12
    assert capsys.readouterr().out == (
        "batch_size: 2 -> 12 (16 fits, 32 does not, a margin of 25% is taken off)\n"
    )


def test_loaders_that_are_passed_are_refused(tmp_path: Path) -> None:
    on = trainer(tmp_path, auto_scale_batch_size=True)
    with pytest.raises(MisconfigurationException, match=r"define\s+train_dataloader\(\) on"):
        on.tune(Sized(), data())
    with pytest.raises(MisconfigurationException, match=r"define\s+train_dataloader\(\) on"):
        on.tuner.scale_batch_size(Sized(), train_dataloader=data())


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (dict(mode="sideways"), ValueError, "mode='sideways' is unknown"),
        (dict(batch_arg_name="size"), MisconfigurationException, "'size'"),
        (dict(steps_per_trial=0), ValueError, "steps_per_trial=0 is below 1"),
        (dict(steps_per_trial=1.5), TypeError, "steps_per_trial=1.5 is no count"),
        (dict(train_loader=1), TypeError, "unexpected keyword argument 'train_loader'"),
        (dict(init_val=0), ValueError, "init_val=0"),
    ],
)
def test_bad_arguments_of_the_size(
    arguments: dict[str, Any], kind: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        trainer(tmp_path).tuner.scale_batch_size(Sized(), **arguments)


# ---------------------------------------------------------------- the plan


def test_the_plan_shows_the_searches(tmp_path: Path) -> None:
    on = trainer(
        tmp_path,
        auto_lr_find="hparams.rate",
        auto_scale_batch_size=True,
        gradient_clip_val=0.5,
        callbacks=[leyden.callbacks.EarlyStopping("val_score")],
    )
    plan = on.tuner.plan()
    text = str(plan)
    assert {line.engine for line in plan.lines} >= {
        "each size of the batch",
        "search for the learning rate",
    }
    handlers = {
        line.handler for line in plan.lines if line.engine == "search for the learning rate"
    }
    assert {"LRFinder.set_rate", "LRFinder.record", "GradientClipping.clip"} <= handlers
    assert "EarlyStopping" not in text and "writes hparams.rate" in text
    assert text.index("each size of the batch") < text.index("search for the learning rate")
    assert on.model is None and "LRFinder" not in str(on.plan())
    assert "both off" in str(trainer(tmp_path).tuner.plan())


def test_during_a_search_the_trainer_shows_its_plan(tmp_path: Path) -> None:
    shown: list[str] = []

    class Looking(Rated):
        def on_train_start(self) -> None:
            shown.append(str(self.trainer.plan()))
            assert self.trainer.max_steps == 12 and self.trainer.training

    on = trainer(tmp_path)
    on.tuner.lr_find(Looking(), data(), num_training=12)
    assert "LRFinder.set_rate" in shown[0] and "LRFinder" not in str(on.plan())
    assert on.tuner is on.tuner


# ---------------------------------------------------------------- on real data


@pytest.mark.slow
def test_the_rate_that_is_found_learns_the_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is missing")
    from sklearn.datasets import load_digits

    class Digits(leyden.LightningModule):
        def __init__(self, lr: float = 1e-7) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(
                torch.nn.Unflatten(1, (1, 8, 8)),
                torch.nn.Conv2d(1, 32, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(2),
                torch.nn.Conv2d(32, 64, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.Flatten(),
                torch.nn.Dropout(0.2),
                torch.nn.Linear(64 * 4 * 4, 10),
            )

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)

    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    loader = DataLoader(torch.utils.data.TensorDataset(x[train], y[train]), 16, shuffle=True)
    found = []
    for seed in (0, 1, 2):
        leyden.seed_everything(seed)
        module = Digits()
        on = trainer(tmp_path, max_epochs=3, auto_lr_find=True)
        on.tuner.lr_find(module, loader, max_lr=0.1, num_training=300, update_attr=True)
        on.fit(module, loader)
        module.eval()
        right = (module.net(x[test]).argmax(1) == y[test]).float().mean().item()
        found.append((module.hparams.lr, right))
    assert all(right > 0.95 for _, right in found), found

"""``trainer.dev_debugger``: histories of a run under ``PL_DEV_DEBUG=1``, and nothing without it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.handlers.metrics import MetricRecorder

HISTORIES = [
    "events",
    "logged_metrics",
    "pbar_added_metrics",
    "saved_train_losses",
    "saved_val_losses",
    "saved_test_losses",
    "saved_lr_scheduler_updates",
    "early_stopping_history",
    "checkpoint_callback_history",
    "dataloader_sequence_calls",
    "train_dataloader_calls",
    "val_dataloader_calls",
    "test_dataloader_calls",
]


class Model(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def loss(self, batch: Any) -> torch.Tensor:
        return torch.as_tensor(self.layer(batch)).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("fit", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("val", loss)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.25)
        schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5) for _ in range(2)]
        return [optimizer], [{"scheduler": schedulers[0], "interval": "step"}, schedulers[1]]

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(16, 4), batch_size=4)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return [
            DataLoader(torch.ones(8, 4), batch_size=size)  # type: ignore[arg-type]
            for size in (2, 4)
        ]

    def test_dataloader(self) -> Any:
        return DataLoader(torch.ones(8, 4), batch_size=4)  # type: ignore[arg-type]


def trainer(tmp_path: Path, **kwargs: Any) -> Any:
    return leyden.Trainer(
        default_root_dir=tmp_path,
        progress_bar_refresh_rate=0,
        weights_summary=None,
        **{"max_epochs": 1, "num_sanity_val_steps": 1, "log_every_n_steps": 1, **kwargs},
    )


@pytest.fixture
def debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_DEV_DEBUG", "1")


def test_without_the_variable_nothing_is_attached_and_the_histories_are_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PL_DEV_DEBUG", raising=False)
    made = trainer(tmp_path, callbacks=[EarlyStopping("fit")])
    made.fit(Model())
    made.dev_debugger.track_checkpointing_history("x")
    made.dev_debugger.track_train_loss_history(0, torch.tensor(1.0))
    assert not made.dev_debugger.enabled and made.dev_debugger is made.dev_debugger
    assert all(getattr(made.dev_debugger, name) == [] for name in HISTORIES)
    assert "DebugHistories" not in made.handlers and type(made._run.recorder) is MetricRecorder
    assert "debug_epoch" not in made.callback_metrics


@pytest.mark.usefixtures("debugging")
def test_rows_of_the_logger_and_of_the_bar(tmp_path: Path) -> None:
    made = trainer(tmp_path, accumulate_grad_batches=2, checkpoint_callback=False)
    made.fit(Model())
    found = made.dev_debugger
    rows = [row for row in found.logged_metrics if "fit_step" in row or "fit_epoch" in row]
    assert [(row["global_step"], row["epoch"]) for row in rows] == [(0, 0), (1, 0), (1, 0)]
    assert isinstance(rows[0]["fit_step"], float) and "fit_epoch" in rows[2]
    assert made.callback_metrics["debug_epoch"] == 0
    assert "debug_epoch" not in made.progress_bar_metrics
    bar = [entry for entry in found.pbar_added_metrics if entry and set(entry) != {"debug_epoch"}]
    assert [set(entry) for entry in bar] == [
        {"fit_step"},
        {"fit_step"},
        {"fit_epoch", "debug_epoch"},
    ]


@pytest.mark.usefixtures("debugging")
def test_losses_and_what_evaluation_steps_gave(tmp_path: Path) -> None:
    made = trainer(tmp_path, accumulate_grad_batches=2, limit_val_batches=2)
    model = Model()
    made.fit(model)
    found = made.dev_debugger
    # Each loss is its share of the group's, and only those that complete a step are kept.
    assert [(e["batch_idx"], e["epoch"]) for e in found.saved_train_losses] == [(1, 0), (3, 0)]
    assert not found.saved_train_losses[0]["loss"].requires_grad
    assert found.count_events("backward_call") == 4 == found.count_events("backward")
    assert found.count_events("backward", strict=True) == 0
    assert found.num_seen_sanity_check_batches == 2
    assert found.num_seen_val_check_batches == {0: 2, 1: 2}
    last = found.saved_val_losses[-1]
    assert last["output"].equal(model.loss(torch.ones(4, 4))) and last["epoch"] == 0
    assert made.test(model, verbose=False)[0].keys() == {"test", "debug_epoch"}
    assert found.num_seen_test_check_batches == {0: 2}
    assert [entry["output"] for entry in found.saved_test_losses] == [None, None]


@pytest.mark.usefixtures("debugging")
def test_backward_passes_by_hand_are_counted(tmp_path: Path) -> None:
    class Manual(Model):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            for _ in range(2):
                self.manual_backward(self.loss(batch), optimizer)
                optimizer.step()

    made = trainer(tmp_path, limit_train_batches=3)
    made.fit(Manual())
    assert made.dev_debugger.count_events("backward_call") == 6
    assert made.dev_debugger.saved_train_losses == []


@pytest.mark.usefixtures("debugging")
def test_steps_of_schedulers(tmp_path: Path) -> None:
    made = trainer(tmp_path, limit_train_batches=2)
    made.fit(Model())
    found = [
        (e["interval"], e["scheduler_idx"], e["batch_idx"], e["old_lr"], e["new_lr"])
        for e in made.dev_debugger.saved_lr_scheduler_updates
    ]
    assert found == [
        ("step", 0, 0, 0.25, 0.125),
        ("epoch", 1, 1, 0.125, 0.0625),
        ("step", 0, 1, 0.0625, 0.03125),
    ] or found == [
        ("step", 0, 0, 0.25, 0.125),
        ("step", 0, 1, 0.125, 0.0625),
        ("epoch", 1, 1, 0.0625, 0.03125),
    ]
    assert made.dev_debugger.saved_lr_scheduler_updates[0]["monitor_key"] is None


@pytest.mark.usefixtures("debugging")
def test_a_watched_metric_is_told_with_the_step_of_its_scheduler(tmp_path: Path) -> None:
    class Plateau(Model):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.0)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "fit_epoch"}

    made = trainer(tmp_path, max_epochs=2)
    made.fit(Plateau())
    updates = made.dev_debugger.saved_lr_scheduler_updates
    assert [entry["monitor_key"] for entry in updates] == ["fit_epoch", "fit_epoch"]


@pytest.mark.usefixtures("debugging")
def test_checks_and_files_of_callbacks(tmp_path: Path) -> None:
    stopping = EarlyStopping("fit_epoch", patience=5)
    saver = ModelCheckpoint(dirpath=tmp_path, monitor="fit_epoch")
    made = trainer(tmp_path, max_epochs=2, callbacks=[stopping, saver])
    made.fit(Model())
    checks = made.dev_debugger.early_stopping_history
    assert [(e["epoch"], e["patience"]) for e in checks] == [(0, 0), (1, 0)]
    assert checks[0]["best"] == float("inf") and checks[1]["best"] == checks[0]["current"]
    files = made.dev_debugger.checkpoint_callback_history
    assert [entry["epoch"] for entry in files] == [0, 1]
    assert files[-1]["filepath"] == saver.best_model_path and files[0]["monitor"] == "fit_epoch"


@pytest.mark.usefixtures("debugging")
def test_loaders_that_are_asked_for(tmp_path: Path) -> None:
    made = trainer(tmp_path, max_epochs=2, reload_dataloaders_every_epoch=True)
    model = Model()
    made.fit(model)
    made.test(model, verbose=False)
    found = made.dev_debugger
    assert [(e["num_loaders"], e["lengths"]) for e in found.train_dataloader_calls] == [
        (1, [4]),
        (1, [4]),
    ]
    assert {(e["num_loaders"], *e["lengths"]) for e in found.val_dataloader_calls} == {(2, 4, 2)}
    assert [e["name"] for e in found.test_dataloader_calls] == ["test_dataloader"]
    sequence = [entry["name"] for entry in found.dataloader_sequence_calls]
    assert sequence[:2] == ["val_dataloader", "train_dataloader"]


@pytest.mark.usefixtures("debugging")
def test_watching_leaves_the_weights_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> torch.Tensor:
        leyden.seed_everything(1)
        model = Model()
        trainer(tmp_path, max_epochs=2).fit(model)
        return model.layer.weight.detach()

    watched = trained()
    monkeypatch.delenv("PL_DEV_DEBUG")
    assert watched.equal(trained())


@pytest.mark.usefixtures("debugging")
def test_the_dicts_that_steps_return_are_told_to_the_bar(tmp_path: Path) -> None:
    class Returns(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self.loss(batch), "progress_bar": {"mine": 3.0}}

    made = trainer(tmp_path, limit_train_batches=1, limit_val_batches=0)
    with pytest.warns(DeprecationWarning, match="progress_bar"):
        made.fit(Returns())
    bar = made.dev_debugger.pbar_added_metrics
    assert [entry for entry in bar if "mine" in entry] == [{"mine": 3.0, "debug_epoch": 0}]

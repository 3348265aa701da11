"""Arguments of a Trainer that exists: read back, changed between runs and in one, refused."""

import inspect
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.config import CHECKS
from leyden.exceptions import MisconfigurationException
from leyden.settings import ANY_TIME, FIXED
from tests.trainer.tiny import QUIET, Bare, data, trainer, weights

# A value other than the default of every argument that may be changed, and how it reads back.
CHANGED: dict[str, Any] = {
    "accumulate_grad_batches": 3,
    "automatic_optimization": True,
    "auto_lr_find": "rate",
    "auto_scale_batch_size": "power",
    "benchmark": True,
    "check_val_every_n_epoch": 2,
    "deterministic": "warn",
    "flush_logs_every_n_steps": 7,
    "gradient_clip_algorithm": "value",
    "gradient_clip_val": 0.5,
    "limit_predict_batches": 2,
    "limit_test_batches": 0.5,
    "limit_train_batches": 2,
    "limit_val_batches": 0,
    "log_every_n_steps": 3,
    "max_epochs": 7,
    "max_steps": 9,
    "min_epochs": 2,
    "min_steps": 4,
    "move_metrics_to_cpu": True,
    "num_sanity_val_steps": 1,
    "prepare_data_per_node": False,
    "process_position": 1,
    "progress_bar_refresh_rate": 5,
    "reload_dataloaders_every_epoch": True,
    "replace_sampler_ddp": False,
    "resume_from_checkpoint": "some.ckpt",
    "sync_batchnorm": True,
    "terminate_on_nan": True,
    "track_grad_norm": 2.0,
    "truncated_bptt_steps": 2,
    "val_check_interval": 2,
    "weights_save_path": "/tmp/weights",
    "weights_summary": "full",
}
OBJECTS = {"callbacks", "logger", "profiler"}


def test_every_argument_is_either_changed_here_or_refused() -> None:
    assert set(CHANGED) | OBJECTS | set(FIXED) == set(CHECKS)
    assert set(CHANGED).isdisjoint(FIXED)
    assert set(CHECKS) >= ANY_TIME


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_a_change_reads_back(name: str) -> None:
    made = leyden.Trainer(**QUIET)
    setattr(made, name, CHANGED[name])
    value = getattr(made, name)
    assert value == CHANGED[name]
    assert type(value) is type(CHANGED[name])


@pytest.mark.parametrize("name", sorted(FIXED))
def test_what_is_fixed_says_why(name: str) -> None:
    made = leyden.Trainer(**QUIET)
    before = getattr(made, name)
    with pytest.raises(MisconfigurationException, match=rf"trainer\.{name} cannot be set") as seen:
        setattr(made, name, 7)
    assert FIXED[name] in str(seen.value)
    assert getattr(made, name) == before
    if before is None or isinstance(before, (bool, int, str)):
        setattr(made, name, getattr(made._settings, name))  # what it is: nothing to refuse


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", "many"),
        ("limit_train_batches", 1.5),
        ("gradient_clip_val", -1.0),
        ("accumulate_grad_batches", {0: "a"}),
        ("val_check_interval", 0),
        ("track_grad_norm", "two"),
        ("auto_lr_find", 3),
        ("min_epochs", 5000),
    ],
)
def test_a_bad_change_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    made = leyden.Trainer(**QUIET)
    before, handlers = getattr(made, name), made.handlers.names()
    with pytest.raises(MisconfigurationException, match=name):
        setattr(made, name, value)
    assert getattr(made, name) == before
    assert made.handlers.names() == handlers


@pytest.mark.parametrize(
    ("name", "on", "off", "handler"),
    [
        ("gradient_clip_val", 0.5, 0, "GradientClipping"),
        ("accumulate_grad_batches", 2, 1, "GradientAccumulation"),
        ("track_grad_norm", 2, -1, "GradientNorm"),
        ("terminate_on_nan", True, False, "NanTermination"),
        ("reload_dataloaders_every_epoch", True, False, "LoaderReload"),
        ("weights_summary", "top", None, "SummaryPrinter"),
        ("benchmark", True, False, "TorchFlags"),
        ("limit_val_batches", 3, 0, "Validation"),
        ("progress_bar_refresh_rate", 2, 0, "ProgressBar"),
    ],
)
def test_a_change_makes_and_removes_the_handler(name: str, on: Any, off: Any, handler: str) -> None:
    made = leyden.Trainer(**QUIET)
    setattr(made, name, on)
    assert handler in made.handlers
    assert made.handlers[handler].origin.startswith(f"{name}=")
    setattr(made, name, off)
    assert handler not in made.handlers


def test_a_change_between_runs_trains_as_if_it_had_been_given() -> None:
    def run(changed: bool) -> Any:
        given: dict[str, Any] = dict(max_epochs=2, gradient_clip_val=0.1, limit_train_batches=3)
        made = trainer(**({} if changed else given))
        if changed:
            for name, value in given.items():
                setattr(made, name, value)
        module = Bare()
        made.fit(module, data())
        return weights(module), made.global_step

    (changed, steps), (given, given_steps) = run(True), run(False)
    assert steps == given_steps == 6
    assert changed.equal(given)


def test_more_epochs_continue_the_run() -> None:
    made, module = trainer(max_epochs=1), Bare()
    made.fit(module, data())
    made.max_epochs = 3
    made.fit(module, data())
    assert made.global_step == 18


class Changing(leyden.Callback):
    """Sets one argument at the start of epoch 1."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self.name, self.value = name, value

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            setattr(trainer, self.name, self.value)


@pytest.mark.parametrize(
    ("name", "value", "steps"),
    [("max_epochs", 2, 12), ("max_steps", 8, 8), ("accumulate_grad_batches", 2, 12)],
)
def test_a_change_during_a_run(name: str, value: Any, steps: int) -> None:
    made = trainer(max_epochs=3, callbacks=[Changing(name, value)])
    made.fit(Bare(), data())
    assert made.global_step == steps
    assert getattr(made, name) == value


def test_what_waits_for_the_end_of_the_run_is_refused_in_it() -> None:
    made = trainer(max_epochs=2, callbacks=[Changing("limit_train_batches", 1)])
    with pytest.raises(MisconfigurationException, match="during a run") as seen:
        made.fit(Bare(), data())
    assert "max_epochs" in str(seen.value)
    made.limit_train_batches = 2
    assert made.limit_train_batches == 2


def test_a_stop_that_was_asked_for_survives_a_change() -> None:
    class Stops(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            trainer.should_stop = True
            trainer.max_steps = 50

    made = trainer(max_epochs=3, callbacks=[Stops()])
    made.fit(Bare(), data())
    assert made.global_step == 1


def test_during_fit_the_factor_in_force_is_read() -> None:
    seen = []

    class Reads(leyden.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append(trainer.accumulate_grad_batches)

    made = trainer(max_epochs=3, accumulate_grad_batches={1: 2}, callbacks=[Reads()])
    assert made.accumulate_grad_batches == {0: 1, 1: 2}
    made.fit(Bare(), data())
    assert seen == [1, 2, 2]
    assert made.accumulate_grad_batches == {0: 1, 1: 2}


def test_a_checkpoint_is_resumed_once(tmp_path: Path) -> None:
    first, module = trainer(tmp_path, max_epochs=2), Bare()
    first.fit(module, data())
    first.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer(tmp_path, max_epochs=3, resume_from_checkpoint=tmp_path / "a.ckpt")
    again.fit(module, data())
    assert again.global_step == 18
    again.max_epochs = 4
    again.fit(module, data())
    assert again.global_step == 24


def test_other_attributes_are_the_users_own() -> None:
    made: Any = leyden.Trainer(**QUIET)
    made.note = 3
    assert made.note == 3
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        made.other  # noqa: B018


def test_a_slip_of_the_pen_is_told() -> None:
    made: Any = leyden.Trainer(**QUIET)
    with pytest.warns(UserWarning, match=r"did you mean trainer\.max_epochs"):
        made.max_epoch = 5
    assert made.max_epochs == 1000


def test_the_schedule_of_accumulation_can_be_read() -> None:
    made = leyden.Trainer(**QUIET, accumulate_grad_batches=3)
    assert made.accumulation_scheduler.scheduling == {0: 3}
    assert made.accumulation_scheduler.going_to_accumulate_grad_batches()
    own = leyden.callbacks.GradientAccumulationScheduler({2: 4})
    assert leyden.Trainer(**QUIET, callbacks=[own]).accumulation_scheduler is own


def test_signatures_of_methods_are_those_of_lightning() -> None:
    assert list(inspect.signature(leyden.Trainer.fit).parameters) == [
        "self",
        "model",
        "train_dataloader",
        "val_dataloaders",
        "datamodule",
    ]
    assert str(inspect.signature(leyden.Trainer(**QUIET).test)) == (
        "(model: Any = None, test_dataloaders: Any = None, ckpt_path: Any = 'best', "
        "verbose: bool = True, datamodule: Any = None) -> Any"
    )


def test_a_module_of_its_own_begins_with_the_checkpoint_again(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_epochs=2)
    first.fit(Bare(), data())
    first.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer(tmp_path, max_epochs=3, resume_from_checkpoint=tmp_path / "a.ckpt")
    for _ in range(2):
        again.fit(Bare(), data())
        assert again.global_step == 18


def test_vars_lists_the_arguments_as_they_are() -> None:
    # Programs of the time of 1.1 take from a configuration what vars(Trainer()) knows.
    made = leyden.Trainer(max_epochs=4, logger=False)
    assert vars(made)["max_epochs"] == 4 and {"gpus", "accelerator"} <= set(vars(made))
    made.max_epochs, made.limit_val_batches = 6, 3
    assert (vars(made)["max_epochs"], vars(made)["limit_val_batches"]) == (6, 3)
    assert made.limit_val_batches == 3

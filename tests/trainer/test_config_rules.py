"""What arguments of the Trainer do to one another: refusals, effects, and today's names."""

from typing import Any

import pytest

from leyden.config import ALIASES, Change, TrainerConfig
from tests.trainer.config_parts import (  # noqa: F401  # no_devices is for every test
    Logger,
    ModelCheckpoint,
    ProgressBarBase,
    no_devices,
    parse,
    refused,
)

COMBINATIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"min_epochs": 5, "max_epochs": 3}, "MisconfigurationException", "min_epochs=5"),
    ({"min_steps": 5, "max_steps": 3}, "MisconfigurationException", "min_steps=5"),
    (
        {"checkpoint_callback": False, "callbacks": [ModelCheckpoint()]},
        "MisconfigurationException",
        "ModelCheckpoint",
    ),
    (
        {"callbacks": [ProgressBarBase(), ProgressBarBase()]},
        "MisconfigurationException",
        "2 progress bars",
    ),
    ({"auto_select_gpus": True, "gpus": 0}, "MisconfigurationException", "selects none"),
    ({"auto_select_gpus": True, "gpus": 1}, "RuntimeError", "this machine has none"),
    ({"gpus": 1, "tpu_cores": 8}, "MisconfigurationException", "two kinds"),
    ({"precision": 16, "amp_backend": "wrong"}, "AssertionError", "'apex'"),
    ({"num_nodes": 2, "accelerator": "dp"}, "MisconfigurationException", "one node"),
    ({"num_nodes": 2, "accelerator": "ddp_cpu"}, "MisconfigurationException", "one node"),
    ({"accelerator": "horovod"}, "MisconfigurationException", "accelerator='ddp'"),
    ({"accelerator": "xla"}, "MisconfigurationException", "tpu_cores=8"),
    ({"accelerator": "ddp", "distributed_backend": "dp"}, "MisconfigurationException", "differ"),
]


@pytest.mark.parametrize(("kwargs", "kind", "part"), COMBINATIONS)
def test_combinations(kwargs: dict[str, Any], kind: str, part: str) -> None:
    error = refused(**kwargs)
    assert type(error).__name__ == kind and part in str(error)


def test_max_epochs_zero_is_no_conflict_with_the_default_floor() -> None:
    assert parse(max_epochs=0).max_epochs == 0


def test_fast_dev_run_says_what_it_changed() -> None:
    logger = Logger()
    config = parse(
        fast_dev_run=3,
        max_epochs=5,
        min_epochs=4,
        min_steps=10,
        check_val_every_n_epoch=3,
        logger=logger,
        val_check_interval=2,
        limit_val_batches=3,
    )
    assert config.fast_dev_batches == 3 and config.needs_dummy_logger
    because = "fast_dev_run=3"
    assert set(config.changes) == {
        Change("limit_train_batches", because, 1.0, 3),
        Change("limit_test_batches", because, 1.0, 3),
        Change("limit_predict_batches", because, 1.0, 3),
        Change("max_epochs", because, 5, 1),
        Change("min_epochs", because, 4, 1),
        Change("max_steps", because, None, 3),
        Change("min_steps", because, 10, 3),
        Change("num_sanity_val_steps", because, 2, 0),
        Change("val_check_interval", because, 2, 1.0),
        Change("check_val_every_n_epoch", because, 3, 1),
        Change("logger", because, logger, False),
        Change("checkpoint_callback", because, True, False),
    }
    for change in config.changes:
        assert getattr(config, change.argument) == change.new
    assert "max_epochs: 5 -> 1 (fast_dev_run=3)" in map(str, config.changes)
    assert parse(**config.arguments()) == config


def test_fast_dev_run_off_changes_nothing() -> None:
    assert parse(fast_dev_run=False).changes == () and parse(fast_dev_run=0).fast_dev_batches == 0


@pytest.mark.parametrize("value", [2, 0.5])
def test_overfit_batches_sets_the_limits(value: float) -> None:
    config = parse(overfit_batches=value, limit_val_batches=0)
    limits = (config.limit_train_batches, config.limit_val_batches, config.limit_test_batches)
    assert limits == (value, value, value)
    assert config.limit_predict_batches == 1.0
    assert [str(change) for change in config.changes] == [
        f"limit_train_batches: 1.0 -> {value} (overfit_batches={value})",
        f"limit_val_batches: 0 -> {value} (overfit_batches={value})",
        f"limit_test_batches: 1.0 -> {value} (overfit_batches={value})",
    ]


def test_one_and_one_point_zero_differ() -> None:
    assert parse(val_check_interval=1).val_check_meaning == "after every batch"
    assert parse(val_check_interval=4).val_check_meaning == "after every 4 batches"
    assert parse(val_check_interval=1.0).val_check_meaning == "at the end of each training epoch"
    assert (
        parse(val_check_interval=0.25).val_check_meaning == "after every 0.25 of a training epoch"
    )
    # 1 batch is a change against a share of 1.0, though the numbers are equal
    assert (
        parse(limit_val_batches=1.0, fast_dev_run=True).changes[1].argument == "limit_val_batches"
    )


def test_derived_values() -> None:
    assert parse(accumulate_grad_batches=4).accumulation_schedule == {0: 4}
    assert parse(accumulate_grad_batches={2: 4}).accumulation_schedule == {0: 1, 2: 4}
    assert parse(reload_dataloaders_every_epoch=True).reload_every_n_epochs == 1
    assert parse().reload_every_n_epochs == 0


ALIASED: list[tuple[dict[str, Any], str, Any]] = [
    ({"enable_checkpointing": False}, "checkpoint_callback", False),
    ({"enable_progress_bar": False}, "progress_bar_refresh_rate", 0),
    ({"enable_progress_bar": True}, "progress_bar_refresh_rate", 1),
    ({"enable_model_summary": False}, "weights_summary", None),
    ({"enable_model_summary": True}, "weights_summary", "top"),
    ({"reload_dataloaders_every_n_epochs": 0}, "reload_dataloaders_every_epoch", False),
    ({"reload_dataloaders_every_n_epochs": 1}, "reload_dataloaders_every_epoch", True),
    ({"reload_dataloaders_every_n_epochs": 3}, "reload_dataloaders_every_epoch", 3),
    ({"use_distributed_sampler": False}, "replace_sampler_ddp", False),
    ({"devices": 1}, "num_processes", 1),
    ({"devices": "1", "accelerator": "cpu"}, "num_processes", 1),
]


@pytest.mark.parametrize(("kwargs", "argument", "expected"), ALIASED)
def test_todays_names(kwargs: dict[str, Any], argument: str, expected: Any) -> None:
    config = parse(**kwargs)
    found = getattr(config, argument)
    assert (type(found), found) == (type(expected), expected)
    assert config.origin[argument] == next(iter(kwargs))
    both = refused(**kwargs, **{argument: getattr(TrainerConfig, argument)})
    assert argument in str(both) and "only one" in str(both)


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_none_under_todays_names_means_not_given(name: str) -> None:
    assert parse(**{name: None}) == parse() and parse(**{name: None}).given == {}


@pytest.mark.parametrize(
    ("kwargs", "part"),
    [
        ({"devices": 2, "accelerator": "gpu"}, "gpus=2 (from devices) asks for GPUs"),
        ({"devices": "0,1", "accelerator": "gpu"}, "gpus=[0, 1] (from devices) asks for GPUs"),
        ({"devices": 8, "accelerator": "tpu"}, "tpu_cores=8 (from devices)"),
        ({"accelerator": "tpu"}, "tpu_cores=8 (from accelerator)"),
        ({"strategy": "ddp", "accelerator": "dp"}, "differ"),
        ({"enable_progress_bar": "yes"}, "enable_progress_bar='yes'"),
        ({"enable_checkpointing": 3}, "enable_checkpointing=3"),
    ],
)
def test_todays_names_refused_by_the_name_used(kwargs: dict[str, Any], part: str) -> None:
    assert part in str(refused(**kwargs))


def test_strategy_and_devices_auto_are_the_default() -> None:
    assert parse(strategy="auto", devices="auto", accelerator="auto") == parse(accelerator="auto")

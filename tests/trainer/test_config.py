"""What TrainerConfig.parse accepts, refuses, normalises and changes."""

import dataclasses
import inspect
import math
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy
import pytest

from leyden.config import ALIASES, CHECKS, defaults, signature_parameters
from tests.trainer.config_parts import (  # noqa: F401  # no_devices is for every test
    Callback,
    Logger,
    ModelCheckpoint,
    Profiler,
    no_devices,
    parse,
    refused,
)

# The 1.1 signature with its defaults, in order.
SIGNATURE: dict[str, Any] = {
    "logger": True,
    "checkpoint_callback": True,
    "callbacks": None,
    "default_root_dir": None,
    "gradient_clip_val": 0,
    "process_position": 0,
    "num_nodes": 1,
    "num_processes": 1,
    "gpus": None,
    "auto_select_gpus": False,
    "tpu_cores": None,
    "log_gpu_memory": None,
    "progress_bar_refresh_rate": 1,
    "overfit_batches": 0.0,
    "track_grad_norm": -1,
    "check_val_every_n_epoch": 1,
    "fast_dev_run": False,
    "accumulate_grad_batches": 1,
    "max_epochs": 1000,
    "min_epochs": 1,
    "max_steps": None,
    "min_steps": None,
    "limit_train_batches": 1.0,
    "limit_val_batches": 1.0,
    "limit_test_batches": 1.0,
    "val_check_interval": 1.0,
    "flush_logs_every_n_steps": 100,
    "log_every_n_steps": 50,
    "accelerator": None,
    "sync_batchnorm": False,
    "precision": 32,
    "weights_summary": "top",
    "weights_save_path": None,
    "num_sanity_val_steps": 2,
    "truncated_bptt_steps": None,
    "resume_from_checkpoint": None,
    "profiler": None,
    "benchmark": False,
    "deterministic": False,
    "reload_dataloaders_every_epoch": False,
    "auto_lr_find": False,
    "replace_sampler_ddp": True,
    "terminate_on_nan": False,
    "auto_scale_batch_size": False,
    "prepare_data_per_node": True,
    "plugins": None,
    "amp_backend": "native",
    "amp_level": "O2",
    "distributed_backend": None,
    "automatic_optimization": None,
    "move_metrics_to_cpu": False,
}


def test_signature_is_that_of_1_1_then_later_names() -> None:
    parameters = signature_parameters()
    assert [p.name for p in parameters][: len(SIGNATURE)] == list(SIGNATURE)
    found = {p.name: p.default for p in parameters if p.name in SIGNATURE}
    assert {k: (type(v), v) for k, v in found.items()} == {
        k: (type(v), v) for k, v in SIGNATURE.items()
    }
    assert [p.name for p in parameters][len(SIGNATURE) :] == [
        "gradient_clip_algorithm",
        "max_time",
        "limit_predict_batches",
        "compile",
        "cuda_graph",
        *ALIASES,
    ]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
    inspect.Signature(parameters)


def test_every_argument_has_a_check_and_a_default() -> None:
    assert list(defaults()) == list(CHECKS)
    for name, value in defaults().items():
        CHECKS[name](name, value)


def test_defaults_in_force() -> None:
    config = parse()
    assert config.arguments() == {**defaults(), "track_grad_norm": -1.0}
    assert config.given == {} and config.changes == ()
    assert isinstance(config.track_grad_norm, float)


def test_config_is_frozen_and_picklable() -> None:
    config = parse(max_epochs=3, fast_dev_run=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_epochs = 4  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(config))
    assert again == config and again.changes == config.changes and again.given == config.given


ACCEPTED: list[tuple[str, Any, Any]] = [
    ("logger", None, False),
    ("checkpoint_callback", None, False),
    ("default_root_dir", Path("logs"), "logs"),
    ("default_root_dir", "s3://bucket/logs", "s3://bucket/logs"),
    ("gradient_clip_val", 0.5, 0.5),
    ("gradient_clip_val", None, 0),
    ("gradient_clip_algorithm", "value", "value"),
    ("process_position", 2, 2),
    ("gpus", 0, 0),
    ("auto_select_gpus", True, True),
    ("log_gpu_memory", "all", "all"),
    ("progress_bar_refresh_rate", 0, 0),
    ("progress_bar_refresh_rate", None, 1),
    ("overfit_batches", 2, 2),
    ("overfit_batches", 0.5, 0.5),
    ("overfit_batches", 4.0, 4),
    ("track_grad_norm", 3, 3.0),
    ("track_grad_norm", "inf", math.inf),
    ("track_grad_norm", 2.5, 2.5),
    ("track_grad_norm", 0, 0.0),
    ("fast_dev_run", 0, False),
    ("fast_dev_run", 1, True),
    ("fast_dev_run", True, True),
    ("fast_dev_run", 3, 3),
    ("accumulate_grad_batches", 4, 4),
    ("accumulate_grad_batches", {3: 4, 1: 2}, {0: 1, 1: 2, 3: 4}),
    ("max_epochs", 0, 0),
    ("max_epochs", None, 1000),
    ("max_epochs", 1e3, 1000),
    ("max_epochs", numpy.int64(7), 7),
    ("max_steps", -1, None),
    ("max_steps", 10, 10),
    ("min_steps", 10, 10),
    ("limit_train_batches", 3.0, 3),
    ("limit_train_batches", 1, 1),
    ("limit_train_batches", 1.0, 1.0),
    ("limit_val_batches", 0, 0),
    ("limit_val_batches", numpy.float64(0.5), 0.5),
    ("limit_test_batches", 99, 99),
    ("limit_predict_batches", None, 1.0),
    ("val_check_interval", 1, 1),
    ("val_check_interval", 0.25, 0.25),
    ("val_check_interval", 0.0, 0.0),
    ("progress_bar_refresh_rate", False, 0),
    ("val_check_interval", 2.0, 2),
    ("accelerator", "cpu", "cpu"),
    ("accelerator", "auto", "auto"),
    ("sync_batchnorm", True, True),
    ("weights_summary", None, None),
    ("weights_summary", "full", "full"),
    ("weights_save_path", Path("w"), "w"),
    ("num_sanity_val_steps", -1, math.inf),
    ("num_sanity_val_steps", math.inf, math.inf),
    ("truncated_bptt_steps", 5, 5),
    ("resume_from_checkpoint", Path("a.ckpt"), "a.ckpt"),
    ("profiler", True, "simple"),
    ("profiler", False, None),
    ("profiler", "Simple", "simple"),
    ("profiler", "pytorch", "pytorch"),
    ("profiler", "Trace", "trace"),
    ("reload_dataloaders_every_epoch", True, True),
    ("plugins", [], []),
    ("amp_level", "O9", "O9"),
    ("amp_backend", "wrong", "wrong"),
    ("automatic_optimization", False, False),
    ("max_time", "01:02:03:04", timedelta(days=1, hours=2, minutes=3, seconds=4)),
    ("max_time", {"hours": 2}, timedelta(hours=2)),
    ("max_time", timedelta(minutes=5), timedelta(minutes=5)),
]


@pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED)
def test_accepted(name: str, value: Any, expected: Any) -> None:
    config = parse(**{name: value})
    found = getattr(config, name)
    assert (type(found), found) == (type(expected), expected)
    assert config.given[name] is value
    assert config.origin[name] == name
    assert parse(**config.arguments()) == config


# (argument, value, name of the type, built-in that it is too)
REFUSED: list[tuple[str, Any, str, type[Exception]]] = [
    ("logger", "tensorboard", "MisconfigurationException", TypeError),
    ("logger", Logger, "MisconfigurationException", TypeError),
    ("logger", [Logger(), 3], "MisconfigurationException", TypeError),
    ("checkpoint_callback", 3, "MisconfigurationException", TypeError),
    ("callbacks", "early_stopping", "MisconfigurationException", TypeError),
    ("callbacks", [Callback], "MisconfigurationException", TypeError),
    ("callbacks", [None], "MisconfigurationException", TypeError),
    ("default_root_dir", 3, "MisconfigurationException", TypeError),
    ("default_root_dir", "", "MisconfigurationException", ValueError),
    ("default_root_dir", b"logs", "MisconfigurationException", TypeError),
    ("gradient_clip_val", -1.0, "MisconfigurationException", ValueError),
    ("gradient_clip_val", math.nan, "MisconfigurationException", ValueError),
    ("gradient_clip_val", "1", "MisconfigurationException", TypeError),
    ("gradient_clip_algorithm", "length", "MisconfigurationException", ValueError),
    ("process_position", -1, "MisconfigurationException", ValueError),
    ("num_nodes", 0, "MisconfigurationException", ValueError),
    ("num_processes", 0, "MisconfigurationException", ValueError),
    *(
        ("gpus", value, "MisconfigurationException", Exception)
        for value in ("0", "", [], 1, -1, "-1", "1", [0], "0,1", 1.5, True, False, (0,), -2)
    ),
    ("gpus", "a", "ValueError", ValueError),
    ("gpus", [0, 0], "MisconfigurationException", ValueError),
    *(
        ("tpu_cores", value, "MisconfigurationException", Exception)
        for value in (1, 8, 2, [1], [9], "1", "8", True, 0, [1, 2])
    ),
    ("tpu_cores", "a", "ValueError", ValueError),
    ("auto_select_gpus", 1, "MisconfigurationException", TypeError),
    ("log_gpu_memory", "some", "MisconfigurationException", ValueError),
    ("progress_bar_refresh_rate", -1, "MisconfigurationException", ValueError),
    ("overfit_batches", 1.5, "MisconfigurationException", ValueError),
    ("overfit_batches", None, "MisconfigurationException", TypeError),
    *(
        ("track_grad_norm", value, "MisconfigurationException", Exception)
        for value in ("nan", "two", [2], None, -2, math.nan)
    ),
    ("check_val_every_n_epoch", 0, "MisconfigurationException", ValueError),
    ("check_val_every_n_epoch", 1.5, "MisconfigurationException", ValueError),
    *(
        ("fast_dev_run", value, "MisconfigurationException", Exception)
        for value in (-1, 1.0, "yes", None)
    ),
    *(
        ("accumulate_grad_batches", value, "TypeError", TypeError)
        for value in ([2], 1.5, {}, {"a": 1}, {1: 0.5}, "2", True, None)
    ),
    ("accumulate_grad_batches", {-1: 2}, "IndexError", IndexError),
    ("accumulate_grad_batches", 0, "MisconfigurationException", ValueError),
    ("accumulate_grad_batches", {0: 0}, "MisconfigurationException", ValueError),
    ("max_epochs", -1, "MisconfigurationException", ValueError),
    ("max_epochs", True, "MisconfigurationException", TypeError),
    ("max_epochs", "3", "MisconfigurationException", TypeError),
    ("max_epochs", 10**30, "MisconfigurationException", ValueError),
    ("max_epochs", math.inf, "MisconfigurationException", ValueError),
    ("max_steps", 0, "MisconfigurationException", ValueError),
    ("max_steps", -2, "MisconfigurationException", ValueError),
    ("limit_train_batches", 1.5, "MisconfigurationException", ValueError),
    ("limit_train_batches", -1, "MisconfigurationException", ValueError),
    ("limit_train_batches", -0.5, "MisconfigurationException", ValueError),
    ("limit_train_batches", True, "MisconfigurationException", TypeError),
    ("limit_val_batches", math.nan, "MisconfigurationException", ValueError),
    ("limit_test_batches", "all", "MisconfigurationException", TypeError),
    ("val_check_interval", 0, "MisconfigurationException", ValueError),
    ("val_check_interval", 1.5, "MisconfigurationException", ValueError),
    ("flush_logs_every_n_steps", 0, "MisconfigurationException", ValueError),
    ("log_every_n_steps", 0, "MisconfigurationException", ValueError),
    ("accelerator", "horovod", "MisconfigurationException", ValueError),
    ("accelerator", "no_such", "MisconfigurationException", ValueError),
    ("accelerator", "gpu", "MisconfigurationException", ValueError),
    ("accelerator", "mps", "MisconfigurationException", ValueError),
    ("accelerator", 2, "MisconfigurationException", TypeError),
    ("accelerator", object(), "MisconfigurationException", TypeError),
    ("distributed_backend", "cpu", "MisconfigurationException", ValueError),
    *(
        ("precision", value, "AssertionError", AssertionError)
        for value in (3, 128, "16", "32", "fp16", None, True, 32.0)
    ),
    ("plugins", "no_such", "MisconfigurationException", ValueError),
    ("plugins", ["no_such"], "MisconfigurationException", ValueError),
    ("weights_summary", "half", "MisconfigurationException", ValueError),
    ("weights_summary", 1, "MisconfigurationException", TypeError),
    ("num_sanity_val_steps", -2, "MisconfigurationException", ValueError),
    ("truncated_bptt_steps", 0, "MisconfigurationException", ValueError),
    ("resume_from_checkpoint", 1, "MisconfigurationException", TypeError),
    ("profiler", "fast", "ValueError", ValueError),
    ("profiler", 3, "MisconfigurationException", TypeError),
    ("benchmark", 1, "MisconfigurationException", TypeError),
    ("deterministic", "warns", "MisconfigurationException", ValueError),
    ("reload_dataloaders_every_epoch", -1, "MisconfigurationException", ValueError),
    ("auto_lr_find", 3, "MisconfigurationException", TypeError),
    ("auto_scale_batch_size", 2.5, "MisconfigurationException", TypeError),
    ("amp_backend", None, "MisconfigurationException", TypeError),
    ("automatic_optimization", "no", "MisconfigurationException", TypeError),
    ("max_time", "12:00", "MisconfigurationException", ValueError),
    ("max_time", "00:00:00:00", "MisconfigurationException", ValueError),
    ("max_time", {"fortnights": 1}, "MisconfigurationException", ValueError),
    ("max_time", {"days": "1"}, "MisconfigurationException", TypeError),
    ("max_time", {"days": 10**20}, "MisconfigurationException", ValueError),
    ("max_time", 30, "MisconfigurationException", TypeError),
]


@pytest.mark.parametrize(("name", "value", "kind", "builtin"), REFUSED)
def test_refused(name: str, value: Any, kind: str, builtin: type[Exception]) -> None:
    error = refused(**{name: value})
    assert type(error).__name__ == kind
    assert isinstance(error, builtin)
    assert name in str(error)
    assert len(str(error)) < 400
    assert pickle.loads(pickle.dumps(error)).args == error.args


def test_message_has_value_allowed_and_remedy() -> None:
    assert str(refused(gradient_clip_val=-1.0)) == (
        "gradient_clip_val=-1.0 is negative: pass a number above 0, or 0 to switch clipping off"
    )
    assert "this machine has none" in str(refused(gpus=2))


def test_words_that_code_for_lightning_looks_for() -> None:
    for name in ("limit_train_batches", "limit_val_batches", "val_check_interval"):
        for value in (-0.1, 1.2, -2):
            assert "passed invalid value" in str(refused(**{name: value}))
    assert "either a bool or an int" in str(refused(fast_dev_run="temp"))
    assert "should be >= 0" in str(refused(fast_dev_run=-1))
    assert "can only be 'simple' or 'advanced'" in str(refused(profiler="quick"))
    assert "subclasses of `BaseProfiler` are valid" in str(refused(profiler=42))


def test_a_limit_beyond_all_counting_is_no_limit() -> None:
    assert parse(limit_test_batches=1e50).limit_test_batches == 2**63 - 1


def test_a_number_too_long_to_print_is_refused_all_the_same() -> None:
    assert "max_epochs=<int> is more than any run can count" in str(refused(max_epochs=10**5000))


def test_unknown_argument_names_the_nearest() -> None:
    error = refused(max_epoch=3)
    assert isinstance(error, TypeError)
    assert "unexpected keyword argument 'max_epoch'" in str(error) and "max_epochs" in str(error)
    assert "help(leyden.Trainer)" in str(refused(zzzzz=1))


def test_objects_pass_untouched() -> None:
    callbacks, loggers, saver = [Callback()], [Logger(), Logger()], ModelCheckpoint()
    profiler = Profiler()
    config = parse(
        callbacks=callbacks, logger=loggers, checkpoint_callback=saver, profiler=profiler
    )
    assert config.callbacks is callbacks and config.logger is loggers
    assert config.checkpoint_callback is saver and config.profiler is profiler
    single = Callback()
    assert parse(callbacks=single).callbacks is single

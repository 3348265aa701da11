"""Random values thrown at every argument: accepted in its documented domain, or refused."""

import math
from collections import Counter
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leyden.backends.precision import choice
from leyden.config import ALIASES, CHECKS, TrainerConfig
from leyden.config_names import BACKENDS
from leyden.config_values import LARGEST
from leyden.exceptions import MisconfigurationException


class Hostile:
    """An object whose attributes and repr raise."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __fspath__(self) -> str:
        raise RuntimeError("no path")


WORDS = (
    "norm value top full all min_max cpu gpu auto ddp dp simple advanced inf nan -1 0,1 None 8 1"
)
numbers = st.one_of(
    st.integers(),
    st.integers(-3, 12),
    st.floats(),
    st.floats(-2, 3),
    st.sampled_from([0.0, 1.0, -1.0, 2.0, 16, 32, math.inf, 2**63, 10**5000, 1e300]),
    st.integers(-3, 12).map(numpy.int64),
    st.floats(-2, 3, width=32).map(numpy.float32),
    st.booleans().map(numpy.bool_),
    st.fractions(),
    st.complex_numbers(),
    st.decimals(),
)
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(WORDS.split()),
    st.from_regex(r"\A\d{1,8}:\d{1,3}:\d{1,2}:\d{1,2}\Z"),
    st.lists(st.integers(-2, 9), max_size=3).map(lambda ids: ",".join(map(str, ids))),
    st.binary(max_size=8),
)
plain = st.one_of(st.none(), st.booleans(), numbers, texts)
objects = st.sampled_from(
    [
        Hostile(),
        Hostile,
        object(),
        int,
        len,
        torch.zeros(2),
        torch.tensor(1),
        numpy.zeros(3),
        Path("a"),
    ]
)
units = st.sampled_from(["days", "hours", "minutes", "seconds", "years"])
values = st.one_of(
    plain,
    objects,
    st.timedeltas(),
    st.lists(plain, max_size=3),
    st.lists(objects, max_size=2),
    st.tuples(plain),
    st.dictionaries(st.integers(-2, 6) | st.text(max_size=2), numbers, max_size=3),
    st.dictionaries(units, numbers, max_size=2),
    st.sets(st.integers(), max_size=2),
)


NAMES = [*CHECKS, *ALIASES]


def is_count(value: object, low: int) -> bool:
    return type(value) is int and low <= value <= LARGEST


def is_limit(value: object) -> bool:
    return is_count(value, 0) or (type(value) is float and 0.0 <= value <= 1.0)


def in_domain(name: str, value: Any) -> bool:
    """Whether a value is in the documented form of an argument."""
    if name == "fast_dev_run" or name == "reload_dataloaders_every_epoch":
        return isinstance(value, bool) or is_count(value, 2)
    if name == "accumulate_grad_batches":
        if isinstance(value, dict):
            return 0 in value and all(is_count(k, 0) and is_count(f, 1) for k, f in value.items())
        return is_count(value, 1)
    if name in ("num_nodes", "num_processes"):
        return is_count(value, 1)
    if name == "compile":
        return isinstance(value, (bool, dict))
    if name == "num_sanity_val_steps":
        return value == math.inf or is_count(value, 0)
    if name == "track_grad_norm":
        return type(value) is float and (value == -1 or value >= 0)
    if name == "gradient_clip_val":
        return type(value) in (int, float) and 0 <= value < math.inf
    if name == "val_check_interval":
        return is_limit(value) and (value > 0 or type(value) is float)  # 0.0: each batch
    if name.startswith("limit_") or name == "overfit_batches":
        return is_limit(value)
    if name == "max_time":
        return value is None or (isinstance(value, timedelta) and value > timedelta(0))
    if name in ("default_root_dir", "weights_save_path", "resume_from_checkpoint"):
        return value is None or (type(value) is str and value != "" and "\0" not in value)
    choices: dict[str, tuple[object, ...]] = {
        "gpus": (None, 0),
        "tpu_cores": (None,),
        "precision": (*choice.BITS, *choice.WORDS),
        "distributed_backend": (None, *BACKENDS),
        "weights_summary": (None, "top", "full"),
        "log_gpu_memory": (None, "all", "min_max"),
        "gradient_clip_algorithm": ("norm", "value"),
        "automatic_optimization": (None, True, False),
    }
    if name in choices:
        return value in choices[name]
    if name == "auto_scale_batch_size":  # tune() knows the modes, as recorded
        return isinstance(value, bool) or (isinstance(value, str) and value != "")
    if name == "auto_lr_find":
        named = isinstance(value, str) and all(part.isidentifier() for part in value.split("."))
        return isinstance(value, bool) or named
    if name == "accelerator":
        return value is None or value.lower() in ("cpu", "auto", *BACKENDS)
    if name in ("amp_backend", "amp_level"):
        return type(value) is str and value != ""
    if name == "plugins":
        return value is None or value in ([], ())
    if name == "profiler":
        return value in (None, "simple", "advanced")
    if name in ("logger", "checkpoint_callback"):
        return isinstance(value, bool) or value == []
    if name == "callbacks":
        return value is None or value == [] or value == ()
    if name in ("max_steps", "truncated_bptt_steps"):
        return value is None or is_count(value, 1)
    if name == "min_steps":
        return value is None or is_count(value, 0)
    if name in ("check_val_every_n_epoch", "flush_logs_every_n_steps", "log_every_n_steps"):
        return is_count(value, 1)
    if name in ("max_epochs", "min_epochs", "process_position", "progress_bar_refresh_rate"):
        return is_count(value, 0)
    return type(value) is bool


@pytest.mark.slow
def test_accepted_in_its_domain_or_refused() -> None:
    """Throw each of 1,000 values at every argument and at every name of today."""
    taken: Counter[str] = Counter()
    refused: Counter[str] = Counter()

    def throw(name: str, value: Any) -> None:
        try:
            config = TrainerConfig.parse(**{name: value})
        except MisconfigurationException as error:
            assert str(error)
            refused[name] += 1
            return
        taken[name] += 1
        for argument, found in config.arguments().items():
            assert in_domain(argument, found), (name, argument, found)
        assert TrainerConfig.parse(**config.arguments()) == config

    @settings(
        max_examples=1000,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(values)
    def throw_at_all(value: Any) -> None:
        for name in NAMES:
            throw(name, value)

    throw_at_all()
    # Both sides of every border were reached.
    assert set(NAMES) == set(taken) == set(refused)
    assert all(taken[name] + refused[name] >= 1000 for name in NAMES)


def test_domain_knows_bad_values() -> None:
    bad: dict[str, Any] = {"max_epochs": -1, "limit_val_batches": 2.0, "benchmark": 1}
    assert not any(in_domain(name, value) for name, value in bad.items())
    assert Fraction(1, 2) == TrainerConfig.parse(limit_val_batches=Fraction(1, 2)).limit_val_batches

"""The search for a batch size, and what counts as running out of memory."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leyden.engine.errors import MisconfigurationException
from leyden.handlers.batch_size_scaler import BatchSizeScaler, is_out_of_memory


def fits(limit: int, samples: int | None = None) -> Callable[[int], int | None]:
    """A trial that runs out of memory above ``limit``."""

    def trial(size: int) -> int | None:
        if size > limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return samples

    return trial


@pytest.fixture
def uncollected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is collected: that takes most of the time of a search that does nothing else."""
    monkeypatch.setattr("leyden.handlers.batch_size_scaler.gc.collect", lambda: 0)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("mode", "limit", "samples", "found", "tried"),
    [
        ("power", 20, None, 16, [2, 4, 8, 16, 32]),
        ("power", 1000, 50, 50, [2, 4, 8, 16, 32, 50]),
        ("power", 40, 50, 32, [2, 4, 8, 16, 32, 50]),
        ("power", 9, 2, 2, [2]),
        ("power", 9, 1, 1, [2]),
        ("binsearch", 21, None, 21, [2, 4, 8, 16, 32, 24, 20, 22, 21]),
        ("binsearch", 40, 50, 40, [2, 4, 8, 16, 32, 50, 41, 36, 38, 39, 40]),
        ("binsearch", 99, 50, 50, [2, 4, 8, 16, 32, 50]),
        ("binsearch", 2, None, 2, [2, 4, 3]),
    ],
)
def test_it_keeps_the_largest_that_fits(
    mode: str, limit: int, samples: int | None, found: int, tried: list[int]
) -> None:
    scaler = BatchSizeScaler(mode)
    assert scaler.search(fits(limit, samples)) == found
    assert [size for size, _ in scaler.tried] == tried
    assert all(size <= limit for size, fitted in scaler.tried if fitted)


@pytest.mark.usefixtures("uncollected")
@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.integers(1, 5000),
    st.integers(1, 64),
    st.integers(1, 30),
    st.sampled_from(["power", "binsearch"]),
)
def test_what_it_gives_was_tried_and_fitted(limit: int, first: int, trials: int, mode: str) -> None:
    scaler = BatchSizeScaler(mode, init_val=first, max_trials=trials)
    if first > limit:
        with pytest.raises(MisconfigurationException):
            scaler.search(fits(limit))
        return
    found = scaler.search(fits(limit))
    assert (found, True) in scaler.tried and len(scaler.tried) <= trials
    assert len({size for size, _ in scaler.tried}) == len(scaler.tried)
    if mode == "binsearch" and trials == 30:
        assert found == limit
    assert not gc.get_freeze_count()


@pytest.mark.usefixtures("uncollected")
def test_the_margin_is_taken_off() -> None:
    assert BatchSizeScaler("binsearch", margin=0.1).search(fits(1000)) == 900
    assert BatchSizeScaler(margin=0.99).search(fits(4)) == 1


@pytest.mark.usefixtures("uncollected")
def test_spent_trials_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert BatchSizeScaler(init_val=3, max_trials=2).search(fits(30)) == 6
    assert "max_trials=2 are spent: a batch larger than 6 may fit" in caplog.text


@pytest.mark.usefixtures("uncollected")
def test_a_first_size_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"a batch of 8 \(init_val=8\)") as seen:
        BatchSizeScaler(init_val=8).search(fits(4))
    assert isinstance(seen.value, RuntimeError) and "smaller init_val" in str(seen.value)


@pytest.mark.usefixtures("uncollected")
def test_another_error_is_raised_as_it_was() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def trial(size: int) -> None:
        raise error

    with pytest.raises(RuntimeError) as seen:
        BatchSizeScaler().search(trial)
    assert seen.value is error and not gc.get_freeze_count()


@pytest.mark.slow
def test_what_a_trial_held_is_free_before_the_next_one() -> None:
    alive: list[Any] = []

    class Batch:
        def __init__(self) -> None:
            self.itself = self  # only the collector can free it

    def trial(size: int) -> None:
        assert not [ref for ref in alive if ref() is not None]
        batch = Batch()
        alive.append(weakref.ref(batch))
        if size > 9:
            raise MemoryError

    assert BatchSizeScaler().search(trial) == 8
    assert len(alive) == 4 and not [ref for ref in alive if ref() is not None]


@pytest.mark.usefixtures("uncollected")
def test_a_frozen_heap_stays_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        assert BatchSizeScaler().search(fits(4)) == 4
        # what was frozen may die meanwhile, but nothing is thawed
        assert 0.9 * count < gc.get_freeze_count() <= count
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"
            ),
            True,
        ),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
            True,
        ),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nAllocator: out of memory"
            ),
            True,
        ),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_running_out_of_memory_is_told_from_the_rest(error: BaseException, memory: bool) -> None:
    assert is_out_of_memory(error) is memory


def test_the_real_error_of_torch_on_the_cpu_is_known() -> None:
    with pytest.raises(RuntimeError) as seen:
        torch.empty(2**61, dtype=torch.uint8)
    assert is_out_of_memory(seen.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (dict(mode="sideways"), ValueError, "mode='sideways' is unknown"),
        (dict(init_val=0), ValueError, "init_val=0 is below 1"),
        (dict(init_val=2.0), TypeError, "init_val=2.0 is no count"),
        (dict(max_trials=0), ValueError, "max_trials=0 is below 1"),
        (dict(max_trials=True), TypeError, "max_trials=True is no count"),
        (dict(margin=1), ValueError, "margin=1 is not a share"),
        (dict(margin=-0.1), ValueError, "margin=-0.1 is not a share"),
        (dict(margin="5%"), TypeError, "margin='5%' is no number"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as seen:
        BatchSizeScaler(**arguments)
    assert isinstance(seen.value, MisconfigurationException)

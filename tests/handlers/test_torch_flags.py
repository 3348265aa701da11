"""TorchFlags on an engine of one's own."""

import os
from typing import Any

import pytest
import torch

from leyden.engine import Engine
from leyden.exceptions import MisconfigurationException
from leyden.handlers.torch_flags import TorchFlags

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def switches() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        os.environ.get(WORKSPACE),
    )


@pytest.mark.parametrize("asked", [True, "warn"])
def test_switches_hold_during_a_run(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    before = switches()
    engine = Engine(lambda engine, batch: switches())
    TorchFlags(deterministic=asked, benchmark=True).attach(engine)
    assert switches() == before
    assert engine.run([0]).output == (True, asked == "warn", True, False, ":4096:8")
    assert switches() == before


def test_what_was_set_before_is_set_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = switches()
    engine = Engine(lambda engine, batch: switches())
    TorchFlags(deterministic=True).attach(engine)
    assert engine.run([0]).output == (True, False, True, False, ":16:8")
    assert switches() == before


def test_an_exception_puts_them_back_and_is_raised() -> None:
    before = switches()

    def step(engine: Engine, batch: Any) -> None:
        raise KeyError(batch)

    engine = Engine(step)
    TorchFlags(deterministic=True).attach(engine)
    with pytest.raises(KeyError):
        engine.run([0])
    assert switches() == before


def test_detaching_in_a_run_puts_them_back() -> None:
    before = switches()
    flags = TorchFlags(deterministic=True)
    engine = Engine(lambda engine, batch: flags.detach())
    flags.attach(engine)
    engine.run([0])
    assert switches() == before
    assert not flags.attached


def test_an_operation_without_a_deterministic_way_is_refused() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    engine = Engine(
        lambda engine, batch: torch.ones(1, 1, 2, 2).put_(torch.tensor(0), torch.ones(1))
    )
    TorchFlags(deterministic=True).attach(engine)
    with pytest.raises(RuntimeError, match="put_"):
        engine.run([0])


@pytest.mark.parametrize(
    "given", [dict(deterministic="yes"), dict(deterministic=1), dict(benchmark="warn")]
)
def test_bad_arguments(given: Any) -> None:
    with pytest.raises(MisconfigurationException, match="pass True"):
        TorchFlags(**given)

"""What the tests of the Trainer's arguments share: parts by name, a machine without devices."""

from typing import Any

import pytest
import torch

from leyden.backends.xla import runtime
from leyden.config import TrainerConfig
from leyden.exceptions import MisconfigurationException
from leyden.handlers.callback_base import CallbackBase

__all__ = [
    "Callback",
    "Logger",
    "ModelCheckpoint",
    "Profiler",
    "ProgressBarBase",
    "no_devices",
    "parse",
    "refused",
]

parse = TrainerConfig.parse


@pytest.fixture(autouse=True)
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded errors are those of a machine without GPUs and torch_xla."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # make test-xla runs these tests beside one.
    monkeypatch.setattr(runtime, "problem", lambda: "torch_xla is not installed")


class Callback(CallbackBase):
    """A callback that does nothing."""


class ModelCheckpoint(Callback):
    """A callback with the name that counts."""


class ProgressBarBase(Callback):
    """A callback with the name that counts."""


class Logger:
    """A logger that drops everything."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Drop the metrics."""


class Profiler:
    """A profiler that measures nothing."""

    def profile(self, action: str) -> None:
        """Measure nothing."""


def refused(**kwargs: Any) -> Exception:
    with pytest.raises(MisconfigurationException) as caught:
        parse(**kwargs)
    return caught.value

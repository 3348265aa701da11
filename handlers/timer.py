"""Measures how long the stages of a run take, and ends the training when its time is up."""

import logging
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

from leyden.engine.errors import MisconfiguredType, MisconfiguredValue
from leyden.handlers.base import Order
from leyden.handlers.callback import Callback

__all__ = ["Timer", "parse_duration"]

log = logging.getLogger(__name__)

_TEXT = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")
_STAGES = ("train", "validate", "test")


class Timer(Callback):
    """Stop the training after ``duration``, and keep the times of the stages.

    The time of a resumed run counts on from that of the checkpoint.

    Runs on: the starts and ends of training, validation and test; where ``duration`` is given, the
    end of each batch, or epoch.

    State: ``time_elapsed`` of the training, in seconds.

    Source: Lightning 2.

    Args:
        duration: "DD:HH:MM:SS", a timedelta, or a dict of its arguments; None: only measure.
        interval: look at the clock after each "step" or after each "epoch".
        verbose: log a message when time is up.

    Example:
        >>> timer = Timer("00:12:00:00")
        >>> timer.time_remaining()
        43200.0
    """

    order: ClassVar[float] = Order.STOPPING
    order_reason: ClassVar[str] = "it may ask for the stop, which the checkpoint should hold"

    def __init__(
        self,
        duration: str | timedelta | dict[str, float] | None = None,
        interval: str = "step",
        verbose: bool = True,
    ) -> None:
        super().__init__()
        if interval not in ("step", "epoch"):
            raise MisconfiguredValue(
                f"Timer(interval={interval!r}) is unknown: pass 'step' or 'epoch'"
            )
        self.duration = None if duration is None else parse_duration(duration)
        self.interval = interval
        self.verbose = verbose
        self.stop_reason = ""
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._before = 0.0  # seconds of training in the runs before this one

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint."""
        return self._state_key_of(interval=self.interval)

    def start_time(self, stage: str = "train") -> float | None:
        """When the stage began, on the monotonic clock, in seconds."""
        return self._started.get(_stage(stage))

    def end_time(self, stage: str = "train") -> float | None:
        """When the stage ended, on the monotonic clock, in seconds."""
        return self._ended.get(_stage(stage))

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds from the stage's start to its end, or to now; training counts resumed runs."""
        started, ended = self.start_time(stage), self.end_time(stage)
        before = self._before if stage == "train" else 0.0
        if started is None:
            return before
        return (time.monotonic() if ended is None else ended) - started + before

    def time_remaining(self, stage: str = "train") -> float | None:
        """Seconds that are left; None without ``duration``."""
        if self.duration is None:
            return None
        return self.duration.total_seconds() - self.time_elapsed(stage)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count; a resumed run may have no time left."""
        if "train" in self._ended:
            # A second fit: time between the two is nobody's.
            self._before = self.time_elapsed()
        self._begin("train")
        self._stop_if_over(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over."""
        self._ended["train"] = time.monotonic()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation begins."""
        self._begin("validate")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Validation is over."""
        self._ended["validate"] = time.monotonic()

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """The test begins."""
        self._begin("test")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """The test is over."""
        self._ended["test"] = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Stop after a batch if the time is up."""
        if self.interval == "step":
            self._stop_if_over(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # type: ignore[override]
        """Stop after an epoch if the time is up."""
        if self.interval == "epoch":
            self._stop_if_over(trainer)

    def defines(self, name: str) -> bool:
        """Without a duration nothing runs after batches and epochs."""
        checks = {"on_train_batch_end": "step", "on_train_epoch_end": "epoch"}
        if name in checks and (self.duration is None or self.interval != checks[name]):
            return False
        return super().defines(name)

    def state_dict(self) -> dict[str, Any]:
        """Seconds of training so far."""
        return {"time_elapsed": self.time_elapsed()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from a checkpoint."""
        self._before = float(state["time_elapsed"])
        self._started.pop("train", None)
        self._ended.pop("train", None)

    def _begin(self, stage: str) -> None:
        self._started[stage] = time.monotonic()
        self._ended.pop(stage, None)

    def _stop_if_over(self, trainer: Any) -> None:
        remaining = self.time_remaining()
        if remaining is None or remaining > 0:
            return
        trainer.should_stop = True
        if not self.stop_reason:
            self.stop_reason = f"its time of {self.duration} is up"
            if self.verbose and getattr(trainer, "is_global_zero", True):
                log.info("training stops: %s", self.stop_reason)


def parse_duration(duration: str | timedelta | dict[str, float]) -> timedelta:
    """Return the time that "DD:HH:MM:SS", a timedelta, or a dict of its arguments says.

    Raises:
        MisconfigurationException: for anything else, and for times that are not above 0.
    """
    if isinstance(duration, str):
        found = _TEXT.fullmatch(duration.strip())
        if found is None:
            raise MisconfiguredValue(
                f"the duration {duration!r} is not of the form DD:HH:MM:SS: write, for example, "
                "'00:12:00:00' for 12 hours"
            )
        days, hours, minutes, seconds = map(int, found.groups())
        time_given = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    elif isinstance(duration, dict):
        try:
            time_given = timedelta(**duration)
        except TypeError as error:
            raise MisconfiguredValue(
                f"the duration {duration!r} has keys or values that timedelta refuses ({error}): "
                "pass weeks, days, hours, minutes, seconds"
            ) from error
    elif isinstance(duration, timedelta):
        time_given = duration
    else:
        raise MisconfiguredType(
            f"the duration {duration!r} is no time: pass 'DD:HH:MM:SS', a timedelta or a dict"
        )
    if time_given <= timedelta(0):
        raise MisconfiguredValue(f"the duration {duration!r} is not above 0: pass a longer one")
    return time_given


def _stage(stage: str) -> str:
    if stage not in _STAGES:
        raise ValueError(f"stage {stage!r} is unknown: ask for one of {', '.join(_STAGES)}")
    return stage

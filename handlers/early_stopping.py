"""Ends the training when a logged value stops improving."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from leyden.engine.notice import warn
from leyden.handlers.base import Order
from leyden.handlers.callback import Callback
from leyden.handlers.deprecation import deprecated
from leyden.handlers.monitored import Direction, better, listed, resolve_mode, score_of, worst

__all__ = ["EarlyStopping"]

log = logging.getLogger(__name__)


class EarlyStopping(Callback):
    """Stop the training when ``monitor`` has not improved in ``patience`` checks.

    A check happens after each validation run, or after each training epoch where nothing is
    validated. A NaN never counts as an improvement.

    Runs on: the end of a validation run (not the sanity check); the end of a training epoch without
    validation.

    State: ``wait_count``, ``stopped_epoch``, ``best_score``, ``patience``, ``stop_reason``.

    Source: Lightning 1.1; ``check_finite`` and the thresholds are from Lightning 2, where
    ``check_finite`` is on.

    Args:
        monitor: name of the logged value.
        min_delta: an improvement has to be larger than this (not negative).
        patience: number of checks without improvement after which the training ends (0 acts as 1).
        verbose: log each improvement, and warn when the value is missing although ``strict`` is
            off.
        mode: "min" or "max"; None: "max" for names with "acc" in them or that begin with
            "fmeasure". ("auto", deprecated, is the same.)
        strict: a value that was not logged is an error; otherwise the check is left out.
        check_finite: stop at once when the value is NaN or infinite.
        stopping_threshold: stop at once when the value is better than this.
        divergence_threshold: stop at once when the value is worse than this.

    Attributes:
        best_score: best value seen, a 0-dim tensor on the CPU.
        wait_count: checks since it was seen.
        stopped_epoch: epoch (0-based) in which the training was stopped, else 0.
        stop_reason: why it was stopped, in words, else empty.

    Example:
        >>> stopping = EarlyStopping("val_acc", patience=5, stopping_threshold=0.99)
        >>> stopping.mode, stopping.state_key
        ('max', "EarlyStopping{'monitor': 'val_acc', 'mode': 'max'}")
    """

    order: ClassVar[float] = Order.STOPPING
    order_reason: ClassVar[str] = (
        "after everything that logs or asks for a stop, before the checkpoint that holds its count"
    )
    #: mode -> what a better score is to the best one.
    mode_dict: ClassVar[dict[str, Callable[..., torch.Tensor]]] = {"min": torch.lt, "max": torch.gt}
    state_keys: ClassVar[tuple[str, ...]] = (
        "wait_count",
        "stopped_epoch",
        "best_score",
        "patience",
        "stop_reason",
    )

    def __init__(
        self,
        monitor: str = "early_stop_on",
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: str | None = None,
        strict: bool = True,
        *,
        check_finite: bool = False,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(monitor, str):
            raise TypeError(
                f"EarlyStopping(monitor={monitor!r}) is no name: pass the name of a logged value"
            )
        if isinstance(patience, bool) or not isinstance(patience, int):
            raise TypeError(
                f"EarlyStopping(patience={patience!r}) is no int: pass a number of checks, 0 or "
                "more"
            )
        if patience < 0:
            raise ValueError(
                f"EarlyStopping(patience={patience}) is negative: pass a number of checks, 0 or "
                "more"
            )
        if not math.isfinite(min_delta) or min_delta < 0:
            raise ValueError(
                f"EarlyStopping(min_delta={min_delta}) is not allowed: pass a finite number, 0 or "
                "more"
            )
        self.monitor = monitor
        self.min_delta = min_delta
        self.patience = patience
        self.verbose = verbose
        if mode == "auto":
            instead = "pass mode='min' or mode='max'"
            deprecated("EarlyStopping(mode='auto')", since="1.1", instead=instead)
        self.mode: Direction = resolve_mode("EarlyStopping", monitor, mode or "auto")
        self.strict = strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.wait_count = 0
        self.stopped_epoch = 0
        self.best_score: torch.Tensor = worst(self.mode)
        self.stop_reason = ""

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint."""
        return self._state_key_of(monitor=self.monitor, mode=self.mode)

    @property
    def monitor_op(self) -> Callable[..., torch.Tensor]:
        """``torch.lt`` or ``torch.gt``: what a better score is to the best one."""
        return self.mode_dict[self.mode]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Check after a validation run."""
        if not getattr(trainer, "running_sanity_check", False):
            self._run_early_stopping_check(trainer, pl_module)

    def on_train_epoch_metrics(self, trainer: Any, pl_module: Any) -> None:
        """Check after a training epoch where nothing is validated."""
        if not getattr(trainer, "enable_validation", False):
            self.on_validation_end(trainer, pl_module)

    def _run_early_stopping_check(self, trainer: Any, pl_module: Any) -> None:
        # The name by which classes that derive from Lightning 1.1's check at other moments.
        self.check(trainer)

    def check(self, trainer: Any) -> None:
        """Look at the value once; sets ``trainer.should_stop`` when the training is to end.

        Raises:
            RuntimeError: when the value was not logged and ``strict`` is on.
        """
        if getattr(trainer, "fast_dev_run", False):
            return
        metrics = trainer.callback_metrics
        if not self._validate_condition_metric(metrics):
            return
        debugger = getattr(trainer, "dev_debugger", None)
        if debugger is not None:
            debugger.track_early_stopping_history(self, metrics[self.monitor])
        reason = self._judge(score_of(metrics[self.monitor]))
        if reason:
            self.stop_reason = reason
            self.stopped_epoch = trainer.current_epoch
            trainer.should_stop = True
            if getattr(trainer, "is_global_zero", True):
                log.info("epoch %d: training stops early: %s", trainer.current_epoch, reason)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return what a checkpoint keeps."""
        return self.state_dict()

    def on_load_checkpoint(self, checkpointed_state: Mapping[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take back what a checkpoint kept; one of Lightning 1.1 holds no reason."""
        self.load_state_dict({"stop_reason": "", **checkpointed_state})
        self.best_score = score_of(self.best_score)

    def _judge(self, score: torch.Tensor) -> str:
        value = float(score)
        if self.check_finite and not math.isfinite(value):
            best = float(self.best_score)
            return f"{self.monitor} is {value}, which is not finite; its best was {best:g}"
        # The sum is made in the value's own precision, as Lightning does: it decides ties.
        shifted = score + self.min_delta if self.mode == "min" else score - self.min_delta
        if better(self.mode, shifted, self.best_score):
            if self.verbose:
                log.info("%s improved from %g to %g", self.monitor, float(self.best_score), value)
            self.best_score = score
            self.wait_count = 0
        else:
            self.wait_count += 1
        if self.stopping_threshold is not None and self._beats(value, self.stopping_threshold):
            return (
                f"{self.monitor} = {value:g} is past stopping_threshold={self.stopping_threshold:g}"
            )
        if self.divergence_threshold is not None and self._beats(self.divergence_threshold, value):
            return (
                f"{self.monitor} = {value:g} is past "
                f"divergence_threshold={self.divergence_threshold:g}"
            )
        if self.wait_count and self.wait_count >= self.patience:
            return (
                f"{self.monitor} did not improve in the last {self.wait_count} checks "
                f"(patience={self.patience}); "
                f"its best was {float(self.best_score):g}, now {value:g}"
            )
        return ""

    def _beats(self, value: float, other: float) -> bool:
        return value < other if self.mode == "min" else value > other

    def _validate_condition_metric(self, logs: Mapping[str, Any]) -> bool:
        """Whether the value was logged; an error where it has to be."""
        if self.monitor in logs:
            return True
        text = (
            f"EarlyStopping(monitor={self.monitor!r}) found no such value; logged are: "
            f"{listed(logs)}. "
            f"Call self.log({self.monitor!r}, value) in the module, pass one of those names, or "
            "strict=False"
        )
        if self.strict:
            raise RuntimeError(text)
        if self.verbose:
            warn(text, RuntimeWarning)
        return False

"""What the handlers that watch one logged value share: the direction, the value, the comparison."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch

from leyden.engine.notice import warn

__all__ = ["Direction", "better", "listed", "resolve_mode", "score_of", "worst"]

Direction = Literal["min", "max"]


def resolve_mode(owner: str, monitor: str | None, mode: str) -> Direction:
    """Return the direction in which a value improves.

    ``"auto"`` means "max" for names that hold "acc" or begin with "fmeasure" and "min" for all
    others. Anything unknown is taken as "auto" with a warning: existing scripts rely on that.

    Args:
        owner: class name for the warning.
        monitor: name of the watched value.
        mode: "min", "max" or "auto".
    """
    if mode in ("min", "max"):
        return cast(Direction, mode)
    if mode != "auto":
        warn(
            f"{owner}(mode={mode!r}) is unknown, 'auto' is used instead: pass 'min', 'max' or "
            "'auto'",
            RuntimeWarning,
        )
    grows = monitor is not None and ("acc" in monitor or monitor.startswith("fmeasure"))
    return "max" if grows else "min"


def worst(mode: Direction) -> torch.Tensor:
    """Return the score that every other one improves on."""
    return torch.tensor(float("inf") if mode == "min" else float("-inf"))


def score_of(value: Any) -> torch.Tensor:
    """Return a copy of a logged value as a 0-dim tensor on the CPU.

    A copy: the running mean behind ``callback_metrics`` may change after the handler has looked.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True).reshape(())
    return torch.tensor(float(value))


def better(mode: Direction, new: torch.Tensor, old: torch.Tensor) -> bool:
    """Whether ``new`` strictly improves on ``old``; a NaN never does."""
    return bool(new < old) if mode == "min" else bool(new > old)


def listed(metrics: Mapping[str, Any]) -> str:
    """Return the names that were logged, for an error message."""
    return ", ".join(repr(name) for name in metrics) or "nothing"

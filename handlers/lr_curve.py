"""The losses that a search for the learning rate saw: the suggestion, and the picture."""

import math
from collections.abc import Sequence
from typing import Any

from leyden.engine.notice import warn

__all__ = ["LRCurve", "steepest"]


class LRCurve:
    """Loss against learning rate, as :class:`~leyden.handlers.lr_finder.LRFinder` measured it.

    Args:
        lr: the rates that were tried, in order.
        loss: the smoothed loss at each of them.
        mode: ``"exponential"`` or ``"linear"``: how the rates grow.

        lr_min: the rate that the search began with; None: the lowest that was tried.
        lr_max: the rate that it would have ended with; None: the highest that was tried.
        num_training: how many steps it was to take; None: as many as there are rates.

    Attributes:
        results: ``{"lr": [...], "loss": [...]}``, of equal length.
        mode, lr_min, lr_max, num_training: as given.

    Example:
        >>> curve = LRCurve([0.1, 0.2, 0.4, 0.8], [5.0, 4.0, 1.0, 9.0])
        >>> curve.suggestion(skip_begin=0, skip_end=1)
        0.4
    """

    def __init__(
        self,
        lr: Sequence[float],
        loss: Sequence[float],
        mode: str = "exponential",
        *,
        lr_min: float | None = None,
        lr_max: float | None = None,
        num_training: int | None = None,
    ) -> None:
        if len(lr) != len(loss):
            raise ValueError(f"{len(lr)} rates and {len(loss)} losses: give one loss for each rate")
        self.results: dict[str, list[float]] = {"lr": list(lr), "loss": list(loss)}
        self.mode = mode
        self.lr_min = min(lr, default=None) if lr_min is None else lr_min
        self.lr_max = max(lr, default=None) if lr_max is None else lr_max
        self.num_training = len(lr) if num_training is None else num_training
        self._optimal_idx: int | None = None
        self._total_batch_idx = 0  # of the last batch of the search, as in Lightning 1.1

    def suggestion(self, skip_begin: int = 10, skip_end: int = 1) -> float | None:
        """Return the rate at which the loss falls most steeply.

        A starting point, not the best rate there is. Where the search was short, look at the
        picture: :meth:`plot`.

        Args:
            skip_begin: how many of the first rates to leave out; their mean is over few losses.
            skip_end: how many of the last ones.

        Returns:
            The rate; None, with a warning, where fewer than two finite losses are left.

        Source: Lightning 1.1; differently, losses that are not finite do not shift the rest, and
        ``skip_end=0`` leaves none out.
        """
        found = self._optimal_idx = steepest(self.results["loss"], skip_begin, skip_end)
        if found is None:
            warn(
                f"no learning rate to suggest: of {len(self.results['loss'])} losses, less "
                f"skip_begin={skip_begin} and skip_end={skip_end}, fewer than two are left that "
                "are finite: raise num_training, lower max_lr, or skip fewer",
                UserWarning,
            )
            return None
        return self.results["lr"][found]

    def plot(self, suggest: bool = False, show: bool = False) -> Any:
        """Draw the loss against the rate.

        Args:
            suggest: mark the suggestion.
            show: open a window, or draw it into the notebook.

        Returns:
            matplotlib's figure.

        Raises:
            ModuleNotFoundError: matplotlib is missing.
        """
        try:
            from matplotlib import pyplot
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "plot() draws with matplotlib, which is missing: pip install 'leyden[plot]'"
            ) from error
        figure, axes = pyplot.subplots(layout="constrained")
        lr, loss = self.results["lr"], self.results["loss"]
        axes.plot(lr, loss, color="tab:blue")
        if self.mode == "exponential":
            axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss, smoothed")
        axes.set_title("Search for the learning rate")
        axes.grid(alpha=0.3)
        found = steepest(loss, 10, 1) if suggest else None
        if found is not None:
            axes.plot(
                lr[found], loss[found], "o", color="tab:red", label=f"suggestion {lr[found]:.3g}"
            )
            axes.legend()
        if show:
            pyplot.show()
        return figure

    def __repr__(self) -> str:
        lr = self.results["lr"]
        tried = f"{len(lr)} rates from {lr[0]:.3g} to {lr[-1]:.3g}" if lr else "no rates"
        return f"LRCurve({tried}, mode={self.mode!r})"


def steepest(loss: Sequence[float], skip_begin: int, skip_end: int) -> int | None:
    """Return the index at which the loss falls most; None where fewer than two are finite.

    The slope is that between the neighbours, at the ends that to the one neighbour.
    """
    for name, value in (("skip_begin", skip_begin), ("skip_end", skip_end)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name}={value!r} is no number of losses: pass an int of 0 or more")
    kept = [i for i in range(skip_begin, len(loss) - skip_end) if math.isfinite(loss[i])]
    if len(kept) < 2:
        return None
    best, slope = kept[0], math.inf
    for at, index in enumerate(kept):
        before, after = max(at - 1, 0), min(at + 1, len(kept) - 1)
        here = (loss[kept[after]] - loss[kept[before]]) / (after - before)
        if here < slope:
            best, slope = index, here
    return best

"""Search for a learning rate: raise it from batch to batch and watch the loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.errors import MisconfigurationException, MisconfiguredType, MisconfiguredValue
from leyden.handlers.base import Handler
from leyden.handlers.lr_curve import LRCurve

__all__ = ["LRFinder", "rate_at"]

#: Batches in a row without a loss after which the search gives up.
_PATIENCE = 1000
#: How much of the mean the losses before keep at each step.
_SMOOTHING = 0.98
_MODES = ("exponential", "linear")


class LRFinder(Handler):
    """Raises the learning rate from step to step and watches the loss until it diverges.

    It sets the rate of every parameter group; when the run has ended the groups have their own
    rates again. The weights are those of the search: put them back with
    :class:`leyden.snapshot.Snapshot`, or search with ``trainer.tuner.lr_find``, which does.

    Args:
        optimizers: one optimizer, or several; None: those of ``engine.state.optimizers``.
        min_lr: the first rate.
        max_lr: the last one.
        num_training: how many optimizer steps the search takes.
        mode: ``"exponential"`` or ``"linear"``.
        early_stop_threshold: stop where the smoothed loss is above the best one by this factor;
            None: only where it is not finite any more.
        optimizer_idx: with several optimizers, whose rate is searched, and whose losses count: an
            index or several.
        loss_of: takes the loss out of ``state.output``, for a step of one's own that returns more
            than a loss or a dict with ``"loss"``.
        stop: called with the engine when the search is over; None: ``engine.terminate()``.
        progress: show a progress bar.

    Attributes:
        curve: what was measured so far, an :class:`~leyden.handlers.lr_curve.LRCurve`.
        finished: whether the search is over.

    Runs on: STARTED, ITERATION_STARTED (before the hooks), BACKWARD_STARTED, ITERATION_COMPLETED,
    EPOCH_COMPLETED, COMPLETED.

    State: what was measured, and the rates to put back.

    Source: the learning-rate finder of Lightning 1.1, after L. N. Smith, "Cyclical Learning Rates
    for Training Neural Networks" (arXiv:1506.01186). Differently, it ends where the loss is not
    finite, a loss below nought does not count as diverged, and there may be several optimizers.

    Example:
        >>> import torch
        >>> from leyden.engine import Engine
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> def step(engine, batch):
        ...     optimizer.zero_grad()
        ...     loss = (model(batch) - 1).pow(2).mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     return loss
        >>> engine = Engine(step)
        >>> finder = LRFinder(optimizer, num_training=30)
        >>> finder.attach(engine)
        >>> _ = engine.run([torch.ones(4, 2)] * 10, max_epochs=9)
        >>> len(finder.curve.results["lr"]), optimizer.param_groups[0]["lr"]
        (30, 0.01)
    """

    state_keys = ("rates", "losses", "average", "best", "group", "silent", "finished", "own_rates")

    def __init__(
        self,
        optimizers: Optimizer | Sequence[Optimizer] | None = None,
        *,
        min_lr: float = 1e-8,
        max_lr: float = 1.0,
        num_training: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        optimizer_idx: int | Sequence[int] | None = None,
        loss_of: Callable[[Any], Any] | None = None,
        stop: Callable[[Engine], Any] | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        _check(min_lr, max_lr, num_training, mode, early_stop_threshold)
        self.optimizers = optimizers
        self.min_lr = min_lr
        self.max_lr = max_lr
        self.num_training = num_training
        self.mode = mode
        self.early_stop_threshold = early_stop_threshold
        self.optimizer_idx = optimizer_idx
        self.loss_of = loss_of
        self.stop = stop
        self.progress = progress
        #: brings the loss of this process together with those of others
        self.whole: Callable[[float], float] = float
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.average = 0.0
        self.best = math.inf
        self.group: list[float] = []  # losses of the accumulation group that is open
        self.silent = 0  # batches in a row without a loss
        self.finished = False
        self.own_rates: list[list[float]] = []
        self._heard: list[torch.Tensor] | None = None  # None: no event told of a loss
        self._indices: tuple[int, ...] = ()
        self._searched: list[Optimizer] = []
        self._bar: Any = None

    @property
    def curve(self) -> LRCurve:
        """What was measured so far."""
        return LRCurve(
            self.rates,
            self.losses,
            self.mode,
            lr_min=self.min_lr,
            lr_max=self.max_lr,
            num_training=self.num_training,
        )

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.STARTED, self.begin)
        # Before the hooks: what looks at the rate there sees the one of this batch.
        self.listen(engine, Events.ITERATION_STARTED, self.set_rate, order=1.0)
        self.listen(engine, TrainerEvents.BACKWARD_STARTED, self.hear)
        self.listen(engine, Events.ITERATION_COMPLETED, self.record)
        self.listen(engine, Events.EPOCH_COMPLETED, self.expect_batches)
        self.listen(engine, Events.COMPLETED, self.end)

    def detach(self) -> None:
        """Leave the engine, put the rates back and close the bar, wherever the search stands."""
        super().detach()
        self._release()

    # ------------------------------------------------------------------ in the order of the events

    def begin(self, engine: Engine) -> None:
        """A new search: look for the optimizers and keep their rates."""
        self._searched, self._indices = self._choose(engine)
        self.own_rates = [[float(group["lr"]) for group in o.param_groups] for o in self._searched]
        self.rates, self.losses, self.group = [], [], []
        self.average, self.best, self.silent, self.finished = 0.0, math.inf, 0, False
        if self.progress:
            from leyden.handlers.progress_bars import make_bar

            self._bar = make_bar(total=self.num_training, desc="Search for the learning rate")

    def set_rate(self, engine: Engine) -> None:
        """Set the rate of this step."""
        if self.finished:
            return
        if not self._searched:  # attached when the run had begun
            self.begin(engine)
        self._heard = None
        rate = rate_at(len(self.rates), self.min_lr, self.max_lr, self.num_training, self.mode)
        for optimizer in self._searched:
            for group in optimizer.param_groups:
                _put(group, rate)

    def hear(self, engine: Engine) -> None:
        """Take the loss of an optimizer whose rate is searched."""
        state: Any = engine.state
        if self._heard is None:
            self._heard = []
        if state.optimizer_idx in self._indices:
            self._heard.append(state.loss.detach())

    def record(self, engine: Engine) -> None:
        """The batch is over: if a step was made, its loss joins the mean."""
        state: Any = engine.state
        if self.finished:
            return
        factor = state.accumulate_grad_batches
        if self.loss_of is not None or self._heard is None:
            losses = self._returned(state.output)
        else:
            # float() waits for the device: the search cannot go on without knowing the loss.
            losses = [float(loss) * factor for loss in self._heard]
        self._heard = None
        if losses:
            self.group.append(sum(losses) / len(losses))
        self.silent = 0 if losses else self.silent + 1
        if self.silent >= _PATIENCE:
            raise MisconfigurationException(
                f"{self.silent} batches in a row gave the search for the learning rate no loss: "
                "return one from the training step, or search by hand"
            )
        if not self.group or (factor != 1 and state.closed_at != state.iteration):
            return
        self._add(self.whole(sum(self.group) / len(self.group)), state.iteration)
        self.group = []
        if self._bar is not None:
            self._bar.update()
        if self.finished:
            (self.stop or _terminate)(engine)

    def expect_batches(self, engine: Engine) -> None:
        """Give up where an epoch had no batch: the next would have none either."""
        state: Any = engine.state
        if state.iteration == state.epoch_start and not self.finished:
            raise MisconfigurationException(
                f"the data gave no batch in epoch {state.epoch} of the search for the learning "
                "rate: look at the length of the dataset, batch_size and drop_last"
            )

    def end(self, engine: Engine) -> None:
        """The run is over: the groups get their own rates back."""
        self._release()

    # ------------------------------------------------------------------ parts

    def _add(self, loss: float, iteration: int) -> None:
        step = len(self.losses) + 1
        rate = rate_at(step - 1, self.min_lr, self.max_lr, self.num_training, self.mode)
        if step == 1 and not math.isfinite(loss):
            raise MisconfiguredValue(
                f"the loss is {loss} at the first step of the search already (batch {iteration}, "
                f"learning rate {rate:g}): no rate can mend that, look at the data and the model; "
                "detect_anomaly of torch.autograd finds where it arises"
            )
        self.average = _SMOOTHING * self.average + (1 - _SMOOTHING) * loss
        smooth = self.average / (1 - _SMOOTHING**step)
        self.rates.append(rate)
        self.losses.append(smooth)
        diverged = not math.isfinite(smooth)
        if step > 1 and self.early_stop_threshold is not None:
            diverged |= smooth > self.best + (self.early_stop_threshold - 1) * abs(self.best)
        self.best = min(self.best, smooth)
        self.finished = diverged or step >= self.num_training

    def _returned(self, output: Any) -> list[float]:
        """The loss in what the step returned; none where it returned None."""
        if self.loss_of is not None:
            output = self.loss_of(output)
        elif isinstance(output, Mapping) and "loss" in output:
            output = output["loss"]
        if output is None:
            return []
        if isinstance(output, (int, float)) or (
            isinstance(output, torch.Tensor) and output.numel() == 1
        ):
            return [float(output.detach() if isinstance(output, torch.Tensor) else output)]
        raise MisconfiguredType(
            f"the step returned a {type(output).__name__}, in which the search finds no loss: "
            "return the loss or a dict with 'loss', or pass loss_of="
        )

    def _choose(self, engine: Engine) -> tuple[list[Optimizer], tuple[int, ...]]:
        state: Any = engine.state
        given = state.optimizers if self.optimizers is None else self.optimizers
        found = [given] if isinstance(given, Optimizer) else list(given)
        if not found:
            raise MisconfigurationException(
                "the search for the learning rate has no optimizer: pass LRFinder(optimizer), or "
                "set engine.state.optimizers"
            )
        wanted = self.optimizer_idx
        if wanted is None:
            if len(found) > 1:
                raise MisconfigurationException(
                    f"there are {len(found)} optimizers, and the search needs to know whose rate "
                    "to raise: pass optimizer_idx, an index or several"
                )
            wanted = 0
        indices = (wanted,) if isinstance(wanted, int) else tuple(wanted)
        for index in indices:
            if not 0 <= index < len(found):
                raise MisconfiguredValue(
                    f"optimizer_idx={self.optimizer_idx!r}, but there are {len(found)} optimizers, "
                    f"0 to {len(found) - 1}: pass one of these"
                )
            if any("lr" not in group for group in found[index].param_groups):
                raise MisconfigurationException(
                    f"{type(found[index]).__name__} has no 'lr' in its parameter groups, so there "
                    "is no rate to search: pass optimizer_idx of one that has"
                )
        return [found[index] for index in indices], indices

    def _release(self) -> None:
        # Nothing is searched where it never began, or where the rates were put back already.
        for optimizer, rates in zip(self._searched, self.own_rates, strict=False):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                _put(group, rate)
        self._searched = []
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


def rate_at(step: int, low: float, high: float, steps: int, mode: str) -> float:
    """Return the rate of a 0-based step: ``low`` at the first, ``high`` at the last.

    Source: Lightning 1.1, whose second rate is two steps up, not one.
    """
    if step == 0:
        return float(low)
    share = (step + 1) / steps
    if mode == "linear":
        return low + share * (high - low)
    return float(low * (high / low) ** share)


def _put(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):  # graphs that were captured read this very tensor
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _terminate(engine: Engine) -> None:
    engine.terminate()


def _check(low: Any, high: Any, steps: Any, mode: Any, threshold: Any) -> None:
    for name, value in (("min_lr", low), ("max_lr", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise MisconfiguredType(f"{name}={value!r} is no number: pass a rate such as 1e-3")
    if not (0 < low < high and math.isfinite(high)):
        raise MisconfiguredValue(
            f"min_lr={low!r} and max_lr={high!r} are no range to search: both must be above 0 and "
            "finite, and min_lr below max_lr"
        )
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise MisconfiguredType(f"num_training={steps!r} is no number of steps: pass an int")
    if steps < 1:
        raise MisconfiguredValue(f"num_training={steps} is below 1: pass a number of steps")
    if mode not in _MODES:
        raise MisconfiguredValue(f"mode={mode!r} is unknown: pass 'exponential' or 'linear'")
    if threshold is not None and (
        isinstance(threshold, bool) or not isinstance(threshold, (int, float))
    ):
        raise MisconfiguredType(
            f"early_stop_threshold={threshold!r} is no number: pass a factor above 1, or None"
        )
    if threshold is not None and not threshold > 1:
        raise MisconfiguredValue(
            f"early_stop_threshold={threshold!r} is not above 1: it is the factor by which the "
            "loss may be above its best; None switches it off"
        )

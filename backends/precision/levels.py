"""The opt-levels O0 to O3 of NVIDIA's apex, on today's torch and on any device.

==  =============================  =====================  ==============  ============
..  weights in forward, backward   weights that step      computes in     loss scale
==  =============================  =====================  ==============  ============
O0  float32                        the same               float32         none
O1  float32                        the same               autocast        dynamic
O2  float16, batch norm float32    float32 ("masters")    their format    dynamic
O3  float16                        the same               float16         none
==  =============================  =====================  ==============  ============

What apex does is kept, bit for bit on a CPU (``tests/data/apex.json``): the rounding of O2's first
weights, the scale judged after each backward pass, the step left out. Where it harms, it is not:
clipping sees the gradients that step, checkpoints hold float32 weights, closures and tied weights
work, and between steps the model is an ordinary float32 model.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.backends.precision.base import Kind, Precision, refuse_reevaluation
from leyden.backends.precision.half_weights import Gathered, HalfWeights
from leyden.backends.precision.inputs import Boundaries
from leyden.backends.precision.loss_scale import LossScale, overflowed
from leyden.backends.precision.true import warn_of_small_eps

__all__ = ["LEVELS", "OptLevel", "PlainLevel", "ScaledLevel", "opt_level"]

LEVELS = ("O0", "O1", "O2", "O3")


class OptLevel(Precision):
    """What the levels have in common: a loss scale, kept under Lightning 1.1's key."""

    active: ClassVar[bool] = True
    checkpoint_key: str | None = "amp_scaling_state"

    def __init__(self, level: str, scale: LossScale) -> None:
        super().__init__("16")
        self.level = level
        self.loss_scale = scale

    def state_dict(self) -> dict[str, Any]:
        return self.loss_scale.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.loss_scale.dynamic:
            self.loss_scale.load_state_dict(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.level!r})"


class PlainLevel(OptLevel):
    """O0 and O3: one format for everything, nothing is scaled.

    Under O3 the model is float16 during a run and float32 again afterwards, with the same values.

    Args:
        level: ``"O0"`` or ``"O3"``.
    """

    def __init__(self, level: str) -> None:
        super().__init__(level, LossScale(dynamic=False))
        self.dtype = torch.float32 if level == "O0" else torch.float16
        self._model: nn.Module | None = None
        self._hooks: list[Any] = []
        self._boundaries = Boundaries(self.dtype)

    def prepare(
        self, model: nn.Module, optimizers: Sequence[Optimizer] = (), *, fresh: bool = True
    ) -> None:
        model.to(self.dtype)
        self._model = model
        if self.level == "O3":
            warn_of_small_eps("16, amp_level='O3'", optimizers)
            # The private spelling is the one that every torch since 2.4 has.
            untyped: Any = model
            self._hooks.append(untyped._register_state_dict_hook(_in_float32))
        self._boundaries.attach(model)

    def release(self) -> None:
        self._boundaries.detach()
        while self._hooks:
            self._hooks.pop().remove()
        if self._model is not None:
            self._model.float()
            self._model = None

    def backward(
        self, run: Callable[[Tensor], Any], loss: Tensor, optimizer: Optimizer | None
    ) -> None:
        run(loss.float())


class ScaledLevel(OptLevel):
    """O1 and O2: gradients are unscaled after each backward pass, and added up in float32.

    A step is left out where one of the backward passes since the last step overflowed.

    Args:
        level: ``"O1"`` or ``"O2"``.
        device: the type of device that computes.

    State: the loss scale, in apex's form. O2's float32 weights are the ``state_dict`` of the model.
    """

    def __init__(self, level: str, device: str = "cpu") -> None:
        super().__init__(level, LossScale())
        self.device = device
        self.optimizers: list[Optimizer] = []
        self._skip: set[int] = set()
        self._initial = self.state_dict()
        self._weights: Gathered = Gathered()
        self._boundaries = Boundaries(torch.float16)
        self._inside = False  # within a manual training step

    def prepare(
        self, model: nn.Module, optimizers: Sequence[Optimizer] = (), *, fresh: bool = True
    ) -> None:
        refuse_reevaluation(f"16, amp_level={self.level!r}", optimizers)
        self.optimizers = list(optimizers)
        parameters = [p for o in optimizers for g in o.param_groups for p in g["params"]]
        if self.level == "O1":
            self._weights = Gathered(model.parameters(), parameters)
        else:
            model.float()
            self._weights = HalfWeights(model, parameters, rounded=fresh and bool(optimizers))
            self._boundaries.attach(model)
        if fresh:
            self.count_from(0)
            self.load_state_dict(self._initial)
            self._skip = set()

    def release(self) -> None:
        self.settle()
        self._boundaries.detach()
        self._weights = Gathered()

    def around(self, step: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        inner = step
        if self.level == "O1":
            context = torch.autocast(self.device, dtype=torch.float16)

            def inner(*args: Any, **kwargs: Any) -> Any:
                with context:
                    return step(*args, **kwargs)

        @functools.wraps(step)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._weights.enter()
            self._inside = kind == "manual"
            try:
                output = inner(*args, **kwargs)
            except BaseException:
                self.settle()
                raise
            if kind != "train":  # there the backward pass comes yet
                self.settle()
            return output

        return run

    def backward(
        self, run: Callable[[Tensor], Any], loss: Tensor, optimizer: Optimizer | None
    ) -> None:
        run(loss.float() * self.loss_scale.scale)
        overflow = False
        fresh = self._weights.collect(1.0 / self.loss_scale.scale)
        for one in self.optimizers if optimizer is None else (optimizer,):
            mine = [fresh[id(p)] for g in one.param_groups for p in g["params"] if id(p) in fresh]
            if overflowed(mine):
                overflow = True
                self._skip.add(id(one))
        self.loss_scale.judge(overflow)
        if not self._inside:
            self.settle()

    def gradients_ready(self, optimizer: Optimizer) -> None:
        self._weights.leave()

    def step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        result = None if closure is None else closure()
        self._weights.leave()
        if id(optimizer) in self._skip:
            self._skip.discard(id(optimizer))
            self._skipped += 1
            optimizer._opt_called = True  # type: ignore[attr-defined]
        else:
            optimizer.step(**(arguments or {}))
        return result

    def settle(self) -> None:
        self._inside = False
        self._weights.leave()

    @contextmanager
    def whole(self) -> Iterator[None]:
        entered = self._weights.entered
        self._weights.leave()
        try:
            yield
        finally:
            if entered:
                self._weights.enter()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        waiting = [i for i, o in enumerate(self.optimizers) if id(o) in self._skip]
        # Only in the middle of a group of batches one of which overflowed: apex forgets it there.
        return {**state, "skip": waiting} if waiting else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._skip = {id(self.optimizers[i]) for i in state.get("skip", ())}


def opt_level(level: str, device: str = "cpu") -> OptLevel:
    """Make the precision of an opt-level.

    Raises:
        ValueError: for a level there is not.
    """
    if level not in LEVELS:
        raise ValueError(f"amp_level={level!r} is unknown: pass one of {', '.join(LEVELS)}")
    return PlainLevel(level) if level in ("O0", "O3") else ScaledLevel(level, device)


def _in_float32(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
    """Let a ``state_dict`` hold float32 in the place of float16; loading takes both."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dtype is torch.float16:
            state[key] = value.float()

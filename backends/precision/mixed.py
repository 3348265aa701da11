"""Automatic mixed precision: autocast around the steps, and a gradient scaler for float16."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.backends.precision.base import Kind, Precision, refuse_reevaluation

__all__ = ["MixedPrecision", "Scaler"]


class Scaler(torch.amp.GradScaler):  # type: ignore[misc, unused-ignore]
    """torch's gradient scaler, for several optimizers with gradients of several batches.

    torch changes the scale for all optimizers together, once everybody has stepped. In a training
    loop each optimizer has a turn of its own, and may have gathered gradients of several batches
    when another one steps. So whenever the scale changes, gradients that wait are brought to the
    new one; both are powers of two, which changes no digit.
    """

    def adapt(self, optimizer: Optimizer, others: Sequence[Optimizer]) -> None:
        """Update the scale after ``optimizer`` stepped; gradients of ``others`` wait for theirs."""
        if not others:
            self.update()
            return
        for other in others:
            if self.unscaled(other):
                self.take_back(other)
        own = {id(p) for p in _parameters(optimizer)}
        waiting = [p.grad for o in others for p in _parameters(o) if id(p) not in own]
        gradients = list({id(g): g for g in waiting if g is not None}.values())
        old = self.get_scale()
        self.update()
        change = self.get_scale() / old
        if gradients and change != 1.0:
            torch._foreach_mul_(gradients, change)

    def take_back(self, optimizer: Optimizer) -> None:
        """Scale gradients again that were unscaled, and whose step was not made after all."""
        if self._per_optimizer_states.pop(id(optimizer), {}).get("found_inf_per_device"):
            gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
            torch._foreach_mul_(gradients, self.get_scale())

    def unscaled(self, optimizer: Optimizer) -> bool:
        """Whether ``optimizer`` has gradients that are unscaled and wait for their step."""
        return id(optimizer) in self._per_optimizer_states


class MixedPrecision(Precision):
    """Computes matrix products and convolutions in a 16-bit format, the rest in float32.

    Weights, gradients and optimizers stay float32. float16 has a small range: the loss is scaled
    before the backward pass so that small gradients survive, and a step whose gradients came out
    infinite is left out. bfloat16 has float32's range and needs none of this.

    Args:
        dtype: ``torch.float16`` or ``torch.bfloat16``.
        device: the type of device that computes, ``"cpu"`` or ``"cuda"``.
        scaler: scales the loss; None: one of torch's with its defaults for float16, none for
            bfloat16.
        name: shown for this precision.

    State: that of the scaler, under the key of Lightning 1.1.

    Source: native mixed precision of PyTorch Lightning 1.1, where several optimizers with
    accumulated gradients could be unscaled by a scale that was not theirs.
    """

    active: ClassVar[bool] = True

    def __init__(
        self,
        dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu",
        *,
        scaler: Scaler | None = None,
        name: str | None = None,
    ) -> None:
        if dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"dtype={dtype} is no 16-bit format: pass torch.float16 or bfloat16")
        super().__init__(name or ("16-mixed" if dtype is torch.float16 else "bf16-mixed"))
        self.dtype = dtype
        self.device = device
        self.scaler = Scaler(device) if scaler is None and dtype is torch.float16 else scaler
        if self.scaler is not None:
            self.checkpoint_key = "native_amp_scaling_state"
        self.optimizers: list[Optimizer] = []
        self._hooks: list[Any] = []
        self._scaled = False  # whether gradients there are have a scale
        self._initial = self.state_dict()
        self._attempts = 0
        # A float, or a tensor on the device where a fused optimizer decides there.
        self._made: Any = 0.0

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps left out; where the device decides, asking waits for it."""
        return self._skipped + self._attempts - int(self._made)

    def count_from(self, skipped: int) -> None:
        self._skipped, self._attempts, self._made = skipped, 0, 0.0

    def prepare(
        self, model: nn.Module, optimizers: Sequence[Optimizer] = (), *, fresh: bool = True
    ) -> None:
        self.optimizers = list(optimizers)
        if self.scaler is None:
            return
        refuse_reevaluation(self.name, optimizers)
        if fresh:
            self.count_from(0)
            self.load_state_dict(self._initial)
        for optimizer in optimizers:
            self._hooks.append(optimizer.register_step_post_hook(self._count))

    def release(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def around(self, step: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
        context = torch.autocast(self.device, dtype=self.dtype)

        @functools.wraps(step)
        def run(*args: Any, **kwargs: Any) -> Any:
            with context:
                return step(*args, **kwargs)

        return run

    def backward(
        self, run: Callable[[Tensor], Any], loss: Tensor, optimizer: Optimizer | None
    ) -> None:
        if self.scaler is None:
            run(loss)
            return
        for one in self.optimizers if optimizer is None else (optimizer,):
            if self.scaler.unscaled(one):
                self.scaler.take_back(one)
        self._scaled = True
        run(self.scaler.scale(loss))

    def gradients_ready(self, optimizer: Optimizer) -> None:
        if self._scaled and _any(optimizer) and not self.scaler.unscaled(optimizer):
            self.scaler.unscale_(optimizer)

    def step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        if self.scaler is None:
            return super().step(optimizer, closure, arguments)
        result = None if closure is None else closure()
        if not self._scaled or not _any(optimizer):
            optimizer.step(**(arguments or {}))
            return result
        self.gradients_ready(optimizer)
        self._attempts += 1
        self.scaler.step(optimizer, **(arguments or {}))
        self.scaler.adapt(optimizer, [o for o in self.optimizers if o is not optimizer])
        # torch warns of a scheduler that steps first; a step that was left out was tried.
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return result

    def _count(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # A fused optimizer is called whatever was found, and decides on the device.
        found = getattr(optimizer, "found_inf", None)
        self._made = self._made + (1.0 if found is None else 1.0 - found)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state))
            self._scaled = state is not self._initial


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _any(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])

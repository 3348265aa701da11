"""Weights that are float16 within a step and float32 outside of it, and gradients added up."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Gathered", "HalfWeights"]


class Gathered:
    """Gradients of several backward passes, each unscaled by its own factor, added in float32.

    Between :meth:`enter` and :meth:`leave` the ``.grad`` of the parameters is for the backward
    pass; outside it is the sum so far.

    Args:
        groups: iterables of parameters; one in several of them counts once.
    """

    def __init__(self, *groups: Iterable[Tensor]) -> None:
        self.parameters = list({id(p): p for group in groups for p in group}.values())
        self._sums: dict[int, Tensor] = {}
        self.entered = False

    def enter(self) -> None:
        """Put the sums aside: a step begins."""
        if self.entered:
            return
        self.entered = True
        for parameter in self.parameters:
            if parameter.grad is not None:
                self._sums[id(parameter)] = parameter.grad
                parameter.grad = None

    def collect(self, factor: float) -> dict[int, Tensor]:
        """Add the gradients of one backward pass, times ``factor``; return them by parameter."""
        fresh: dict[int, Tensor] = {}
        for parameter in self.parameters:
            if parameter.grad is not None:
                fresh[id(parameter)] = parameter.grad.float()
                parameter.grad = None
        if fresh:
            torch._foreach_mul_(list(fresh.values()), factor)
        for key, gradient in fresh.items():
            known = self._sums.get(key)
            self._sums[key] = gradient if known is None else known + gradient
        if not self.entered:
            self._give_back()
        return fresh

    def leave(self) -> None:
        """The sums are the gradients again."""
        if self.entered:
            self.entered = False
            # Of a backward pass that nobody scaled, if there was one.
            self.collect(1.0)

    def _give_back(self) -> None:
        for parameter in self.parameters:
            gradient = self._sums.pop(id(parameter), None)
            if gradient is not None:
                parameter.grad = gradient


class HalfWeights(Gathered):
    """Lets the weights of a model be float16 between :meth:`enter` and :meth:`leave`.

    The parameters stay the same objects all the time, so that optimizers, schedulers, tied weights,
    ``state_dict`` and copies need to know nothing; only what they hold is exchanged. The float16
    copy is made anew where the float32 weights have changed.

    Args:
        model: the float32 model; batch norm with weights of its own stays float32.
        others: further parameters whose gradients are gathered.
        rounded: round the weights to float16 now, as the first masters of apex are.
    """

    def __init__(self, model: nn.Module, others: Iterable[Tensor], *, rounded: bool) -> None:
        super().__init__(model.parameters(), others)
        kept = {id(t) for module in model.modules() if _stays(module) for t in _own(module)}
        owners = {id(t): (t, module) for module in model.modules() for t in _own(module)}
        self._exchanged = [
            _Exchanged(tensor, module)
            for key, (tensor, module) in owners.items()
            if key not in kept and tensor.dtype is torch.float32
        ]
        if rounded:
            with torch.no_grad():
                for entry in self._exchanged:
                    entry.tensor.copy_(entry.tensor.half())

    def enter(self) -> None:
        if not self.entered:
            super().enter()
            # Each time: who writes to `.data` leaves no trace that could be looked for.
            entries = self._exchanged
            for entry in entries:
                entry.make_room()
            if entries:
                torch._foreach_copy_([e.half for e in entries], [e.tensor.data for e in entries])
            for entry in entries:
                entry.to_half()

    def leave(self) -> None:
        if not self.entered:
            return
        # In two steps: a float16 weight takes no float32 gradient.
        self.collect(1.0)
        for entry in self._exchanged:
            entry.to_float()
        self.entered = False
        self._give_back()


class _Exchanged:
    """One tensor, its float32 content and its float16 content."""

    __slots__ = ("full", "half", "owner", "tensor", "version")

    def __init__(self, tensor: Tensor, owner: nn.Module) -> None:
        self.tensor = tensor
        self.owner = owner
        self.full: Any = None
        self.half: Any = None
        self.version = -1

    def make_room(self) -> None:
        data = self.tensor.data
        if self.half is None or (self.half.device, self.half.shape) != (data.device, data.shape):
            self.half = torch.empty_like(data, dtype=torch.float16)

    def to_half(self) -> None:
        self.full, self.tensor.data = self.tensor.data, self.half
        self.version = self.tensor._version

    def to_float(self) -> None:
        self.tensor.data = self.full
        # Written to within the step: running statistics, or weights by the user's own hand. Batch
        # norm writes its statistics without a trace.
        norm = isinstance(self.owner, nn.modules.batchnorm._BatchNorm) and self.owner.training
        if norm or self.tensor._version != self.version:
            with torch.no_grad():
                self.full.copy_(self.half)
        self.full = None


def _stays(module: nn.Module) -> bool:
    # As in apex: only batch norm, and only where it has weights. Losses get float32 outputs.
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    affine = batch_norm and bool(getattr(module, "affine", False))
    return affine or isinstance(module, nn.modules.loss._Loss)


def _own(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)

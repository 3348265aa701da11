"""What a process adds to a step that it has no batch for: gradients of zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from leyden.engine.errors import MisconfigurationException

__all__ = ["Uneven", "shared_from", "zeros_of"]


class Uneven:
    """Puts a step of zeros in the place of the user's, where there is no batch for it.

    Attributes:
        over: whether the batch at hand is none of this process.
    """

    def __init__(self) -> None:
        self.over = False
        self._losses: dict[int, Tensor] = {}
        self._heads: dict[int, Tensor | None] = {}

    def instead_of(
        self, step: Callable[..., Any], model: nn.Module, *, finds_unused: bool
    ) -> Callable[..., Any]:
        """Return the step as it is to run; its third argument is the optimizer's number, if any.

        Args:
            step: the user's.
            model: whose parameters it uses.
            finds_unused: whether parameters that the step does not use are to have no gradients.
        """
        self._losses.clear()
        self._heads.clear()

        def either(*args: Any, **kwargs: Any) -> Any:
            index = args[2] if len(args) > 2 else 0
            if self.over:
                return self._zeros(model, index, finds_unused)
            output = step(*args, **kwargs)
            loss = output.get("loss") if isinstance(output, dict) else output
            if not isinstance(loss, Tensor):
                raise MisconfigurationException(
                    "training_step returned no loss, and a process without a batch sends gradients "
                    "at every step: return a loss for each batch, or leave out join_uneven_inputs"
                )
            self._losses[index] = loss.detach()
            if finds_unused and index not in self._heads:
                self._heads[index] = _first_leaf(loss)
            return output

        return either

    def _zeros(self, model: nn.Module, index: int, finds_unused: bool) -> Tensor:
        parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        head = self._heads.get(index)
        if finds_unused:
            # One is enough for torch to send them all; the others count as unused here.
            there = head is not None and any(head is p for p in parameters)
            parameters = [head] if there and head is not None else parameters[:1]
        total = zeros_of(parameters)
        last = self._losses.get(index)  # what bars show goes on
        return total if last is None else total + last


def zeros_of(parameters: list[Tensor]) -> Tensor:
    """Return a zero whose gradient is zero for each of the parameters."""
    total = parameters[0].reshape(-1)[:1].sum() * 0.0
    for parameter in parameters[1:]:
        total = total + parameter.reshape(-1)[:1].sum() * 0.0
    # A parameter that is no number any more makes none of it: the gradients are zeros all the same.
    return total


def _first_leaf(loss: Tensor) -> Tensor | None:
    """The parameter that the backward pass of a loss comes to first."""
    seen: set[Any] = set()
    level = [loss.grad_fn]
    while level:
        following: list[Any] = []
        for node in level:
            variable = getattr(node, "variable", None)
            if isinstance(variable, Tensor):
                return variable
            for child, _ in getattr(node, "next_functions", ()):
                if child is not None and child not in seen:
                    seen.add(child)
                    following.append(child)
        level = following
    return None


def shared_from(rank: int, tensors: list[Tensor], group: Any = None) -> None:
    """Give all processes the tensors of one of them, in one message for each type of numbers."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    with torch.no_grad():
        for alike in kinds.values():
            row = torch.cat([tensor.reshape(-1) for tensor in alike])
            torch.distributed.broadcast(row, rank, group=group)
            at = 0
            for tensor in alike:
                tensor.copy_(row[at : at + tensor.numel()].view_as(tensor))
                at += tensor.numel()

"""Running reductions of logged values: streamed, so that an epoch of any length keeps little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from leyden.engine.errors import MisconfigurationException

__all__ = ["FLUSH_EVERY", "Accumulator", "reduction_of"]

FLUSH_EVERY = 64
"""Values that are kept before they are folded into the running sum."""

_NAMES = {"mean": "mean", "avg": "mean", "sum": "sum", "min": "min", "max": "max"}
_CALLABLES: dict[Any, str] = {
    torch.mean: "mean",
    torch.sum: "sum",
    torch.min: "min",
    torch.amin: "min",
    torch.max: "max",
    torch.amax: "max",
    sum: "sum",
    min: "min",
    max: "max",
}


def reduction_of(reduce_fx: Any, name: str, hook: str | None) -> str | Callable[[Tensor], Any]:
    """Return 'mean', 'sum', 'min' or 'max' for what can be streamed, else the callable itself.

    Raises:
        MisconfigurationException: `reduce_fx` is neither a callable nor one of these words.
    """
    if isinstance(reduce_fx, str):
        if reduce_fx.lower() in _NAMES:
            return _NAMES[reduce_fx.lower()]
    elif callable(reduce_fx):
        try:
            return _CALLABLES.get(reduce_fx, reduce_fx)
        except TypeError:  # an unhashable callable
            return reduce_fx  # type: ignore[no-any-return]
    raise MisconfigurationException(
        f"self.log({name!r}) in {hook}: reduce_fx={reduce_fx!r} is not known: pass"
        " 'mean', 'sum', 'min', 'max' or a function of a 1-dim tensor, such as torch.median"
    )


class Accumulator:
    """The running reduction of one metric.

    Whoever logs appends to `values` (and `weights` for a mean) and calls `flush` now and then.

    Attributes:
        values: what was logged since the last flush: Python numbers and 0-dim tensors.
        weights: the batch size of each of them; unused unless the reduction is a mean.
    """

    __slots__ = (
        "_fn",
        "_kept",
        "_number",
        "_op",
        "_total",
        "_weight",
        "_wide",
        "values",
        "weights",
    )

    def __init__(self, op: str | Callable[[Tensor], Any]) -> None:
        self._op = op if isinstance(op, str) else "keep"
        self._fn = op
        self.values: list[Any] = []
        self.weights: list[int] = []
        self._number: float | None = None
        self._total: Tensor | None = None
        self._weight = 0
        self._kept: list[Tensor] = []
        self._wide = False  # whether float64 came in, and so goes out

    def __bool__(self) -> bool:
        return bool(
            self.values or self._number is not None or self._total is not None or self._kept
        )

    def reduces(self, op: str | Callable[[Tensor], Any]) -> bool:
        """Whether this is the reduction `op`; a restored custom one takes the function over."""
        if self._op == "keep" and callable(op):
            self._fn = op
            return True
        return self._fn == op

    def clear(self) -> None:
        """Forget every value."""
        self.values, self.weights = [], []
        self._number = self._total = None
        self._weight = 0
        self._kept = []
        self._wide = False

    def flush(self) -> None:
        """Fold the values that came since the last flush into the running result."""
        if not self.values:
            return
        values, self.values = self.values, []
        weights, self.weights = self.weights, []
        op = self._op
        if op == "keep":
            self._keep(values)
            return
        if op == "mean":
            self._weight += sum(weights)
        numbers: list[float] = []
        tensors: dict[torch.device, list[Tensor]] = {}
        tensor_weights: dict[torch.device, list[int]] = {}
        for i, value in enumerate(values):
            if isinstance(value, Tensor):
                device = value.device
                tensors.setdefault(device, []).append(value)
                if op == "mean":
                    tensor_weights.setdefault(device, []).append(weights[i])
            else:
                numbers.append(value * weights[i] if op == "mean" else value)
        if numbers:
            self._add_number(_fold_numbers(op, numbers))
        for device, group in tensors.items():
            self._add_total(self._fold(op, group, tensor_weights.get(device, [])))

    def _fold(self, op: str, group: list[Tensor], weights: list[int]) -> Tensor:
        wide = group[0].device.type != "mps"
        dtype = torch.float64 if wide else torch.float32
        if any(v.dtype is torch.float64 for v in group):
            self._wide = True
        with torch.set_grad_enabled(any(v.requires_grad for v in group)):
            if op == "mean":
                if weights.count(weights[0]) == len(weights):
                    return _stack(group).sum(dtype=dtype) * weights[0]
                # The weights travel as arguments of the kernels: a tensor of them would be a
                # copy to the device that waits.
                distinct = set(weights)
                if len(distinct) <= 4:
                    parts = [
                        _stack([v for v, n in zip(group, weights, strict=True) if n == w]).sum(
                            dtype=dtype
                        )
                        * w
                        for w in distinct
                    ]
                    return torch.stack(parts).sum()
                scaled = torch._foreach_mul(
                    [v.to(dtype) for v in group], [float(w) for w in weights]
                )
                return torch.stack(list(scaled)).sum()
            stacked = _stack(group).to(dtype)
            return stacked.sum() if op == "sum" else stacked.min() if op == "min" else stacked.max()

    def _add_number(self, number: float) -> None:
        old = self._number
        self._number = number if old is None else _fold_numbers(self._op, [old, number])

    def _add_total(self, total: Tensor) -> None:
        old = self._total
        if old is None:
            self._total = total
            return
        if old.device != total.device:
            total = total.to(old.device)
        if self._op in ("mean", "sum"):
            self._total = old + total
        else:
            self._total = (torch.minimum if self._op == "min" else torch.maximum)(old, total)

    def _keep(self, values: list[Any]) -> None:
        like = next((v for v in values if isinstance(v, Tensor)), None)
        device = like.device if like is not None else None
        if self._kept and device is None:
            device = self._kept[0].device
        tensors = [
            v if isinstance(v, Tensor) else torch.tensor(float(v), device=device) for v in values
        ]
        self._kept.append(_stack(tensors))

    def result(self) -> Tensor | None:
        """Return the reduced value as a 0-dim tensor; None if nothing came."""
        self.flush()
        if not self:
            return None
        if self._op == "keep":
            assert callable(self._fn)
            out = self._fn(torch.cat([k.to(self._kept[0].device) for k in self._kept]))
            return out if isinstance(out, Tensor) else torch.tensor(float(out))
        if self._total is None:
            assert self._number is not None
            number = self._number / self._weight if self._op == "mean" else self._number
            return torch.tensor(float(number))
        total = self._total
        if self._number is not None:
            if self._op in ("mean", "sum"):
                total = total + self._number
            elif self._op == "min":
                total = total.clamp(max=self._number)
            else:
                total = total.clamp(min=self._number)
        if self._op == "mean":
            total = total / self._weight
        return total if self._wide else total.to(torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return the running result as tensors and numbers."""
        self.flush()
        return {
            "op": self._op,
            "number": self._number,
            "total": None if self._total is None else self._total.detach(),
            "weight": self._weight,
            "kept": [k.detach() for k in self._kept],
            "wide": self._wide,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved running result.

        Raises:
            ValueError: it was made by another reduction.
        """
        if state["op"] != self._op:
            raise ValueError(
                f"the saved running value was reduced by {state['op']!r}, this one by"
                f" {self._op!r}: log the metric with the same reduce_fx as in the saved run"
            )
        self.values, self.weights = [], []
        self._number = state["number"]
        self._total = state["total"]
        self._weight = state["weight"]
        self._kept = list(state["kept"])
        self._wide = state["wide"]


def _stack(group: list[Tensor]) -> Tensor:
    first = group[0].dtype
    if any(v.dtype is not first for v in group):
        group = [v.to(torch.float64) for v in group]
    return torch.stack(group)


def _fold_numbers(op: str, numbers: list[float]) -> float:
    if op in ("mean", "sum"):
        return sum(numbers)
    return min(numbers) if op == "min" else max(numbers)

"""Running reductions of logged values: streamed, so that an epoch of any length keeps little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import mul
from typing import Any

import torch
from torch import Tensor

from leyden.engine.errors import MisconfigurationException
from leyden.engine.notice import warn

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
            known = _CALLABLES.get(reduce_fx)
        except TypeError:  # an unhashable callable
            known = None
        if known is not None:
            return known
        fn: Callable[[Tensor], Any] = reduce_fx
        return fn
    raise MisconfigurationException(
        f"self.log({name!r}) in {hook}: reduce_fx={reduce_fx!r} is not known: pass"
        " 'mean', 'sum', 'min', 'max' or a function of a 1-dim tensor, such as torch.median"
    )


class Accumulator:
    """The running reduction of one metric.

    Whoever logs appends to `values` and `weights`, and calls `flush` now and then.

    Attributes:
        values: what was logged since the last flush: Python numbers and 0-dim tensors.
        weights: the batch size of each of them; only a mean looks at them.
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
        # None in a restored custom reduction, until its name is logged again
        self._fn: str | Callable[[Tensor], Any] | None = op if op != "keep" else None
        self.clear()

    def clear(self) -> None:
        """Forget every value."""
        self.values: list[Any] = []
        self.weights: list[int] = []
        self._number: float | None = None  # the Python numbers' share of the result
        self._total: Tensor | None = None  # the tensors' share
        self._weight = 0
        self._kept: list[Tensor] = []
        self._wide = False  # whether float64 came in, and so goes out

    def __bool__(self) -> bool:
        return bool(
            self.values or self._number is not None or self._total is not None or self._kept
        )

    @property
    def op(self) -> str:
        """'mean', 'sum', 'min', 'max', or 'keep' for a function of all values."""
        return self._op

    @property
    def weight(self) -> float:
        """What the result weighs against other processes' results; 0 without a value."""
        if self._op == "mean":
            return self._weight + sum(self.weights)
        return 1.0 if self else 0.0

    def reduces(self, op: str | Callable[[Tensor], Any]) -> bool:
        """Whether this is the reduction `op`; a function takes over what another one kept."""
        if self._op == "keep" and callable(op):
            self._fn = op
            return True
        return self._fn == op

    def flush(self) -> None:
        """Fold the values that came since the last flush into the running result."""
        if not self.values:
            return
        values, self.values = self.values, []
        weights, self.weights = self.weights, []
        if self._op == "keep":
            self._kept.append(_as_vector(values, self._kept))
            return
        self._weight += sum(weights)
        # Almost always all are tensors of one device, or all are numbers.
        if isinstance(values[0], Tensor):
            try:
                stacked = torch.stack(values)
            except (TypeError, RuntimeError):
                self._flush_mixed(values, weights)
            else:
                self._add_tensors(stacked, weights)
        elif any(isinstance(v, Tensor) for v in values):
            self._flush_mixed(values, weights)
        else:
            self._add_numbers(values, weights)

    def _flush_mixed(self, values: list[Any], weights: list[int]) -> None:
        groups: dict[Any, tuple[list[Any], list[int]]] = {}
        for value, weight in zip(values, weights, strict=True):
            device = value.device if isinstance(value, Tensor) else None
            group = groups.setdefault(device, ([], []))
            group[0].append(value)
            group[1].append(weight)
        for device, (group_values, group_weights) in groups.items():
            if device is None:
                self._add_numbers(group_values, group_weights)
            else:
                self._add_tensors(torch.stack(group_values), group_weights)

    def _add_numbers(self, numbers: list[Any], weights: list[int]) -> None:
        old = [] if self._number is None else [self._number]
        if self._op == "mean":
            # One by one, so that it does not matter for the last digit when a flush came.
            self._number = sum(map(mul, numbers, weights), self._number or 0.0)
        elif self._op == "sum":
            self._number = sum(numbers, self._number or 0.0)
        else:
            # NaN wins, as in torch: Python's min and max would drop it or not by its place.
            candidates = [*old, *numbers]
            fold = min if self._op == "min" else max
            nan = next((n for n in candidates if n != n), None)
            self._number = fold(candidates) if nan is None else nan

    def _add_tensors(self, stacked: Tensor, weights: list[int]) -> None:
        wide = stacked.device.type not in ("mps", "xla")
        dtype = torch.float64 if wide else torch.float32
        self._wide = self._wide or stacked.dtype is torch.float64
        if self._op == "mean":
            first = weights[0]
            if weights.count(first) == len(weights):
                total = stacked.sum(dtype=dtype) * first
            else:
                total = _weighted_sum(stacked.to(dtype), weights)
        elif self._op == "sum":
            total = stacked.sum(dtype=dtype)
        else:
            stacked = stacked.to(dtype)
            total = stacked.min() if self._op == "min" else stacked.max()
        old = self._total
        if old is None:
            self._total = total
            return
        old = old.to(total.device)
        if self._op in ("mean", "sum"):
            self._total = old + total
        else:
            self._total = (torch.minimum if self._op == "min" else torch.maximum)(old, total)

    def result(self) -> Tensor | None:
        """Return the reduced value as a 0-dim tensor; None if nothing came."""
        self.flush()
        if not self:
            return None
        if self._op == "keep":
            if not callable(self._fn):
                warn(
                    "a metric with a reduce_fx of its own was logged before the run was resumed,"
                    " and not after it in the same epoch: its value for the epoch is left out",
                )
                return None
            device = self._kept[-1].device
            out = self._fn(torch.cat([kept.to(device) for kept in self._kept]))
            return out if isinstance(out, Tensor) else torch.tensor(float(out))
        mean = self._op == "mean"
        if self._total is None:
            assert self._number is not None
            number = self._number
            if mean:
                number = number / self._weight if self._weight else float("nan")
            return torch.tensor(float(number))
        total = self._total
        if self._number is not None:
            if self._op in ("mean", "sum"):
                total = total + self._number
            else:
                fold = torch.minimum if self._op == "min" else torch.maximum
                total = fold(total, torch.full_like(total, self._number))
        if mean:
            total = total / self._weight
        return total if self._wide else total.to(torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return what was gathered as tensors and numbers.

        Nothing is folded: a run that is saved and one that is not add in the same order, and so
        agree to the last digit.
        """
        return {
            "op": self._op,
            "number": self._number,
            "total": None if self._total is None else _copied(self._total),
            "weight": self._weight,
            "kept": [_copied(kept) for kept in self._kept],
            "wide": self._wide,
            "values": [_copied(v) if isinstance(v, Tensor) else v for v in self.values],
            "weights": list(self.weights),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: it was made by another reduction.
        """
        if state["op"] != self._op:
            raise ValueError(
                f"the saved running value was reduced by {state['op']!r}, this one by"
                f" {self._op!r}: log the metric with the same reduce_fx as in the saved run"
            )
        self.values = list(state["values"])
        self.weights = list(state["weights"])
        self._number = state["number"]
        self._total = state["total"]
        self._weight = state["weight"]
        self._kept = list(state["kept"])
        self._wide = state["wide"]


def _copied(value: Tensor) -> Tensor:
    # Nobody writes to these again; XLA would compile such copies anew for each number of them.
    return value.detach() if value.device.type == "xla" else value.detach().clone()


def _weighted_sum(stacked: Tensor, weights: list[int]) -> Tensor:
    """The sum of values times weights, without a copy of the weights to the device.

    Such a copy waits for the device; numbers in a kernel's arguments do not.
    """
    distinct = sorted(set(weights))
    if len(distinct) > 4:
        return torch.stack(list(torch._foreach_mul(stacked.unbind(), weights))).sum()
    parts = stacked.unbind()
    sums = [
        torch.stack([p for p, w in zip(parts, weights, strict=True) if w == weight]).sum() * weight
        for weight in distinct
    ]
    return torch.stack(sums).sum()


def _as_vector(values: list[Any], kept: list[Tensor]) -> Tensor:
    like = next((v for v in values if isinstance(v, Tensor)), kept[-1] if kept else None)
    device = None if like is None else like.device
    return torch.stack(
        [
            v.to(device) if isinstance(v, Tensor) else torch.tensor(float(v), device=device)
            for v in values
        ]
    )

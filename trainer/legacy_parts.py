"""Small functions and classes that code for Lightning 1.x imports from inside the package."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leyden.engine.optimizer_proxy import OptimizerProxy
from leyden.handlers.summary import human_readable

__all__ = [
    "PARAMETER_NUM_UNITS",
    "Accumulator",
    "TrainerLoggingMixin",
    "TransferableDataType",
    "convert_inf",
    "do_nothing_closure",
    "get_human_readable_count",
    "is_lightning_optimizer",
    "lightning_get_all_attr_holders",
    "lightning_get_first_attr_holder",
    "lr_find",
    "parse_args_from_docstring",
    "parse_class_init_keys",
    "reset",
    "scale_batch_size",
]

#: What a count of parameters is shortened to: as it is, thousands, millions ...
PARAMETER_NUM_UNITS = [" ", "K", "M", "B", "T"]


def get_human_readable_count(number: int) -> str:
    """Shorten a number to at most three digits and a unit; as it is, with a space behind."""
    text = human_readable(number)
    return text if " " in text else f"{text}  "


# ---------------------------------------------------------------- progress bars


def convert_inf(x: float | None) -> float | None:
    """A total that a bar can show: None where it is not known."""
    return None if x is None or math.isinf(x) or math.isnan(x) else x


def reset(bar: Any, total: float | None = None) -> None:
    """Let a bar begin again, with another total."""
    bar.reset(total=convert_inf(total))


# ---------------------------------------------------------------- optimizers


def do_nothing_closure() -> None:
    """A closure for optimizers that need none."""


def is_lightning_optimizer(optimizer: Any) -> bool:
    """Whether an optimizer is one that ``self.optimizers()`` gives."""
    return isinstance(optimizer, OptimizerProxy)


# ---------------------------------------------------------------- numbers, data


class Accumulator:
    """A sum and how many were added."""

    def __init__(self) -> None:
        self.num_values = 0
        self.total: Tensor | float = 0

    def accumulate(self, x: Tensor | float) -> None:
        """Add a number."""
        with torch.no_grad():
            self.total = self.total + x
        self.num_values += 1

    def mean(self) -> Tensor | float:
        """The mean of what was added."""
        if not self.num_values:
            raise ValueError("nothing was added, so there is no mean: call accumulate first")
        return self.total / self.num_values


class TrainerLoggingMixin:
    """Two helpers of Lightning 1.1's Trainer for what is logged, to call or to derive from."""

    def metrics_to_scalars(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Numbers for tensors, in dicts of any depth."""
        return {
            name: self.metrics_to_scalars(value)
            if isinstance(value, dict)
            else value.item()
            if isinstance(value, Tensor)
            else value
            for name, value in metrics.items()
        }

    def reduce_distributed_output(self, output: Any, num_gpus: int) -> Any:
        """Means over what several GPUs gave of a batch: of tensors, of lists, in dicts.

        What has more numbers than there are GPUs is no such thing, and stays.
        """
        if num_gpus <= 1:
            return output
        if isinstance(output, Tensor):
            return output.mean()
        for name, value in output.items():
            if isinstance(value, dict):
                output[name] = self.reduce_distributed_output(value, num_gpus)
            elif isinstance(value, list):
                output[name] = sum(value) / len(value)
            elif value.dim() and value.size(0) <= num_gpus:
                output[name] = value.mean()
        return output


class TransferableDataType(ABC):
    """Everything that has a method ``to``.

    Example:
        >>> isinstance(torch.zeros(1), TransferableDataType), isinstance(1, TransferableDataType)
        (True, False)
    """

    @abstractmethod
    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device."""

    @classmethod
    def __subclasshook__(cls, subclass: type) -> Any:
        if cls is TransferableDataType:
            return callable(getattr(subclass, "to", None))
        return NotImplemented


# ---------------------------------------------------------------- attributes, arguments


def lightning_get_all_attr_holders(model: Any, attribute: str) -> list[Any]:
    """Of the module, its hyper-parameters and its data module those with an attribute."""
    found: list[Any] = [model] if hasattr(model, attribute) else []
    hparams = getattr(model, "hparams", None)
    if (isinstance(hparams, Mapping) and attribute in hparams) or (
        hparams is not None and not isinstance(hparams, Mapping) and hasattr(hparams, attribute)
    ):
        found.append(hparams)
    data = getattr(getattr(model, "trainer", None), "datamodule", None)
    if data is not None and hasattr(data, attribute):
        found.append(data)
    return found


def lightning_get_first_attr_holder(model: Any, attribute: str) -> Any:
    """Of :func:`lightning_get_all_attr_holders` the last one, which is the one that counts."""
    found = lightning_get_all_attr_holders(model, attribute)
    return found[-1] if found else None


def parse_class_init_keys(cls: type) -> tuple[str, str | None, str | None]:
    """The names of ``self``, ``*args`` and ``**kwargs`` of a constructor; None for none."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())  # type: ignore[misc]

    def named(kind: Any) -> str | None:
        return next((p.name for p in parameters if p.kind is kind), None)

    first = parameters[0]
    return first.name, named(first.VAR_POSITIONAL), named(first.VAR_KEYWORD)


def parse_args_from_docstring(docstring: str) -> dict[str, str]:
    """What the ``Args`` section of a docstring says of each argument."""
    from leyden.arguments import argument_descriptions

    return argument_descriptions(type("Described", (), {"__doc__": docstring}))


# ---------------------------------------------------------------- tuning


def lr_find(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """``trainer.tuner.lr_find(model, ...)`` as a function."""
    return trainer.tuner.lr_find(model, *args, **kwargs)


def scale_batch_size(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """``trainer.tuner.scale_batch_size(model, ...)`` as a function."""
    return trainer.tuner.scale_batch_size(model, *args, **kwargs)

"""Names of types that code for Lightning 1.2 to 1.9 writes into its annotations."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Union

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader

__all__ = [
    "EPOCH_OUTPUT",
    "EVAL_DATALOADERS",
    "LRSchedulerType",
    "LRSchedulerTypeTuple",
    "LRSchedulerTypeUnion",
    "STEP_OUTPUT",
    "TRAIN_DATALOADERS",
    "OptimizerLRScheduler",
]

# typing.Union and not `|`: code puts these into its own unions, with text in them.
STEP_OUTPUT = Union[Tensor, Mapping[str, Any], None]  # noqa: UP007
EPOCH_OUTPUT = list[Union[Tensor, dict[str, Any]]]  # noqa: UP007
EVAL_DATALOADERS = Union[DataLoader[Any], Iterable[Any]]  # noqa: UP007
TRAIN_DATALOADERS = Union[DataLoader[Any], Iterable[Any], Mapping[str, Any]]  # noqa: UP007
LRSchedulerType = Union[type[LRScheduler], type[ReduceLROnPlateau]]  # noqa: UP007
LRSchedulerTypeUnion = Union[LRScheduler, ReduceLROnPlateau]  # noqa: UP007
LRSchedulerTypeTuple = (LRScheduler, ReduceLROnPlateau)
OptimizerLRScheduler = Union[Optimizer, Iterable[Any], Mapping[str, Any], None]  # noqa: UP007
_METRIC = Union[Tensor, float, int]  # noqa: UP007
_PATH = Union[str, os.PathLike[str]]  # noqa: UP007

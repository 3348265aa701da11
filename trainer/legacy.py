"""Small helpers that code written for Lightning 1.x imports from ``pytorch_lightning.utilities``.

Nothing in leyden itself uses them; they are here so that such code keeps running.
"""

import gc
import importlib.util
import inspect
import logging
import os
import pickle
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from leyden.engine.notice import warn
from leyden.handlers.loggers.ranks import is_rank_zero, rank_zero_only
from leyden.legacy_parts import lightning_get_all_attr_holders
from leyden.module import LightningModule
from leyden.overrides import overrides
from leyden.transfer import move_to_device

__all__ = [
    "AMPType",
    "DeviceType",
    "DistributedType",
    "LightningEnum",
    "WarningCache",
    "apply_to_collection",
    "auto_move_data",
    "clean_namespace",
    "collect_init_args",
    "flatten_dict",
    "garbage_collection_cuda",
    "get_filesystem",
    "get_init_args",
    "has_iterable_dataset",
    "has_len",
    "is_cuda_out_of_memory",
    "is_cudnn_snafu",
    "is_oom_error",
    "is_out_of_cpu_memory",
    "is_overridden",
    "is_picklable",
    "lightning_getattr",
    "lightning_hasattr",
    "lightning_setattr",
    "module_available",
    "move_data_to_device",
    "rank_zero_deprecation",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
    "recursive_detach",
    "str_to_bool",
    "str_to_bool_or_str",
]

log = logging.getLogger("pytorch_lightning")


# ---------------------------------------------------------------- messages of the first process


def rank_zero_warn(message: str, *args: Any, stacklevel: int = 3, **kwargs: Any) -> None:
    """Warn in the first process only."""
    if is_rank_zero():
        options: dict[str, Any] = {"stacklevel": stacklevel, **kwargs}
        warnings.warn(message, *args, **options)


def rank_zero_info(*args: Any, **kwargs: Any) -> None:
    """Log a message in the first process only."""
    if is_rank_zero():
        log.info(*args, **kwargs)


def rank_zero_deprecation(message: str, *args: Any, **kwargs: Any) -> None:
    """Warn of something deprecated, in the first process only."""
    rank_zero_warn(message, DeprecationWarning, *args, stacklevel=4, **kwargs)


class WarningCache:
    """Warns once for each message."""

    def __init__(self) -> None:
        self.warnings: set[str] = set()

    def warn(self, message: str, *args: Any, **kwargs: Any) -> None:
        """Warn, unless this was said before."""
        if message not in self.warnings:
            self.warnings.add(message)
            rank_zero_warn(message, *args, stacklevel=4, **kwargs)


# ---------------------------------------------------------------- names


class LightningEnum(str, Enum):
    """Members are equal to their text, in any case."""

    @classmethod
    def from_str(cls, value: str) -> "LightningEnum | None":
        """The member of this name, or None."""
        return next((m for m in cls if m.name.lower() == value.lower().replace("-", "_")), None)

    def __eq__(self, other: object) -> bool:
        text = other.value if isinstance(other, Enum) else other
        return str(self.value).lower() == str(text).lower()

    def __hash__(self) -> int:
        return hash(self.value.lower())


class AMPType(LightningEnum):
    """Who does mixed precision."""

    APEX = "apex"
    NATIVE = "native"


class DistributedType(LightningEnum):
    """How a run is distributed."""

    DP = "dp"
    DDP = "ddp"
    DDP2 = "ddp2"
    DDP_CPU = "ddp_cpu"
    DDP_SPAWN = "ddp_spawn"
    HOROVOD = "horovod"


class DeviceType(LightningEnum):
    """What a run uses."""

    CPU = "CPU"
    GPU = "GPU"
    TPU = "TPU"


# ---------------------------------------------------------------- data


def apply_to_collection(
    data: Any,
    dtype: type | tuple[type, ...],
    function: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Apply a function to all elements of a type in nested mappings and sequences."""
    if isinstance(data, dtype):
        return function(data, *args, **kwargs)

    def applied(item: Any) -> Any:
        return apply_to_collection(item, dtype, function, *args, **kwargs)

    kind: Any = type(data)
    if isinstance(data, Mapping):
        return kind({key: applied(item) for key, item in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return kind(*map(applied, data))
    if isinstance(data, Sequence) and not isinstance(data, str):
        return kind([applied(item) for item in data])
    return data


def move_data_to_device(batch: Any, device: torch.device | str) -> Any:
    """Move all tensors of a batch, and whatever else has ``to``, to a device."""
    return move_to_device(batch, device)


def auto_move_data(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method of a LightningModule move its arguments to the module's device first."""

    def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
        move = getattr(self, "transfer_batch_to_device", None)
        if move is None:  # any other module, as in Lightning 1.1
            return function(self, *args, **kwargs)
        return function(self, *move(args, self.device), **move(kwargs, self.device))

    moved.__name__, moved.__doc__ = function.__name__, function.__doc__
    return moved


def has_iterable_dataset(dataloader: Any) -> bool:
    """Whether a loader reads a stream."""
    return isinstance(getattr(dataloader, "dataset", None), IterableDataset)


def has_len(dataloader: Any) -> bool:
    """Whether a loader has a length; a stream's own word for it comes with a warning.

    Raises:
        ValueError: when it is zero.
    """
    try:
        length = len(dataloader)
    except (TypeError, NotImplementedError):
        return False
    if length == 0:
        raise ValueError(
            f"the {type(dataloader).__name__} has a length of 0 batches: look at the length of its "
            "dataset, batch_size and drop_last"
        )
    if has_iterable_dataset(dataloader) and isinstance(dataloader, DataLoader):
        warn(
            f"the {type(dataloader.dataset).__name__} is a stream with a length: with several "
            "workers it has to give each its share, or all batches come once from each",
            UserWarning,
        )
    return True


# ---------------------------------------------------------------- memory


def recursive_detach(values: dict[str, Any], to_cpu: bool = False) -> dict[str, Any]:
    """The same dict with its tensors detached."""

    def detached(value: Any) -> Any:
        if isinstance(value, dict):
            return recursive_detach(value, to_cpu)
        if isinstance(value, torch.Tensor):
            return value.detach().cpu() if to_cpu else value.detach()
        return value

    return {key: detached(value) for key, value in values.items()}


def is_cuda_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU has no memory left."""
    return (
        isinstance(error, RuntimeError) and "CUDA" in str(error) and "out of memory" in str(error)
    )


def is_out_of_cpu_memory(error: BaseException) -> bool:
    """Whether the machine has no memory left."""
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(
        error
    )


def is_cudnn_snafu(error: BaseException) -> bool:
    """Whether cuDNN has no kernel for a shape, which it also says where memory is gone."""
    return isinstance(error, RuntimeError) and "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED." in str(
        error
    )


def is_oom_error(error: BaseException) -> bool:
    """Whether memory is all gone, whichever."""
    return is_cuda_out_of_memory(error) or is_cudnn_snafu(error) or is_out_of_cpu_memory(error)


def garbage_collection_cuda() -> None:
    """Collect garbage, on GPUs too."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


# ---------------------------------------------------------------- attributes, arguments


def is_overridden(
    method_name: str, model: nn.Module | Any, super_object: type = LightningModule
) -> bool:
    """Whether a model overrides a method."""
    return hasattr(super_object, method_name) and overrides(model, method_name, super_object)


class _Nowhere(ValueError, AttributeError):
    """What Lightning 1.1 reports as a ``ValueError``."""


def _nowhere(model: Any, attribute: str) -> _Nowhere:
    return _Nowhere(
        f"{type(model).__name__} has no {attribute!r}, neither by itself nor in its hparams nor on "
        f"its data module: set self.{attribute} in __init__, or save_hyperparameters()"
    )


def lightning_hasattr(model: Any, attribute: str) -> bool:
    """Whether a model, its hyper-parameters or its data module have an attribute."""
    return bool(lightning_get_all_attr_holders(model, attribute))


def lightning_getattr(model: Any, attribute: str) -> Any:
    """The attribute of the data module, else of the hyper-parameters, else of the model."""
    holders = lightning_get_all_attr_holders(model, attribute)
    if not holders:
        raise _nowhere(model, attribute)
    holder = holders[-1]
    return holder[attribute] if isinstance(holder, Mapping) else getattr(holder, attribute)


def lightning_setattr(model: Any, attribute: str, value: Any) -> None:
    """Set the attribute wherever it is: on the model, its hyper-parameters and its data module."""
    holders = lightning_get_all_attr_holders(model, attribute)
    if not holders:
        raise _nowhere(model, attribute)
    for holder in holders:
        if isinstance(holder, MutableMapping):
            holder[attribute] = value
        else:
            setattr(holder, attribute, value)


def str_to_bool(text: str) -> bool:
    """True for y, yes, t, true, on, 1; False for n, no, f, false, off, 0.

    Raises:
        ValueError: for anything else.
    """
    if text.lower() in ("y", "yes", "t", "true", "on", "1"):
        return True
    if text.lower() in ("n", "no", "f", "false", "off", "0"):
        return False
    raise ValueError(f"{text!r} is neither true nor false: write one of yes, true, on, 1, no, ...")


def str_to_bool_or_str(text: str) -> bool | str:
    """What :func:`str_to_bool` gives, or the text itself."""
    try:
        return str_to_bool(text)
    except ValueError:
        return text


def is_picklable(value: object) -> bool:
    """Whether an object can be pickled."""
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def clean_namespace(hparams: Namespace | dict[str, Any]) -> None:
    """Drop what cannot be pickled, in place."""
    values = vars(hparams) if isinstance(hparams, Namespace) else hparams
    for name in [name for name, value in values.items() if not is_picklable(value)]:
        rank_zero_warn(
            f"attribute {name!r} removed from hparams because it cannot be pickled", UserWarning
        )
        del values[name]


def flatten_dict(nested: dict[str, Any], result: dict[str, Any] | None = None) -> dict[str, Any]:
    """One level of a nested dict; inner keys stay as they are."""
    result = {} if result is None else result
    for key, value in nested.items():
        if isinstance(value, dict):
            flatten_dict(value, result)
        else:
            result[key] = value
    return result


def get_init_args(frame: Any) -> dict[str, Any]:
    """The arguments of the ``__init__`` that a frame runs."""
    _, _, _, values = inspect.getargvalues(frame)
    if "__class__" not in values:
        return {}
    parameters = inspect.signature(values["__class__"].__init__).parameters
    names = [n for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)][
        1:
    ]
    extra = next((n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    found = {name: values[name] for name in names if name in values}
    return {**found, **(values.get(extra) or {} if extra else {})}


def collect_init_args(
    frame: Any, path_args: list[dict[str, Any]], inside: bool = False
) -> list[dict[str, Any]]:
    """The arguments of all ``__init__`` frames of one object, innermost first."""
    _, _, _, values = inspect.getargvalues(frame)
    if "__class__" in values:
        path_args.append(get_init_args(frame))
        return collect_init_args(frame.f_back, path_args, inside=True)
    return path_args if inside else collect_init_args(frame.f_back, path_args, inside)


def module_available(name: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def get_filesystem(path: str | os.PathLike[str]) -> Any:
    """The fsspec file system of a path (extra ``remote``)."""
    try:
        import fsspec
    except ImportError as error:
        raise ImportError("get_filesystem needs fsspec: pip install 'leyden[remote]'") from error
    text = str(path)
    return fsspec.filesystem(text.split("://", 1)[0] if "://" in text else "file")

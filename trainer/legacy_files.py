"""Hyper-parameter files, memory and devices, as ``pytorch_lightning`` 1.1 offered them to users."""

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from leyden import config_objects
from leyden.engine.errors import MisconfiguredValue
from leyden.engine.notice import warn
from leyden.handlers.gpu_memory import gpu_memory
from leyden.handlers.summary import UNKNOWN_SIZE
from leyden.hparams_files import convert, read_hparams

__all__ = [
    "ALLOWED_CONFIG_TYPES",
    "CHECKPOINT_PAST_HPARAMS_KEYS",
    "PRIMITIVE_TYPES",
    "DeviceDtypeModuleMixin",
    "convert",
    "determine_root_gpu_device",
    "get_gpu_memory_map",
    "get_memory_profile",
    "load_hparams_from_tags_csv",
    "load_hparams_from_yaml",
    "parse_batch_shape",
    "parse_gpu_ids",
    "parse_tpu_cores",
    "save_hparams_to_tags_csv",
    "update_hparams",
]

PRIMITIVE_TYPES = (bool, int, float, str)
ALLOWED_CONFIG_TYPES = (dict, Namespace)
#: under which keys versions before 1.0 kept them in checkpoints.
CHECKPOINT_PAST_HPARAMS_KEYS = ("hparams", "module_arguments")

# ---------------------------------------------------------------- hyper-parameters


def update_hparams(hparams: dict[str, Any], updates: Mapping[str, Any]) -> None:
    """Write ``updates`` into ``hparams``, into inner dicts too.

    Example:
        >>> hparams = {"net": {"width": 4, "depth": 1}}
        >>> update_hparams(hparams, {"net": {"width": 8}, "lr": 0.1})
        >>> hparams
        {'net': {'width': 8, 'depth': 1}, 'lr': 0.1}
    """
    for name, value in updates.items():
        inner = hparams.get(name)
        if isinstance(inner, dict) and isinstance(value, Mapping):
            update_hparams(inner, value)
        else:
            hparams[name] = value


def load_hparams_from_tags_csv(tags_csv: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file with the columns ``key`` and ``value``; empty, with a warning, without a file."""
    return _read(tags_csv)


def load_hparams_from_yaml(
    config_yaml: str | os.PathLike[str], use_omegaconf: bool = True
) -> dict[str, Any]:
    """Read a YAML file of hyper-parameters; empty, with a warning, where there is no file.

    Args:
        config_yaml: The file.
        use_omegaconf: Taken for code written against Lightning 1.1; a dict comes back either way.
    """
    return _read(config_yaml)


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    if not os.path.isfile(path):
        warn(
            f"there is no file {os.fspath(path)!r}: no hyper-parameters are read",
            RuntimeWarning,
        )
        return {}
    return dict(read_hparams(os.fspath(path)))


def save_hparams_to_tags_csv(
    tags_csv: str | os.PathLike[str], hparams: Mapping[str, Any] | Namespace
) -> None:
    """Write hyper-parameters as a file with the columns ``key`` and ``value``.

    Raises:
        RuntimeError: The folder does not exist.
    """
    folder = os.path.dirname(os.fspath(tags_csv))
    if folder and not os.path.isdir(folder):
        raise RuntimeError(
            f"cannot write {os.fspath(tags_csv)!r}: make the folder {folder!r} first"
        )
    values = vars(hparams) if isinstance(hparams, Namespace) else hparams
    with open(tags_csv, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "value"])
        writer.writerows(values.items())


# ---------------------------------------------------------------- memory


def parse_batch_shape(batch: Any) -> Any:
    """The shape of a tensor, those of the parts of a list or tuple, ``"?"`` of anything else."""
    if hasattr(batch, "shape"):
        return list(batch.shape)
    if isinstance(batch, (list, tuple)):
        return [parse_batch_shape(part) for part in batch]
    return UNKNOWN_SIZE


def get_gpu_memory_map() -> dict[str, float]:
    """The megabytes in use on each GPU of this machine."""
    return gpu_memory("all")


def get_memory_profile(mode: str) -> dict[str, float]:
    """The megabytes in use on the GPUs: of each (``"all"``), or least and most (``"min_max"``)."""
    return gpu_memory(mode)


# ---------------------------------------------------------------- devices


def parse_gpu_ids(gpus: Any) -> list[int] | None:
    """The ids that a value of ``Trainer(gpus=)`` asks for; None for none.

    Raises:
        MisconfigurationException: This machine does not have them.
    """
    found = config_objects.devices("gpus", gpus)
    if found is None or found == 0:
        return None
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if isinstance(found, int):
        found = list(range(there if found == -1 else found))
    if not found or max(found) >= there:
        raise MisconfiguredValue(
            f"gpus={gpus!r} asks for GPUs, and this machine has {there}: pass ids below that, or "
            "gpus=None"
        )
    return found


def determine_root_gpu_device(gpus: list[int] | None) -> int | None:
    """The first of some GPU ids."""
    if gpus is None:
        return None
    if not isinstance(gpus, list) or not gpus:
        raise AssertionError(f"gpus={gpus!r}: pass a list of GPU ids that is not empty, or None")
    return gpus[0]


def parse_tpu_cores(tpu_cores: Any) -> int | list[int] | None:
    """The TPU cores that a value of ``Trainer(tpu_cores=)`` asks for; None for none.

    Raises:
        MisconfigurationException: It is none of 1, 8 and ``[i]``, or there is no TPU.
    """
    from leyden.legacy_flags import XLADeviceUtils

    found = config_objects.cores("tpu_cores", tpu_cores)
    if found is not None and not XLADeviceUtils.tpu_device_exists():
        raise MisconfiguredValue(
            f"tpu_cores={tpu_cores!r} asks for a TPU, and none was found: pass tpu_cores=None"
        )
    return found


class DeviceDtypeModuleMixin(nn.Module):
    """A module that knows its ``device`` and ``dtype``, as a LightningModule does."""

    def __init__(self) -> None:
        super().__init__()
        self._probe = torch.empty(0, dtype=torch.get_default_dtype())

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        moved = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._probe = fn(self._probe)
        return moved

    @property
    def device(self) -> torch.device:
        """The device the module was last moved to."""
        return self._probe.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of floating point number the module was last converted to."""
        return self._probe.dtype

"""What Lightning 1.1 told of optional packages, under the names of ``pytorch_lightning.utilities``.

Each is found out when it is first asked for; leyden itself reads none of them.
"""

from collections.abc import Callable
from typing import Any

import torch

from leyden.legacy import module_available

__all__ = ["FLAGS", "XLADeviceUtils"]


def _tpu() -> bool:
    return XLADeviceUtils.tpu_device_exists()


class XLADeviceUtils:
    """Whether torch_xla is there, and a TPU behind it."""

    @staticmethod
    def xla_available() -> bool:
        """Whether torch_xla can be imported."""
        return module_available("torch_xla")

    @staticmethod
    def tpu_device_exists() -> bool:
        """Whether torch_xla runs on a TPU here; it also runs on CPUs and GPUs."""
        if not module_available("torch_xla.runtime"):
            return False
        from importlib import import_module

        return bool(import_module("torch_xla.runtime").device_type() == "TPU")


#: Name -> what finds it out.
FLAGS: dict[str, Callable[[], Any]] = {
    "APEX_AVAILABLE": lambda: module_available("apex.amp"),
    "BOLTS_AVAILABLE": lambda: module_available("pl_bolts"),
    "EPSILON": lambda: 1e-6,
    "EPSILON_FP16": lambda: 1e-5,
    "FAIRSCALE_AVAILABLE": lambda: module_available("fairscale.nn.data_parallel"),
    "FAIRSCALE_PIPE_AVAILABLE": lambda: False,  # built for torch 1.6 only
    "FLOAT16_EPSILON": lambda: torch.finfo(torch.float16).eps,
    "FLOAT32_EPSILON": lambda: torch.finfo(torch.float32).eps,
    "FLOAT64_EPSILON": lambda: torch.finfo(torch.float64).eps,
    "GROUP_AVAILABLE": lambda: torch.distributed.is_available(),
    "HOROVOD_AVAILABLE": lambda: module_available("horovod.torch"),
    "HYDRA_AVAILABLE": lambda: module_available("hydra"),
    "HYDRA_EXPERIMENTAL_AVAILABLE": lambda: module_available("hydra.experimental"),
    "LOCAL_FILE_URI_PREFIX": lambda: "file:",
    "NATIVE_AMP_AVAILABLE": lambda: True,
    "OMEGACONF_AVAILABLE": lambda: module_available("omegaconf"),
    "RPC_AVAILABLE": lambda: (
        torch.distributed.is_available() and bool(getattr(torch.distributed, "rpc").is_available())  # noqa: B009  # no stubs
    ),
    "TORCHTEXT_AVAILABLE": lambda: module_available("torchtext"),
    "TPU_AVAILABLE": _tpu,
    "XLA_AVAILABLE": XLADeviceUtils.xla_available,
    # Of the loggers' modules.
    "_COMET_AVAILABLE": lambda: module_available("comet_ml"),
    "_MLFLOW_AVAILABLE": lambda: module_available("mlflow"),
    "_NEPTUNE_AVAILABLE": lambda: module_available("neptune"),
    "_TESTTUBE_AVAILABLE": lambda: module_available("test_tube"),
    "_WANDB_AVAILABLE": lambda: module_available("wandb"),
}


def __getattr__(name: str) -> Any:
    try:
        found = FLAGS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return found()

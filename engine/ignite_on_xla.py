"""Let ignite's ``idist`` work beside torch_xla 2.x, whose functions it calls by names of old."""

import sys
from typing import Any

__all__ = ["mend"]


def mend() -> None:
    """Give ignite what it misses of torch_xla; does nothing where there is no torch_xla.

    ignite 0.5.5 imports torch_xla wherever it is installed, and from then on every ``idist.*``,
    which its loggers and so its engines call, asks ``xm.xrt_world_size()`` and ``xm.get_ordinal()``
    first: both are gone since torch_xla 2.7, so nothing of ignite works, on the CPU neither. Here
    they get their names of today.

    Asking them also starts the device runtime, which a process must not do that only launches
    others, or computes on the CPU. So ignite takes the process for an ordinary one until something
    else has started that runtime.
    """
    # ignite has imported it; whoever has not got it must not pay for the attempt.
    xm: Any = sys.modules.get("torch_xla.core.xla_model")
    if xm is None:
        return
    import torch_xla
    import torch_xla.runtime as xr
    from ignite.distributed.comp_models import xla

    if not hasattr(xm, "xrt_world_size"):
        xm.xrt_world_size = xr.world_size
    if not hasattr(xm, "get_ordinal"):
        xm.get_ordinal = xr.global_ordinal
    model: Any = getattr(xla, "_XlaDistModel", None)
    if model is None or hasattr(model, "_leyden"):
        return

    def create_from_context() -> Any:
        return model() if torch_xla._XLAC._xla_runtime_is_initialized() else None

    model.create_from_context = staticmethod(create_from_context)
    model._leyden = True

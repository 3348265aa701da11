"""Rules for the arguments that say how many processes work together, and in which way."""

from collections.abc import Mapping
from typing import Any

from leyden.backends.devices import Machine, gpu_ids
from leyden.backends.strategies import Strategy
from leyden.backends.strategies.choice import NAMES
from leyden.backends.strategies.xla import TPU_WAYS
from leyden.config_values import shown
from leyden.engine.errors import MisconfiguredType, MisconfiguredValue

__all__ = ["check_processes"]

_ONE_MACHINE = ("dp", "ddp_cpu", "ddp_spawn", "ddp_notebook", "ddp_fork", "tpu_spawn")


def check_processes(values: dict[str, Any], origin: Mapping[str, str]) -> None:
    """Check the numbers of processes and machines against devices and the way of distribution."""
    for name in ("accelerator", "distributed_backend"):
        value = values[name]
        if value is not None and not isinstance(value, str):
            raise MisconfiguredType(
                f"{name}={shown(value)} is a {type(value).__name__}: pass text such as 'ddp'; a "
                "strategy of leyden.backends goes into plugins="
            )
    backend, gpus = values["distributed_backend"], values["gpus"]
    if backend is not None:
        backend = values["distributed_backend"] = backend.lower()
    if backend == "horovod":
        raise MisconfiguredValue(
            "accelerator='horovod' is not there: Horovod has had no release for today's torch; "
            "pass accelerator='ddp', which averages gradients in the same way, and start the "
            "script with torchrun in place of horovodrun"
        )
    if backend in TPU_WAYS and values["tpu_cores"] is None:
        cores = "8, or 1" if backend == "xla" else "8"
        raise MisconfiguredValue(
            f"accelerator={backend!r} is for TPUs, and no tpu_cores are given: pass "
            f"tpu_cores={cores}"
        )
    if backend == "tpu_spawn" and values["sync_batchnorm"]:
        raise MisconfiguredValue(
            "sync_batchnorm=True with accelerator='tpu_spawn': batch normalization across the "
            "processes of TPU cores is not there; leave accelerator out, for where one process "
            "drives all cores (tpu_cores=8) it sees the whole batch"
        )
    if values["num_nodes"] > 1 and backend in _ONE_MACHINE:
        raise MisconfiguredValue(
            f"num_nodes={values['num_nodes']} with {backend}: it works within one node; pass "
            "accelerator='ddp', and start the script with torchrun or SLURM"
        )
    if backend == "ddp_cpu" and gpus:
        raise MisconfiguredValue(
            f"gpus={shown(gpus)} with ddp_cpu, which works on CPUs: pass accelerator='ddp', or "
            "leave gpus out"
        )
    plugins = values["plugins"]
    parts: Any = plugins if isinstance(plugins, (list, tuple)) else (plugins,)
    given = [part for part in parts if isinstance(part, Strategy)]
    kind, _ = NAMES.get(str(backend), (backend, {}))
    kind = "ddp" if kind in ("ddp_spawn", "ddp_cpu") else kind
    if given and kind not in (None, given[0].name):
        raise MisconfiguredValue(
            f"plugins={shown(plugins)} and {origin.get('distributed_backend', 'accelerator')}="
            f"{backend!r} are two strategies: pass one of them"
        )
    processes = values["num_processes"]
    if gpus and processes > 1:
        count = len(gpu_ids(gpus, Machine.look().cuda))
        if count != processes:
            raise MisconfiguredValue(
                f"num_processes={processes} with gpus={shown(gpus)}: there is one process for each "
                "GPU; leave num_processes out"
            )

"""torch_xla: whether it works here, its devices, the marks between its steps, its random stream.

torch_xla records what a program computes and runs it at a mark (:func:`sync`), or when somebody
reads a value. It is imported in the functions, for it takes seconds and few have it.
"""

import importlib
import importlib.metadata
import importlib.util
import os
from typing import Any

import torch

from leyden.engine import rng
from leyden.engine.errors import MisconfiguredValue, NotBuilt

__all__ = [
    "CURE",
    "begin",
    "device_count",
    "has_plain_tpu",
    "flush",
    "in_use",
    "join",
    "on_cpu",
    "problem",
    "process_count",
    "require",
    "seed",
    "sync",
    "use_spmd",
    "why_no_processes",
    "world_size",
]

CURE = "pip install 'leyden[tpu]', which pins torch and torch_xla to versions that fit together"

# Seeds are 32 bits wide everywhere else in this package.
_MASK = 2**32 - 1


class _Stream:
    """XLA's random numbers: the devices in use, and the seed that those to come begin with."""

    def __init__(self) -> None:
        self.devices: list[str] = []
        self.seed: int | None = None


_stream = _Stream()


def has_plain_tpu() -> bool:
    """Whether torch itself knows this machine's TPU, as an ordinary device (TorchTPU does that)."""
    accelerators: Any = getattr(torch, "accelerator", None)  # since torch 2.6
    if accelerators is None or not accelerators.is_available():
        return False
    return bool(accelerators.current_accelerator().type == "tpu")


def problem() -> str | None:
    """Say why torch_xla cannot be used here; None where it can."""
    if importlib.util.find_spec("torch_xla") is None:
        return "torch_xla is not installed"
    try:
        importlib.import_module("torch_xla.core.xla_model")
    except (ImportError, AttributeError) as error:
        # Built for one torch: with another, symbols are missing.
        found = importlib.metadata.version("torch_xla")
        return (
            f"torch_xla {found} does not work with torch {torch.__version__} "
            f"({type(error).__name__}: {str(error).splitlines()[0]})"
        )
    return None


def require(said: str) -> None:
    """Refuse where torch_xla cannot be used.

    Args:
        said: the argument that asks for it, with its value.

    Raises:
        NotBuilt: naming what is wrong and what to do.
    """
    why = problem()
    if why is not None:
        raise NotBuilt(f"{said} trains through torch_xla, and {why}: {CURE}")


def device_count() -> int:
    """How many XLA devices this machine has; the first question starts XLA's runtime.

    It is to be asked early: autograd counts the devices at the first backward pass of a process,
    and refuses those that come later.
    """
    import torch_xla.runtime as xr

    return int(xr.global_runtime_device_count())


def process_count() -> int:
    """How many processes have a core each, on this machine; does not start XLA's runtime.

    A TPU lets one process use it: a runtime in the process that starts the others would keep them
    off. The count is that of ``torch_xla.launch``; XLA's CPU devices, of which that has one process
    with threads, count as cores here.
    """
    import torch_xla.runtime as xr
    from torch_xla._internal import tpu
    from torch_xla.experimental import plugins

    if plugins.using_dynamic_plugins():
        return int(plugins.default().physical_chip_count())
    if xr.device_type() == "TPU":
        return int(tpu.num_local_processes())
    return max(int(os.environ.get("CPU_NUM_DEVICES") or 1), 1)


def why_no_processes() -> str:
    """Say why this process cannot leave the cores to others any more; empty where it can."""
    import torch_xla
    import torch_xla.runtime as xr

    if xr.is_spmd():
        return "this process has driven all of them as one, which those that it starts inherit"
    if torch_xla._XLAC._xla_runtime_is_initialized() and not on_cpu():
        return "this process holds the TPU, which only one can"
    return ""


def on_cpu() -> bool:
    """Whether XLA's devices are the CPU's."""
    import torch_xla.runtime as xr

    return bool(xr.device_type() == "CPU")


def world_size() -> int:
    """How many cores XLA joins, one a process; starts XLA's runtime."""
    import torch_xla.runtime as xr

    return int(xr.world_size())


def join(local_rank: int, count: int) -> None:
    """Make this process that of one core, before XLA's runtime starts in it.

    Args:
        local_rank: the number of the process on its machine, from 0.
        count: how many processes the machine has.
    """
    # What torch_xla.launch calls in each of its processes; for those that others have started, it
    # has no public name.
    from torch_xla._internal import pjrt

    if on_cpu():
        os.environ["CPU_NUM_DEVICES"] = "1"
    pjrt.initialize_multiprocess(local_rank, count)


def use_spmd() -> None:
    """Let this process drive all devices as one, from now on until it ends: XLA knows no way back.

    Raises:
        MisconfiguredValue: the process has computed on a single device before.
    """
    import torch_xla
    import torch_xla.runtime as xr

    if xr.is_spmd():
        return
    if torch_xla._XLAC._xla_get_spmd_config_is_locked():
        raise MisconfiguredValue(
            "tpu_cores=8 drives all cores from one process, and this process has used a single "
            "one already, between which XLA cannot change: train on all cores in a process of "
            "its own, or first"
        )
    xr.use_spmd()


def begin(index: int | None = None) -> torch.device:
    """Take a device for what follows, with a random stream that the global seed decides.

    Args:
        index: of the device, from 0; None: the default one, which after :func:`use_spmd` stands for
            all of them.

    Raises:
        MisconfiguredValue: a backward pass came before XLA, or all devices are driven as one.
    """
    import torch_xla
    import torch_xla.runtime as xr

    if index is not None and xr.is_spmd():
        raise MisconfiguredValue(
            "this process has driven all TPU cores as one, and XLA knows no way back to a single "
            "one: train on one core in a process of its own, or first"
        )
    device: torch.device = torch_xla.device() if index is None else torch_xla.device(index)
    name = str(device)
    if name in _stream.devices:
        _stream.devices.remove(name)
    else:
        _check_autograd(device)
        # torch.manual_seed() does not reach XLA, which begins every process with the same number.
        _set(name, torch.initial_seed() if _stream.seed is None else _stream.seed)
    _stream.devices.append(name)  # the last one is the one in use
    rng.add_stream("xla", _read, _write)
    return device


def _check_autograd(device: torch.device) -> None:
    with torch.enable_grad():
        one = torch.ones((), device=device, requires_grad=True)
        try:
            # Recorded, and forgotten: nothing is computed.
            (one * 2).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise MisconfiguredValue(
                "a backward pass has run in this process before XLA was started, and torch's "
                "autograd takes up no device that comes later: make the Trainer with tpu_cores "
                "before anything is trained, or train in a process of its own"
            ) from error


def in_use() -> bool:
    """Whether this process computes on an XLA device."""
    return bool(_stream.devices)


def sync() -> None:
    """Run what was recorded since the last mark; waits for the host's part of it only."""
    import torch_xla

    torch_xla.sync()


def flush() -> None:
    """Run what was recorded since the last mark, without a mark: no step, no move of the stream."""
    import torch_xla

    torch_xla._XLAC._xla_sync_live_tensors(str(torch_xla.device()), [], False)


def seed(value: int) -> None:
    """Seed the stream of every device in use, and of those that will be."""
    _stream.seed = value
    for name in _stream.devices:
        _set(name, value)


def _set(name: str, value: int) -> None:
    import torch_xla.core.xla_model as xm

    xm.set_rng_state(value & _MASK, name)


def _read() -> int:
    import torch_xla.core.xla_model as xm

    return int(xm.get_rng_state(_stream.devices[-1]))


def _write(state: int) -> None:
    import torch_xla.core.xla_model as xm

    xm.set_rng_state(state, _stream.devices[-1])

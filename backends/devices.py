"""Which devices this machine has, which of them an argument means, and which are free.

======================  ==============================================================
``gpus=``               GPUs of this machine
======================  ==============================================================
``None``, ``0``         none: the CPU
``n``                   the first n; with ``auto_select_gpus=True`` the n least used
``"n"``                 the one with the id n: in text a number is an id
``-1``, ``"-1"``        all
``[0, 2]``, ``"0, 2"``  those ids
======================  ==============================================================

Nothing here touches a device before it has to: counting asks the driver, not the runtime, so that
processes can still be forked afterwards.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from leyden.engine.errors import MisconfiguredValue, ReportedRuntime
from leyden.engine.rng import add_stream

__all__ = [
    "CHOSEN_VARIABLE",
    "KINDS",
    "Devices",
    "Machine",
    "chosen_gpus",
    "devices_for",
    "free_gpus",
    "gpu_ids",
    "report",
    "use",
]

#: By which started processes are told the GPUs that were picked.
CHOSEN_VARIABLE = "LEYDEN_CHOSEN_GPUS"
#: What ``accelerator=`` may name beside the ways to distribute, and torch's word for it.
KINDS = {"auto": "", "cpu": "cpu", "cuda": "cuda", "gpu": "cuda", "mps": "mps", "tpu": "xla"}


@dataclass(frozen=True)
class Machine:
    """The devices there are. Tests make one of their own.

    Attributes:
        cuda: how many CUDA devices can be used.
        mps: whether there is an Apple GPU.
        no_cuda: why there is no CUDA device; empty where there are some.
        no_mps: the same for MPS.
    """

    cuda: int = 0
    mps: bool = False
    no_cuda: str = "this machine has none"
    no_mps: str = "this machine has none"

    @classmethod
    def look(cls) -> "Machine":
        """Ask torch and the driver."""
        cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
        mps = torch.backends.mps.is_available()
        return cls(cuda, mps, "" if cuda else _no_cuda(), "" if mps else _no_mps())

    @property
    def best(self) -> str:
        """The kind that ``accelerator="auto"`` means here: "cuda", "mps" or "cpu"."""
        if self.cuda:
            return "cuda"
        return "mps" if self.mps else "cpu"


@dataclass(frozen=True)
class Devices:
    """The devices of one run on this machine.

    Attributes:
        kind: torch's word: "cpu", "cuda" or "mps".
        ids: of the GPUs; empty for the CPU.
    """

    kind: str = "cpu"
    ids: tuple[int, ...] = ()

    @property
    def all(self) -> list[torch.device]:
        """Each of them; the CPU is one."""
        if self.kind != "cuda":
            return [torch.device(self.kind)]
        return [torch.device("cuda", index) for index in self.ids]

    def of(self, local_rank: int) -> torch.device:
        """The device of a process of this machine, where each process has one."""
        devices = self.all
        return devices[local_rank % len(devices)] if self.kind == "cpu" else devices[local_rank]

    def __len__(self) -> int:
        return len(self.all)


def devices_for(
    gpus: int | Sequence[int] | None, accelerator: object = None, machine: Machine | None = None
) -> Devices:
    """Say which devices a run uses, from arguments that were checked.

    Args:
        gpus: as in the table above, texts and None already read.
        accelerator: the kind of device, where it names one.
        machine: where; None: here.

    Example:
        >>> devices_for([1, 3], machine=Machine(cuda=4)).all
        [device(type='cuda', index=1), device(type='cuda', index=3)]
        >>> devices_for(None).all
        [device(type='cpu')]
    """
    kind = accelerator.lower() if isinstance(accelerator, str) else ""
    if not gpus and kind not in ("mps", "auto"):
        return Devices()
    machine = Machine.look() if machine is None else machine
    if gpus and KINDS.get(kind) != "mps":
        return Devices("cuda", tuple(gpu_ids(gpus, machine.cuda)))
    return Devices("mps") if kind == "mps" or machine.best == "mps" else Devices()


def gpu_ids(gpus: int | Sequence[int] | None, found: int) -> list[int]:
    """Return the ids that ``gpus`` means where there are ``found`` of them.

    Raises:
        ValueError: where it asks for more than there are; the message says what is missing.
    """
    if gpus is None or gpus == 0:
        return []
    if isinstance(gpus, int):
        if gpus > found or not found:
            raise ValueError(f"{gpus if gpus > 0 else 'all'} of them, and there are {found}")
        return list(range(found if gpus < 0 else gpus))
    missing = [index for index in gpus if not 0 <= index < found]
    if missing:
        there = f"ids 0 to {found - 1} are there" if found > 1 else f"there are {found}"
        raise ValueError(f"the ids {missing}, and {there}")
    return list(gpus)


def free_gpus(count: int, found: int, used: Callable[[int], int | None] | None = None) -> list[int]:
    """Pick the ``count`` GPUs that are used least, lowest ids first among equals.

    Args:
        count: how many; -1 for all that are free.
        found: how many there are.
        used: gives the bytes in use on a GPU, None where it takes no further process. None asks
            NVIDIA's library, or where that is not there allocates a little on each.

    Raises:
        RuntimeError: where fewer are free.

    Example:
        >>> free_gpus(2, 4, used=[700, 20, None, 300].__getitem__)
        [1, 3]
    """
    ask = _asker() if used is None else used
    amounts = {index: ask(index) for index in range(found)}
    free = sorted((amount, index) for index, amount in amounts.items() if amount is not None)
    wanted = len(free) if count < 0 else count
    if len(free) < max(wanted, 1):
        taken = [index for index, amount in amounts.items() if amount is None]
        raise ReportedRuntime(
            f"auto_select_gpus=True finds {len(free)} free GPUs and gpus={count} asks for more: "
            f"{f'{taken} take no further process' if taken else f'there are {found} in all'}; "
            "pass a smaller number, or the ids yourself"
        )
    return sorted(index for _, index in free[:wanted])


def chosen_gpus(count: int, found: int) -> list[int]:
    """Pick free GPUs once for all processes of this machine.

    Who starts processes tells them by ``CHOSEN_VARIABLE`` what was picked: by then other GPUs are
    free.

    Raises:
        MisconfiguredValue: where others started several processes: each would pick for itself.
    """
    told = os.environ.get(CHOSEN_VARIABLE)
    if told:
        return [int(index) for index in told.split(",")]
    together = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", "1"))
    if together.isdigit() and int(together) > 1:
        raise MisconfiguredValue(
            f"auto_select_gpus=True with gpus={count}: {together} processes are there on this "
            "machine already, and each would choose for itself; pass the ids, or leave it out"
        )
    return free_gpus(count, found)


def use(device: torch.device) -> None:
    """Make a device the current one of its kind, and its random numbers part of a run's state."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "mps":
        add_stream("mps", torch.mps.get_rng_state, torch.mps.set_rng_state)


def report() -> dict[str, Any]:
    """Tell what is here and what each argument can use, as plain data.

    Returns:
        ``{"kinds": {kind: {"count", "why", "devices": [...]}}, "arguments": [{"argument", "value",
        "usable", "why"}]}``; sizes are in bytes, ``why`` says what is missing and is empty where
        nothing is.
    """
    from leyden.backends.device_report import device_report

    return device_report()


# -------------------------------------------------------------------------- what is in use


def _asker() -> Callable[[int], int | None]:
    nvml = _nvml()
    visible = _visible()
    if nvml is None or visible is None:
        return _try_out

    def ask(index: int) -> int | None:
        try:
            handle = _handle(nvml, visible[index] if visible else str(index))
            mode = nvml.nvmlDeviceGetComputeMode(handle)
            if mode == nvml.NVML_COMPUTEMODE_PROHIBITED:
                return None
            # In exclusive mode a GPU that has a process takes no second one.
            exclusive = mode == nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
            if exclusive and nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                return None
            return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        except Exception:  # NVMLError is no fixed class; a MIG slice, a driver that does not say
            return _try_out(index)

    return ask


def _handle(nvml: Any, name: str) -> Any:
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name)


def _visible() -> list[str] | None:
    """The GPUs as the driver numbers them, in torch's order; empty: the same numbers.

    None where the numbers cannot be told from one another: CUDA sorts by speed unless told else.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [part.strip() for part in shown.split(",")] if shown else []
    by_number = not names or any(name.isdigit() for name in names)
    if by_number and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and not _alike():
        return None
    return names


def _alike() -> bool:
    """Whether all GPUs are of one kind: then sorting by speed changes nothing."""
    nvml = _nvml()
    if nvml is None:
        return False
    names = {
        str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index)))
        for index in range(nvml.nvmlDeviceGetCount())
    }
    return len(names) < 2


def _nvml() -> Any:
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, or no driver: the trial does without
        return None
    return nvml


def _try_out(index: int) -> int | None:
    """Allocate a little: what cannot be allocated on is not free."""
    try:
        torch.ones(1, device=torch.device("cuda", index))
        free, total = torch.cuda.mem_get_info(index)
    except (RuntimeError, AssertionError):  # the latter from a torch without CUDA
        return None
    return int(total - free)


# -------------------------------------------------------------------------- why there is none


def _no_cuda() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides them all"
    return "torch finds no CUDA device or no driver for it"


def _no_mps() -> str:
    if not torch.backends.mps.is_built():
        return f"torch {torch.__version__} is a build without MPS"
    return "macOS is older than 12.3, or this Mac has no GPU for it"

"""What the devices of this machine are, and what each argument can use here, as plain data."""

import os
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from leyden.backends.devices import Machine
from leyden.backends.xla import runtime

__all__ = ["compiler", "device_report", "why_no_fp8"]

#: From this compute capability on a GPU multiplies in float8.
_FLOAT8 = (8, 9)
_BFLOAT16 = (8, 0)


def device_report(machine: Machine | None = None) -> dict[str, Any]:
    """See :func:`leyden.backends.devices.report`."""
    machine = Machine.look() if machine is None else machine
    gpus = [_gpu(index) for index in range(machine.cuda)]
    kinds = {
        "cpu": {"count": 1, "why": "", "devices": [_cpu()]},
        "cuda": {"count": machine.cuda, "why": machine.no_cuda, "devices": gpus},
        "mps": {"count": int(machine.mps), "why": machine.no_mps, "devices": []},
        "tpu": _tpu(),
    }
    return {"kinds": kinds, "arguments": _arguments(machine, gpus)}


def _cpu() -> dict[str, Any]:
    pages = getattr(os, "sysconf", None)
    memory = pages("SC_PAGE_SIZE") * pages("SC_PHYS_PAGES") if pages else 0
    capability = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")
    return {"name": str(capability()), "threads": torch.get_num_threads(), "memory": memory}


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    capability = (int(properties.major), int(properties.minor))
    return {
        "id": index,
        "name": str(properties.name),
        "memory": int(total),
        "used": int(total - free),
        "capability": list(capability),
        "bfloat16": capability >= _BFLOAT16,
        "float8": capability >= _FLOAT8,
    }


def _tpu() -> dict[str, Any]:
    """TPU cores, and what stands for them: torch_xla computes on the CPU where there is no TPU."""
    if runtime.has_plain_tpu():
        count = torch.accelerator.device_count()
        return {
            "count": count,
            "why": "",
            "devices": [{"name": f"{count}, plain devices of torch"}],
        }
    why = _no_xla()
    if why:
        return {"count": 0, "why": why, "devices": []}
    # Not counted by XLA's runtime: it would take a TPU from those who use it.
    count = runtime.process_count()
    name = f"{count}, through torch_xla {version('torch_xla')}"
    if runtime.on_cpu():
        name += ": the CPU's own (PJRT_DEVICE=CPU), to try programs out"
    return {"count": count, "why": "", "devices": [{"name": name}]}


def _arguments(machine: Machine, gpus: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def row(argument: str, value: str, why: str = "") -> None:
        rows.append({"argument": argument, "value": value, "usable": not why, "why": why})

    count = machine.cuda
    row("gpus", f"1 to {count}, -1 or ids" if count > 1 else "1, -1 or [0]", machine.no_cuda)
    row("auto_select_gpus", "True", machine.no_cuda)
    no_tpu = "" if runtime.has_plain_tpu() else _no_xla()
    row("tpu_cores", "1, 8 or [i]", no_tpu)
    row("accelerator", "'cpu', 'auto'")
    row("accelerator", "'gpu', 'cuda'", machine.no_cuda)
    row("accelerator", "'mps'", machine.no_mps)
    row("accelerator", "'tpu'", no_tpu)
    row("accelerator", "'tpu_spawn'", _no_xla())
    together = "" if torch.distributed.is_available() else "this torch has no torch.distributed"
    row("accelerator", "'ddp', 'ddp_spawn', 'ddp_cpu', 'fsdp'", together)
    row("accelerator", "'dp', 'ddp2'", machine.no_cuda)
    row("num_processes", "2 and more", together)
    row("precision", "64, 32, 16, 'bf16', 8, 4, 2")
    row("precision", "'fp8'", why_no_fp8())
    row("amp_backend", "'apex', levels O0 to O3")
    row("plugins", "'apex', the real one", why_no_apex(machine.cuda))
    row("log_gpu_memory", "'all', 'min_max'", machine.no_cuda or _missing("pynvml", "gpu"))
    row("benchmark", "True", "" if count else f"cuDNN is for CUDA devices; {machine.no_cuda}")
    row("deterministic", "True, 'warn'")
    row("compile", "True", "" if compiler() else "no C++ compiler is found: install g++ or clang")
    row("compile", "{'backend': 'aot_eager'}")
    row("cuda_graph", "True", machine.no_cuda)
    return rows


def why_no_fp8(device: torch.device | str = "cuda") -> str:
    """Say why ``precision="fp8"`` cannot compute on this device; empty where it can."""
    device = torch.device(device)
    if device.type != "cuda":
        return f"float8 is for GPUs of NVIDIA, and the run is on {device.type}"
    if not torch.cuda.is_available():
        return Machine.look().no_cuda
    capability = torch.cuda.get_device_capability(device)
    if capability < _FLOAT8:
        name = torch.cuda.get_device_name(device)
        return (
            f"{name} has compute capability {'.'.join(map(str, capability))}, and float8 needs "
            f"{'.'.join(map(str, _FLOAT8))} (Ada, Hopper or newer)"
        )
    return _missing("torchao", "quant")


def why_no_apex(cuda: int) -> str:
    """Say why the real apex.amp cannot be used here; empty where it can."""
    from leyden.backends.precision.apex import apex_amp

    missing = "" if apex_amp() is not None else "there is no apex.amp.initialize to import"
    return missing or ("" if cuda else "apex computes on CUDA devices, and there is none")


def compiler() -> str | None:
    """The C++ compiler that torch's inductor will call on a CPU; None where there is none."""
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _missing(package: str, extra: str) -> str:
    return "" if find_spec(package) is not None else f"pip install leyden[{extra}]"


def _no_xla() -> str:
    why = runtime.problem()
    return "" if why is None else f"{why}: {runtime.CURE}"

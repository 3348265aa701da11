"""Move modules and tensors between XLA devices and others, as the same objects."""

import torch
from torch import Tensor, nn

__all__ = ["move_module", "put_data"]


def move_module(model: nn.Module, device: torch.device) -> None:
    """Bring a module to a device; parameters stay the objects they are, and tied ones tied.

    By itself torch makes new parameters where an XLA device takes part: tied weights come apart,
    and whoever holds a parameter, an optimizer for one, goes on with the old one.
    """
    if device.type != "xla" and not _on_xla(model):
        model.to(device)
        return
    places = _places(model)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.to(device)
    except RuntimeError:
        # Somebody still holds a graph with one of them, which keeps it from changing places.
        torch.__future__.set_swap_module_params_on_conversion(False)
        model.to(device)
        for first, *others in places:
            for module, name in others:
                setattr(module, name, getattr(*first))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def put_data(tensor: Tensor, data: Tensor) -> None:
    """Let ``tensor`` hold ``data``, as the assignment to ``tensor.data`` does, from XLA's too."""
    if (tensor.device.type == "xla") is (data.device.type == "xla"):
        tensor.data = data
        return
    fresh: Tensor = data
    if isinstance(tensor, nn.Parameter):
        fresh = nn.Parameter(data, requires_grad=tensor.requires_grad)
    torch.utils.swap_tensors(tensor, fresh)  # type: ignore[no-untyped-call]


def _on_xla(model: nn.Module) -> bool:
    return any(parameter.device.type == "xla" for parameter in model.parameters())


def _places(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Where each parameter is held, of those that are held in several places."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((module, name))
    return [places for places in found.values() if len(places) > 1]

"""Bring what lies on XLA devices to the host, all at once."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from leyden.backends.xla.runtime import in_use
from leyden.backends.xla.trees import each_tensor

__all__ = ["host_copy", "to_host"]


def to_host(data: Any) -> Any:
    """Return ``data`` with a copy on the CPU in the place of every tensor on an XLA device.

    A file with XLA tensors can be read by nobody who has no torch_xla. One transfer brings all of
    them: asked one by one, each would be a computation and a wait of its own. What lies on the CPU
    already is not copied.

    Args:
        data: tensors in dicts, lists and tuples, as deep as they like.
    """
    if not in_use():
        return data
    found = {id(tensor): tensor for tensor in each_tensor(data) if tensor.device.type == "xla"}
    if not found:
        return data
    import torch_xla

    tensors = [tensor.detach().as_subclass(Tensor) for tensor in found.values()]
    # The second argument: of all devices; the last: what was computed for this stays computed.
    torch_xla._XLAC._xla_sync_multi(tensors, [], True, True)
    copies = torch_xla._XLAC._xla_get_cpu_tensors(tensors)
    return _replaced(data, dict(zip(found, copies, strict=True)))


def host_copy(tensor: Tensor) -> Tensor:
    """Return a tensor, or a parameter, on the CPU: equal, and with no history."""
    copy = tensor.detach().cpu()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copy, requires_grad=tensor.requires_grad)
    return copy.requires_grad_(tensor.requires_grad)


def _replaced(data: Any, copies: dict[int, Tensor]) -> Any:
    if isinstance(data, Tensor):
        return copies.get(id(data), data)
    if isinstance(data, dict):
        made: Any = OrderedDict() if isinstance(data, OrderedDict) else {}
        for key, item in data.items():
            made[key] = _replaced(item, copies)
        if hasattr(data, "_metadata"):  # a module's state_dict
            made._metadata = data._metadata
        return made
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(_replaced(item, copies) for item in data))
    if isinstance(data, (list, tuple)) and not isinstance(data, torch.Size):
        return type(data)(_replaced(item, copies) for item in data)
    return data

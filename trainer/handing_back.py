"""Bring what another process made of an object back into the object itself.

Whoever holds a module, a parameter, a list of a callback, sees the new contents: objects stay the
same objects wherever that is possible.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

from leyden.engine import RemovableEventHandle

__all__ = ["Handed", "found_attributes", "module_state", "take_module", "take_over"]

# A module's own tables, and what ties objects to their process.
_TABLES = ("_parameters", "_buffers", "_modules")
_TIED = ("trainer", "_recorder", "_toggles", "_attached_handles", "_compiled_call_impl")


class Handed:
    """Which submodules and parameters a module had when it was sent.

    Args:
        model: the module; None: there is none.
    """

    def __init__(self, model: nn.Module | None) -> None:
        found = dict(model.named_modules(remove_duplicate=False)) if model is not None else {}
        # Held, so that no other object gets the id of one that is gone.
        self.modules: dict[str, nn.Module] = found


def found_attributes(owner: Any) -> dict[str, Any]:
    """The attributes of an object that can mean something in another process."""
    own = getattr(type(owner), "__getstate__", None)
    if own is not None and own is not getattr(object, "__getstate__", None):
        state = owner.__getstate__()
    else:
        state = getattr(owner, "__dict__", {})
    if not isinstance(state, Mapping):
        return {}
    return {
        name: value
        for name, value in state.items()
        if name not in _TABLES
        and not name.startswith("__composable_api")  # what fully_shard made of it
        and name not in _TIED
        and not (isinstance(owner, nn.Module) and _is_hook_table(name))
        and not isinstance(value, (Dataset, DataLoader))  # data, which each process makes
        and not isinstance(value, RemovableEventHandle)
    }


def _is_hook_table(name: str) -> bool:
    return name.startswith("_") and name.endswith(
        ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
    )


def module_state(
    model: nn.Module | None, before: Handed, weights: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """What a run made of a module.

    Args:
        model: the module.
        before: what it had when it came.
        weights: its whole state, where the strategy spreads it over processes.
    """
    state: dict[str, Any] = {"tensors": {}, "attributes": {}, "new": {}, "names": {}}
    if model is None:
        return state
    replaced: list[str] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if any(path == top or path.startswith(f"{top}.") for top in replaced):
            continue
        if path not in before.modules or before.modules[path] is not module:
            replaced.append(path)
            state["new"][path] = module
            continue
        state["names"][path] = list(module._modules)
        state["attributes"][path] = found_attributes(module)
        tables = (("parameter", module._parameters), ("buffer", module._buffers))
        for kind, table in tables:
            for name, tensor in table.items():
                whole = f"{path}.{name}" if path else name
                value = weights.get(whole, tensor)
                state["tensors"][whole] = (
                    kind,
                    None if value is None else value.detach().cpu(),
                    tensor is not None and tensor.requires_grad,
                )
    return state


def take_module(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Make a module what :func:`module_state` says."""
    for path, module in state["new"].items():
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent)._modules[name] = module
    for path, names in state["names"].items():
        module = model.get_submodule(path)
        for name in [name for name in module._modules if name not in names]:
            del module._modules[name]
        take_over(module, state["attributes"][path])
    for whole, (kind, value, requires_grad) in state["tensors"].items():
        path, _, name = whole.rpartition(".")
        _take_tensor(model.get_submodule(path), name, kind, value, requires_grad)


def _take_tensor(
    module: nn.Module, name: str, kind: str, value: torch.Tensor | None, requires_grad: bool
) -> None:
    table: dict[str, Any] = module._parameters if kind == "parameter" else module._buffers
    own = table.get(name)
    if own is not None and value is not None and not is_lazy(own) and _alike(own, value):
        own.data.copy_(value)
        if own.is_leaf:
            own.requires_grad_(requires_grad)
    elif value is None:
        table[name] = None
    elif kind == "parameter":
        table[name] = nn.Parameter(value, requires_grad=requires_grad)
    else:
        table[name] = value


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def take_over(owner: Any, attributes: Mapping[str, Any]) -> None:
    """Give an object these attributes; lists, dicts and sets stay the same objects."""
    own = owner.__dict__
    for name, value in attributes.items():
        old = own.get(name)
        if old is value:
            continue
        if type(old) is type(value) and isinstance(old, (list, deque)):
            old.clear()
            old.extend(value)
        elif type(old) is type(value) and isinstance(old, (dict, set)):
            old.clear()
            old.update(value)
        else:
            own[name] = value

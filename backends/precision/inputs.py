"""Convert what goes into a half-precision model and what comes out of it."""

from typing import Any

import torch
from torch import nn

from leyden.backends.precision.casting import cast

__all__ = ["Boundaries"]


class Boundaries:
    """Casts arguments of a model's calls to its format, and results of the outermost call back.

    The model itself and its direct parts are covered, so that a step may call ``self(x)`` as well
    as ``self.encoder(x)``; parts of parts get what their callers hand on.

    Args:
        dtype: of floating-point arguments; results are float32.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._handles: list[Any] = []
        self._depth = 0

    def attach(self, model: nn.Module) -> None:
        """Begin with the calls of ``model``."""
        self.detach()
        parts = [part for part in _parts(model) if _computes(part)]
        for module in {model: None, **dict.fromkeys(parts)}:
            into = self._into if _takes(module, self.dtype) or module is model else self._deeper
            self._handles += [
                module.register_forward_pre_hook(into, with_kwargs=True),
                module.register_forward_hook(self._out, always_call=True),
            ]

    def detach(self) -> None:
        """Leave the model as it was."""
        while self._handles:
            self._handles.pop().remove()
        self._depth = 0

    def _into(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        self._depth += 1
        return cast(args, self.dtype), cast(kwargs, self.dtype)

    def _deeper(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._depth += 1

    def _out(self, module: nn.Module, args: Any, output: Any) -> Any:
        self._depth -= 1
        return cast(output, torch.float32) if self._depth == 0 else None


def _parts(module: nn.Module) -> list[nn.Module]:
    """The direct parts; of lists and dicts of modules, which nobody calls, their parts."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found += _parts(child)
        else:
            found.append(child)
    return found


def _computes(module: nn.Module) -> bool:
    """Whether a part has weights or statistics: the others work in any format."""
    if isinstance(module, nn.modules.loss._Loss):
        return False
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _takes(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the arguments of a part are converted: not those of a float32 batch norm."""
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return not batch_norm or all(p.dtype is dtype for p in module.parameters())

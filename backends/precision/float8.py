"""Linear layers in float8 through torchao, everything else in bfloat16 and float32."""

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from leyden.backends.device_report import why_no_fp8
from leyden.backends.precision.mixed import MixedPrecision
from leyden.engine.errors import MisconfigurationException, NotBuilt
from leyden.engine.notice import warn

__all__ = ["Float8Training"]

# The matrix units take whole blocks of so many values.
_BLOCK = 16


class Float8Training(MixedPrecision):
    """Multiplies the matrices of linear layers in float8, with a scale for each tensor and step.

    Weights, gradients and optimizers stay float32, and so do checkpoints, which load with any
    precision; operations beside the linear layers are autocast to bfloat16. Layers whose sides are
    no multiples of 16 stay as they are. The module has ordinary layers again after the run.

    Args:
        device: that computes.
        recipe: "tensorwise", "rowwise" or "rowwise_with_gw_hp": how torchao chooses scales.
        emulate: compute the same with ordinary numbers, on any device, many times as slowly.

    State: none.

    Raises:
        NotBuilt: where the device has no float8 or torchao is missing.
    """

    def __init__(
        self,
        device: torch.device | str = "cuda",
        *,
        recipe: str = "tensorwise",
        emulate: bool = False,
    ) -> None:
        kind = torch.device(device).type
        missing = why_no_fp8(device)
        if emulate:
            missing = "" if _torchao() is not None else "pip install leyden[quant]"
        if missing:
            raise NotBuilt(
                f"precision='fp8' cannot run here: {missing}. precision='bf16' needs none of it"
            )
        super().__init__(torch.bfloat16, kind, name="fp8")
        self.recipe = recipe
        self.emulate = emulate
        float8: Any = import_module("torchao.float8")
        # Without padding the number of samples would have to be a multiple of 16, too.
        made = float8.Float8LinearConfig.from_recipe_name(recipe)
        padded = recipe == "tensorwise"
        self._config = dataclasses.replace(made, emulate=emulate, pad_inner_dim=padded)
        self._layer: Any = import_module("torchao.float8.float8_linear").Float8Linear
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def prepare(
        self, model: nn.Module, optimizers: Sequence[Optimizer] = (), *, fresh: bool = True
    ) -> None:
        super().prepare(model, optimizers, fresh=fresh)
        self._give_back()
        if type(model) is nn.Linear:
            raise MisconfigurationException(
                "precision='fp8' exchanges the layers of a module, and the model is one itself: "
                "put it into a module"
            )
        for parent in list(model.modules()):
            for name, layer in list(parent.named_children()):
                if _fits(layer):
                    self._replaced.append((parent, name, layer))
                    setattr(parent, name, self._layer.from_float(layer, config=self._config))
        if not self._replaced:
            warn(
                f"precision='fp8' is for linear layers with sides that are multiples of {_BLOCK}, "
                f"and {type(model).__name__} has none: it trains as with precision='bf16'",
                UserWarning,
            )

    def release(self) -> None:
        super().release()
        self._give_back()

    def _give_back(self) -> None:
        while self._replaced:
            parent, name, layer = self._replaced.pop()
            # The parameters are the same objects; training may have been switched meanwhile.
            layer.train(getattr(parent, name).training)
            setattr(parent, name, layer)


def _fits(layer: nn.Module) -> bool:
    if type(layer) is not nn.Linear:  # what a class of one's own does with its weight is not known
        return False
    return layer.in_features % _BLOCK == 0 and layer.out_features % _BLOCK == 0


def _torchao() -> Any:
    try:
        return import_module("torchao.float8")
    except ImportError:
        return None

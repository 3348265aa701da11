"""Training with weights of 8, 4 or 2 bits: quantisation-aware, in float32."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.backends.precision.base import Precision
from leyden.engine.notice import warn

__all__ = [
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedConv3d",
    "QuantizedLinear",
    "QuantizedTraining",
    "channel_scales",
    "fake_quantize",
    "plain_again",
    "quantize_layers",
    "quantized_layers",
]

_SMALLEST = 1e-8


def channel_scales(weight: Tensor, bits: int) -> Tensor:
    """The distance of two neighbouring values, for each output channel (the first dimension).

    The range is symmetric and reaches the largest weight. With 2 bits, where only four values are
    left, it follows the mean instead: outliers would leave all others at 0.
    """
    rest = tuple(range(1, weight.dim()))
    size = weight.detach().abs()
    if bits > 2:
        scales = size.amax(rest) / ((1 << (bits - 1)) - 0.5)
    else:
        scales = size.mean(rest) * 2**0.5
    return scales.clamp_min(_SMALLEST)


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """Round ``weight`` to ``2**bits`` values a channel; gradients pass, except of what is cut off.

    Args:
        weight: of any shape, the output channels first.
        bits: from 2 to 8.

    Example:
        >>> fake_quantize(torch.tensor([[0.9, 0.1, -0.5]]), 2)
        tensor([[ 0.7071,  0.0000, -0.7071]])
    """
    scales = channel_scales(weight, bits)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if weight.device.type == "xla":
        return _round(weight, scales.reshape(-1, *(1,) * (weight.dim() - 1)), low, high)
    zero = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zero, 0, low, high)


def fake_quantize_input(x: Tensor, bits: int) -> Tensor:
    """Round what enters a layer: symmetric, by its own largest value; gradients pass."""
    high = (1 << (bits - 1)) - 1
    scale = (x.detach().abs().amax() / high).clamp_min(_SMALLEST)
    if x.device.type == "xla":
        return _round(x, scale, -high - 1, high)
    zero = torch.zeros((), dtype=torch.int32, device=x.device)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, -high - 1, high)


class _Rounding(torch.autograd.Function):
    """torch's fake quantisation in plain arithmetic: forward and backward agree to the bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        steps = (x * (1 / scale)).round()
        ctx.save_for_backward((steps >= low) & (steps <= high))
        return steps.clamp(low, high) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def _round(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Round as torch's own operation does, which an XLA device leaves to the CPU."""
    rounded: Tensor = _Rounding.apply(x, scale, low, high)  # type: ignore[no-untyped-call]
    return rounded


class _Quantized:
    """Computes with rounded weights; ``weight`` itself stays float32 under its own name."""

    weight_bits: int
    activation_bits: int | None

    def _rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layer: Any = self
        if layer.activation_bits is not None:
            x = fake_quantize_input(x, layer.activation_bits)
        return x, fake_quantize(layer.weight, layer.weight_bits)


class QuantizedLinear(_Quantized, nn.Linear):
    """A linear layer of rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        x, weight = self._rounded(input)
        return nn.functional.linear(x, weight, self.bias)


class QuantizedConv1d(_Quantized, nn.Conv1d):
    """A convolution of rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        x, weight = self._rounded(input)
        output: Tensor = self._conv_forward(x, weight, self.bias)
        return output


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """A convolution of rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        x, weight = self._rounded(input)
        output: Tensor = self._conv_forward(x, weight, self.bias)
        return output


class QuantizedConv3d(_Quantized, nn.Conv3d):
    """A convolution of rounded weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer."""
        x, weight = self._rounded(input)
        output: Tensor = self._conv_forward(x, weight, self.bias)
        return output


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: QuantizedLinear,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
}
_BACK = {quantized: plain for plain, quantized in _KINDS.items()}


def quantize_layers(model: nn.Module, bits: int, activation_bits: int | None = None) -> list[str]:
    """Let every linear layer and convolution of ``model`` compute with rounded weights.

    Classes of one's own that derive from them are left alone: what they do with their weight is not
    known. ``state_dict`` stays as it is.

    Returns:
        The names of the layers.
    """
    names = []
    for name, module in model.named_modules():
        kind = _KINDS.get(type(module))
        if kind is not None:
            module.__class__ = kind
        if type(module) in _BACK:
            layer: Any = module
            layer.weight_bits, layer.activation_bits = bits, activation_bits
            names.append(name)
    return names


def quantized_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that compute with rounded weights, by name."""
    return {name: module for name, module in model.named_modules() if type(module) in _BACK}


def plain_again(model: nn.Module) -> None:
    """Undo :func:`quantize_layers`; the float32 weights are what they were trained to be."""
    for module in quantized_layers(model).values():
        module.__class__ = _BACK[type(module)]
        del module.weight_bits, module.activation_bits


class QuantizedTraining(Precision):
    """Trains weights that will be stored with few bits: each forward pass rounds them.

    Linear layers and convolutions are covered. The weights that the optimizer steps stay float32,
    as do gradients, checkpoints and everything else, so a checkpoint loads with any precision.
    This saves nothing in training, which is slower than without; what gets small is the model that
    :func:`leyden.backends.precision.save_quantized` writes. The model goes on computing with
    rounded weights after the run: that is what was trained.

    Args:
        bits: of a weight, from 2 to 8.
        activation_bits: of what enters each layer, from 2 to 8; None leaves it float32.

    State: none.

    Source: symmetric quantisation of output channels with a straight-through gradient.
    """

    active: ClassVar[bool] = False  # the layers do it: steps need nothing of it

    def __init__(self, bits: int, *, activation_bits: int | None = None) -> None:
        for name, value in (("bits", bits), ("activation_bits", activation_bits)):
            if value is None and name == "activation_bits":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 8:
                raise ValueError(f"{name}={value!r} is no number of bits from 2 to 8")
        super().__init__(str(bits))
        self.bits = bits
        self.activation_bits = activation_bits

    def prepare(
        self, model: nn.Module, optimizers: Sequence[Optimizer] = (), *, fresh: bool = True
    ) -> None:
        if not quantize_layers(model, self.bits, self.activation_bits):
            warn(
                f"precision={self.bits} rounds the weights of linear layers and convolutions, and "
                f"{type(model).__name__} has none: it trains as with precision=32",
                UserWarning,
            )

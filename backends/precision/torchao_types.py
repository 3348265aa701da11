"""Weights of few bits as torchao's tensors, for what is built on them (export, its kernels)."""

import os
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from leyden.backends.precision.packed import write_beside
from leyden.backends.precision.quantized import channel_scales, fake_quantize, quantized_layers
from leyden.engine.errors import MisconfigurationException, NotBuilt

__all__ = ["save_torchao", "torchao_state_dict"]


def torchao_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model that was trained with few bits, linear weights as torchao's type.

    Into a plain model it is loaded with ``load_state_dict(state, assign=True)``; the outputs are
    those that were trained. Convolutions, for which torchao has no such type, get their rounded
    weights as ordinary numbers.

    Raises:
        NotBuilt: where torchao is missing, or has no such type.
        MisconfigurationException: where nothing of the model is quantised.
    """
    make = _maker()
    layers = quantized_layers(model)
    if not layers:
        raise MisconfigurationException(
            f"{type(model).__name__} has no layer with weights of few bits: train it with "
            "Trainer(precision=8), 4 or 2 first"
        )
    rounded = {layer.activation_bits for layer in layers.values()} - {None}
    if rounded:
        raise MisconfigurationException(
            f"{type(model).__name__} was trained with activations of {sorted(rounded)} bits, which "
            "a weight alone does not say: export it with format='packed'"
        )
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    for name, layer in layers.items():
        key = f"{name}.weight" if name else "weight"
        weight, bits = state[key], layer.weight_bits
        if not isinstance(layer, nn.Linear):
            state[key] = fake_quantize(weight, bits)
            continue
        scales = channel_scales(weight, bits).unsqueeze(1)
        numbers = (fake_quantize(weight, bits) / scales).round().to(torch.int8)
        state[key] = make(
            qdata=numbers,
            scale=scales,
            zero_point=torch.zeros_like(scales, dtype=torch.int8),
            target_dtype=getattr(torch, f"int{bits}"),
            block_size=(1, weight.shape[1]),
            dtype=weight.dtype,
            activation_quantization=None,
        )
    return state


def save_torchao(model: nn.Module, path: str | os.PathLike[str]) -> int:
    """Write :func:`torchao_state_dict`; ``torch.load`` reads it once torchao is imported.

    torchao holds each number in a byte, whatever its bits: a file of
    :func:`leyden.backends.precision.save_quantized` is smaller.

    Returns:
        The size in bytes.
    """
    return write_beside(torchao_state_dict(model), path)


def _maker() -> Any:
    try:
        import_module("torchao")
    except ImportError as error:
        raise NotBuilt(
            "format='torchao' needs torchao: pip install leyden[quant], or use format='packed', "
            "which needs nothing"
        ) from error
    try:
        return import_module("torchao.quantization").IntxUnpackedToInt8Tensor
    except (ImportError, AttributeError) as error:
        raise NotBuilt(
            "format='torchao' needs a torchao that has IntxUnpackedToInt8Tensor (0.18 or newer): "
            "pip install -U torchao, or use format='packed'"
        ) from error

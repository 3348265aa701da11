"""Weights of few bits in a file, and back: eight, four or two bits a weight, really packed."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leyden.backends.precision.quantized import (
    channel_scales,
    fake_quantize,
    plain_again,
    quantized_layers,
)
from leyden.engine.errors import MisconfigurationException

__all__ = [
    "load_quantized",
    "pack",
    "quantized_state_dict",
    "save_quantized",
    "unpack",
    "write_beside",
]

_FORM = 1


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack whole numbers from ``-2**(bits-1)`` on into bytes; bits that 8 is no multiple of get 8.

    Example:
        >>> pack(torch.tensor([-2, -1, 0, 1]), 2)
        tensor([228], dtype=torch.uint8)
    """
    low = 1 << (bits - 1)
    flat = (values.flatten().to(torch.int16) + low).to(torch.uint8)
    each = 8 // bits
    flat = torch.cat([flat, flat.new_zeros(-len(flat) % each)]).view(-1, each)
    packed = torch.zeros(len(flat), dtype=torch.uint8)
    for place in range(each):
        packed |= flat[:, place] << (place * bits)
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Undo :func:`pack`: ``count`` whole numbers."""
    each, mask = 8 // bits, (1 << bits) - 1
    parts = [(packed >> (place * bits)) & mask for place in range(each)]
    return torch.stack(parts, 1).flatten()[:count].to(torch.int16) - (1 << (bits - 1))


def save_quantized(model: nn.Module, path: str | os.PathLike[str]) -> int:
    """Write a model that was trained with few bits; everything else in it as it is.

    The file holds plain data and tensors. It is written beside its name and moved there.

    Args:
        model: trained with ``precision`` 8, 4 or 2.
        path: the file.

    Returns:
        Its size in bytes.

    Raises:
        MisconfigurationException: where nothing of the model is quantised.
    """
    layers = quantized_layers(model)
    if not layers:
        raise MisconfigurationException(
            f"{type(model).__name__} has no layer with weights of few bits: train it with "
            "Trainer(precision=8), 4 or 2 first"
        )
    rest = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    packed: dict[str, Any] = {}
    for name, layer in layers.items():
        key = f"{name}.weight" if name else "weight"
        weight = rest.pop(key)
        scales = channel_scales(weight, layer.weight_bits)
        rounded = fake_quantize(weight, layer.weight_bits)
        shape = (-1, *[1] * (weight.dim() - 1))
        # Multiples of the scale, but for the last digit: rounding finds them again.
        numbers = (rounded / scales.view(shape)).round().to(torch.int16)
        packed[key] = {
            "bits": layer.weight_bits,
            "activation_bits": layer.activation_bits,
            "shape": list(weight.shape),
            "scales": scales,
            "packed": pack(numbers, layer.weight_bits),
        }
    return write_beside({"form": _FORM, "packed": packed, "rest": rest}, path)


def write_beside(content: Any, path: str | os.PathLike[str]) -> int:
    """Write a file beside its name and move it there; return its size in bytes."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return target.stat().st_size


def quantized_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a file of :func:`save_quantized` as an ordinary ``state_dict``: rounded float32 weights.

    Any model with the same keys takes it; no code of this package is needed to run that model.
    """
    content = _read(path)
    found: dict[str, Tensor] = dict(content["rest"])
    for key, entry in content["packed"].items():
        shape = entry["shape"]
        count = int(torch.Size(shape).numel())
        numbers = unpack(entry["packed"], entry["bits"], count).view(shape)
        scales = entry["scales"].view(-1, *[1] * (len(shape) - 1))
        found[key] = numbers.to(scales.dtype) * scales
    return found


def load_quantized(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a file of :func:`save_quantized` into a plain model; it then gives the same outputs.

    Args:
        model: of the same layers.
        path: the file.

    Returns:
        ``model``.

    Raises:
        MisconfigurationException: where the activations were rounded as well: such a model needs
            our layers, :func:`leyden.backends.precision.quantized.quantize_layers`.
    """
    entries = _read(path)["packed"].values()
    rounded = {entry["activation_bits"] for entry in entries} - {None}
    if rounded:
        raise MisconfigurationException(
            f"{os.fspath(path)} was trained with activations of {sorted(rounded)} bits, which a "
            "plain model does not round: read the weights with quantized_state_dict, and run them "
            "with quantize_layers(model, 8, activation_bits)"
        )
    plain_again(model)  # its weights are rounded already
    model.load_state_dict(quantized_state_dict(path))
    return model


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("form") != _FORM:
        raise ValueError(f"{os.fspath(path)} was not written by save_quantized, or by a newer one")
    return content

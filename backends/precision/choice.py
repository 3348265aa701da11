"""From the arguments of a Trainer to a precision."""

import torch

from leyden.backends.precision.apex import ApexPrecision
from leyden.backends.precision.base import Precision
from leyden.backends.precision.float8 import Float8Training
from leyden.backends.precision.levels import opt_level
from leyden.backends.precision.mixed import MixedPrecision
from leyden.backends.precision.quantized import QuantizedTraining
from leyden.backends.precision.true import TruePrecision

__all__ = ["BITS", "WORDS", "precision_for"]

#: Numbers of bits that can be asked for; 8, 4 and 2 are those of weights.
BITS = (64, 32, 16, 8, 4, 2)
#: What can be asked for in words, as in today's Lightning.
WORDS = (
    "bf16",
    "16-mixed",
    "bf16-mixed",
    "16-true",
    "bf16-true",
    "32-true",
    "64-true",
    "fp8",
)
_TRUE = {
    64: torch.float64,
    "64-true": torch.float64,
    "16-true": torch.float16,
    "bf16-true": torch.bfloat16,
}

#: Devices whose 16-bit format is bfloat16; the last two are TPUs.
_BFLOAT = ("cpu", "xla", "tpu")


def precision_for(
    precision: int | str,
    device: str = "cpu",
    *,
    amp_backend: str = "native",
    amp_level: str = "O2",
    apex: bool = False,
) -> Precision:
    """Make the precision that was asked for.

    ``16`` is the 16-bit format that the device is good at: float16 with a scaled loss on a GPU,
    bfloat16 on a CPU or a TPU. ``"16-mixed"`` is float16 wherever it runs.

    Args:
        precision: one of ``BITS`` or ``WORDS``.
        device: the type of device that computes.
        amp_backend: ``"apex"`` makes 16 mean an opt-level.
        amp_level: that level.
        apex: let NVIDIA's own apex do the work of the level.

    Raises:
        ValueError: for a precision that there is not.

    Example:
        >>> precision_for(16), precision_for("16-mixed"), precision_for(32).active
        (MixedPrecision('bf16-mixed'), MixedPrecision('16-mixed'), False)
    """
    if precision in (32, "32-true"):
        return Precision()
    if precision in _TRUE:
        return TruePrecision(_TRUE[precision])
    if precision in ("bf16", "bf16-mixed"):
        return MixedPrecision(torch.bfloat16, device)
    if precision in (16, "16-mixed"):
        if apex:
            return ApexPrecision(amp_level, device=device)
        if amp_backend == "apex":
            return opt_level(amp_level, device)
        half = torch.bfloat16 if precision == 16 and device in _BFLOAT else torch.float16
        return MixedPrecision(half, device)
    if precision == "fp8":
        return Float8Training(device)
    if precision in BITS:
        return QuantizedTraining(int(precision))
    raise ValueError(
        f"precision={precision!r} is unknown: pass one of {', '.join(map(repr, (*BITS, *WORDS)))}"
    )

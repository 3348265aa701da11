"""How many bits a run computes with: one small interface, and what implements it."""

from leyden.backends.precision.apex import ApexPrecision
from leyden.backends.precision.base import Precision
from leyden.backends.precision.choice import WORDS, precision_for
from leyden.backends.precision.float8 import Float8Training
from leyden.backends.precision.levels import LEVELS, PlainLevel, ScaledLevel, opt_level
from leyden.backends.precision.mixed import MixedPrecision, Scaler
from leyden.backends.precision.packed import (
    load_quantized,
    quantized_state_dict,
    save_quantized,
)
from leyden.backends.precision.quantized import QuantizedTraining, fake_quantize
from leyden.backends.precision.torchao_types import save_torchao, torchao_state_dict
from leyden.backends.precision.true import TruePrecision

__all__ = [
    "LEVELS",
    "WORDS",
    "ApexPrecision",
    "Float8Training",
    "MixedPrecision",
    "PlainLevel",
    "Precision",
    "QuantizedTraining",
    "ScaledLevel",
    "Scaler",
    "TruePrecision",
    "fake_quantize",
    "load_quantized",
    "opt_level",
    "precision_for",
    "quantized_state_dict",
    "save_quantized",
    "save_torchao",
    "torchao_state_dict",
]

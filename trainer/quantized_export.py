"""Write a trained model with weights of few bits."""

import os

from leyden.backends.precision import save_quantized, save_torchao
from leyden.engine.errors import MisconfigurationException, MisconfiguredValue
from leyden.run import Run

__all__ = ["export_quantized"]


_FORMATS = {"packed": save_quantized, "torchao": save_torchao}


def export_quantized(run: Run, path: str | os.PathLike[str], format: str = "packed") -> int:
    """See :meth:`leyden.Trainer.export_quantized`."""
    if format not in _FORMATS:
        raise MisconfiguredValue(
            f"format={format!r} is unknown: pass one of {', '.join(map(repr, _FORMATS))}"
        )
    if run.model is None:
        raise MisconfigurationException("export_quantized has no model: call fit(model) first")
    return _FORMATS[format](run.model, path)

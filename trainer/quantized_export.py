"""Write a trained model with weights of few bits."""

import os

from leyden.backends.precision import save_quantized
from leyden.engine.errors import MisconfigurationException
from leyden.run import Run

__all__ = ["export_quantized"]


def export_quantized(run: Run, path: str | os.PathLike[str]) -> int:
    """See :meth:`leyden.Trainer.export_quantized`."""
    if run.model is None:
        raise MisconfigurationException("export_quantized has no model: call fit(model) first")
    return save_quantized(run.model, path)

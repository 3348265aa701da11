"""What the tests of checkpoint files share."""

import contextlib
import os
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["contents", "lightning", "names"]


def contents(value: int = 0) -> dict[str, Any]:
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return {
        "epoch": value,
        "state_dict": layer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "note": "text",
        "numbers": torch.full((1000,), float(value)),
    }


def names(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextlib.contextmanager
def lightning() -> Iterator[types.SimpleNamespace]:
    """Stand in for an installed pytorch_lightning 1.1, as far as its files name it."""
    places = {
        "callbacks.model_checkpoint": "ModelCheckpoint",
        "callbacks.early_stopping": "EarlyStopping",
        "utilities.parsing": "AttributeDict",
        "my_callbacks": "Mine",
    }
    found = types.SimpleNamespace()
    kept = {name: module for name, module in sys.modules.items() if "pytorch_lightning" in name}
    for name in kept:
        del sys.modules[name]
    for place, name in places.items():
        parts = ["pytorch_lightning", *place.split(".")]
        for end in range(1, len(parts) + 1):
            full = ".".join(parts[:end])
            sys.modules.setdefault(full, types.ModuleType(full))
        base = dict if name == "AttributeDict" else object
        made = type(name, (base,), {"__module__": ".".join(parts)})
        setattr(sys.modules[".".join(parts)], name, made)
        setattr(found, name, made)
    try:
        yield found
    finally:
        for name in [name for name in sys.modules if "pytorch_lightning" in name]:
            del sys.modules[name]
        sys.modules.update(kept)

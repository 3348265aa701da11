"""OmegaConf's containers among hyper-parameters: kept in a checkpoint as data, made anew of it."""

import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["WHOLE", "is_container", "packed", "unpacked"]

#: the name of the hyper-parameters themselves, where one container holds all of them.
WHOLE = ""


def is_container(value: Any) -> bool:
    """Whether a value is a ``DictConfig`` or a ``ListConfig``."""
    package = sys.modules.get("omegaconf")  # without it there is none
    return package is not None and isinstance(value, package.Container)


def unpacked(hparams: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn containers into dicts and lists: the whole, or values of it.

    Interpolations (``"${a.b}"``) and missing values (``"???"``) stay what they are.

    Returns:
        The data, and the names of what was a container.
    """
    if is_container(hparams):
        return _data(hparams), [WHOLE]
    names = [name for name, value in hparams.items() if is_container(value)]
    return {**hparams, **{name: _data(hparams[name]) for name in names}}, names


def packed(hparams: Mapping[str, Any], names: list[str]) -> Any:
    """Undo :func:`unpacked`; where OmegaConf is not installed, the data stays data."""
    try:
        from omegaconf import OmegaConf
    except ImportError:
        return hparams
    if WHOLE in names:
        return OmegaConf.create(dict(hparams))
    made = {name: OmegaConf.create(hparams[name]) for name in names if name in hparams}
    return {**hparams, **made}


def _data(container: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(container, resolve=False)

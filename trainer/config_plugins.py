"""The rule for ``plugins=``: ready parts of leyden.backends, and ``"apex"``."""

from collections.abc import Mapping
from typing import Any

from leyden.backends.devices import Devices
from leyden.backends.environments import Environment
from leyden.backends.precision import LEVELS, Precision
from leyden.backends.strategies import Strategy
from leyden.config_values import shown
from leyden.engine.errors import MisconfiguredType, MisconfiguredValue

__all__ = ["check_plugins"]

#: What may be passed, each once, and the argument whose work it does.
KINDS: dict[type, str] = {
    Precision: "precision",
    Devices: "gpus",
    Strategy: "distributed_backend",
    Environment: "",
}
# Names of Lightning 1.1 and later, and what does the same here.
_INSTEAD = {
    "ddp_sharded": "accelerator='fsdp'",
    "ddp_sharded_spawn": "accelerator='fsdp'",
    "fsdp": "accelerator='fsdp'",
    "ddp": "accelerator='ddp'",
    "ddp_spawn": "accelerator='ddp_spawn'",
    "slurm": "nothing: SLURM is found by its variables",
    "native_amp": "precision=16",
}


def check_plugins(values: Mapping[str, Any]) -> None:
    """Refuse what is no part, two parts of a kind, and a part beside the argument it stands for.

    Raises:
        MisconfigurationException: naming the part, and what to pass.
    """
    plugins = values["plugins"]
    if plugins is None:
        return
    parts = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
    found: dict[type, Any] = {}
    for part in parts:
        apex = isinstance(part, str) and part == "apex"
        kind = Precision if apex else _kind(part)
        if kind in found:
            raise MisconfiguredValue(
                f"plugins={shown(plugins)} brings two parts of one kind ({kind.__name__}): pass "
                "only one of them"
            )
        found[kind] = part
    precision = found.get(Precision)
    if precision == "apex":
        _check_apex(values)
    elif precision is not None and values["precision"] != 32:
        raise MisconfiguredValue(
            f"plugins={shown(plugins)} brings a precision, and precision="
            f"{shown(values['precision'])} does too: pass only one"
        )
    if Devices in found and values["gpus"]:
        raise MisconfiguredValue(
            f"plugins={shown(plugins)} brings devices, and gpus={shown(values['gpus'])} does too: "
            "pass only one"
        )


def _kind(part: Any) -> type:
    for kind in KINDS:
        if isinstance(part, kind):
            return kind
    names = ", ".join(f"a {kind.__name__}" for kind in KINDS)
    allowed = f"pass 'apex', or {names} of leyden.backends"
    if isinstance(part, str):
        instead = _INSTEAD.get(part.lower())
        cure = f"pass {instead}" if instead else allowed
        raise MisconfiguredValue(f"plugins={part!r} is unknown: {cure}")
    if isinstance(part, type):
        raise MisconfiguredType(
            f"plugins={part.__name__} is a class: pass an object, {part.__name__}(...)"
        )
    raise MisconfiguredType(f"plugins={shown(part)} is no part of a Trainer: {allowed}")


def _check_apex(values: Mapping[str, Any]) -> None:
    if values["precision"] not in (16, "16-mixed"):
        raise MisconfiguredValue(
            f"plugins='apex' computes with 16 bits, and precision={shown(values['precision'])}: "
            "pass precision=16 too, with amp_level='O1' or another"
        )
    if values["amp_level"] not in LEVELS:
        raise MisconfiguredValue(
            f"amp_level={shown(values['amp_level'])} is unknown: pass one of {', '.join(LEVELS)}"
        )

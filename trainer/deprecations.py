"""The arguments of the Trainer that Lightning 1.1 deprecated: they work, and one warning tells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.deprecation import deprecated

__all__ = ["DEPRECATED", "REMOVED", "take_removed", "tell_deprecated"]


@dataclass(frozen=True)
class Deprecated:
    """One argument, or some of its values.

    Attributes:
        since: the version of Lightning.
        instead: what to write; ``{value}`` stands for what was given.
        when: which values are meant.
        then: what Lightning announced.
    """

    since: str
    instead: str
    when: Callable[[Any], bool] = lambda value: value is not None
    then: str = "will be removed in v1.3"


DEPRECATED: dict[str, Deprecated] = {
    "automatic_optimization": Deprecated(
        "1.1", "set self.automatic_optimization = {value} in the module's __init__"
    ),
    "checkpoint_callback": Deprecated(
        "1.1",
        "pass it in callbacks=[...]",
        lambda value: isinstance(value, CallbackBase),
        "will no longer be supported in v1.3",
    ),
    "distributed_backend": Deprecated(
        "1.0", "pass accelerator={value!r}", then="will be removed in v1.2"
    ),
    "profiler": Deprecated(
        "1.1", "pass profiler='simple', or leave it out", lambda value: isinstance(value, bool)
    ),
}

#: Arguments without any effect -> (since, what to do).
REMOVED: dict[str, tuple[str, str]] = {
    "enable_pl_optimizer": (
        "1.1.3",
        "leave it out; self.optimizers(use_pl_optimizer=False) gives the optimizers as they are",
    )
}


def take_removed(given: dict[str, Any]) -> None:
    """Take the arguments without effect out of ``given``, with a warning each."""
    for name, (since, instead) in REMOVED.items():
        if name in given and given.pop(name) is not None:
            deprecated(f"Trainer({name}=...)", since=since, instead=instead)


def tell_deprecated(given: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Warn once of each deprecated argument that was given under its own name."""
    for name, row in DEPRECATED.items():
        # Under another name, such as strategy=, it is not what was deprecated.
        if name in given and origin.get(name, name) == name and row.when(given[name]):
            value = given[name]
            shown = f"{value!r}" if isinstance(value, (bool, int, str)) else type(value).__name__
            deprecated(
                f"Trainer({name}={shown})",
                since=row.since,
                instead=row.instead.format(value=value),
                then=row.then,
            )

"""Names that today's Lightning gave to arguments of 1.1, in one table."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from leyden.backends.devices import KINDS, Machine
from leyden.backends.strategies.choice import NAMES
from leyden.backends.strategies.xla import TPU_WAYS
from leyden.config_values import count, flag, shown
from leyden.engine.errors import MisconfiguredValue

__all__ = ["ALIASES", "BACKENDS", "DEVICE_KINDS", "Alias", "resolve_aliases"]

Values = dict[str, Any]

DEVICE_KINDS = tuple(KINDS)
BACKENDS = (*NAMES, "horovod", *TPU_WAYS)


@dataclass(frozen=True)
class Alias:
    """What an argument of today's Lightning is called here.

    Attributes:
        meaning: the translation in words, for documentation.
        translate: (how it was given, value, all other arguments) -> the arguments it stands for.
        types: what an environment variable's text may be read as.
    """

    meaning: str
    translate: Callable[[str, Any, Mapping[str, Any]], Values]
    types: tuple[type, ...] = (bool,)


def _renamed(argument: str) -> Alias:
    return Alias(f"{argument}, same values", lambda name, value, others: {argument: value})


def _switch(argument: str, on: object, off: object) -> Alias:
    def translate(name: str, value: Any, others: Mapping[str, Any]) -> Values:
        return {argument: on if flag()(name, value) else off}

    return Alias(f"True: {argument}={on!r}, False: {argument}={off!r}", translate)


def _reload(name: str, value: Any, others: Mapping[str, Any]) -> Values:
    every = count(0)(name, value)
    return {"reload_dataloaders_every_epoch": every if every > 1 else bool(every)}


def _kind(others: Mapping[str, Any]) -> str:
    accelerator = others.get("accelerator")
    kind = accelerator.lower() if isinstance(accelerator, str) else "auto"
    if kind == "ddp_cpu":
        return "cpu"
    if kind in TPU_WAYS:
        return "tpu"
    return kind if kind not in ("auto", *BACKENDS) else Machine.look().best


def _devices(name: str, value: Any, others: Mapping[str, Any]) -> Values:
    """Translate ``devices=``; in text a bare number is a count, unlike in ``gpus=``."""
    kind = _kind(others)
    if isinstance(value, str):
        word = value.strip()
        if word == "auto":
            return _all_of(kind)
        with suppress(ValueError):  # ids like "0,1" stay text
            value = int(word)
    if kind == "cpu":
        return {"num_processes": count(1, advice="on the CPU devices= is that many")(name, value)}
    if kind == "mps":
        if value not in (1, [0], (0,)):
            raise MisconfiguredValue(
                f"{name}={shown(value)} with accelerator='mps': there is one such GPU, pass 1"
            )
        return {}
    return {"tpu_cores" if kind == "tpu" else "gpus": value}


def _all_of(kind: str) -> Values:
    """All devices of a kind; ``mps`` is one, and the name of the accelerator says so already."""
    kind = Machine.look().best if kind == "auto" else kind
    if kind in ("cpu", "mps"):
        return {}
    return {"tpu_cores": 8} if kind == "tpu" else {"gpus": -1}


def _strategy(name: str, value: Any, others: Mapping[str, Any]) -> Values:
    return {} if isinstance(value, str) and value == "auto" else {"distributed_backend": value}


ALIASES: dict[str, Alias] = {
    "enable_checkpointing": _renamed("checkpoint_callback"),
    "enable_progress_bar": _switch("progress_bar_refresh_rate", 1, 0),
    "enable_model_summary": _switch("weights_summary", "top", None),
    "reload_dataloaders_every_n_epochs": Alias(
        "reload_dataloaders_every_epoch; 0 is False, 1 is True", _reload, (int,)
    ),
    "use_distributed_sampler": _renamed("replace_sampler_ddp"),
    "devices": Alias(
        "gpus, tpu_cores or num_processes, by the kind of accelerator", _devices, (int, list, str)
    ),
    "strategy": Alias("the accelerator of 1.1 (ddp, dp, ...); 'auto' is None", _strategy, (str,)),
}


def resolve_aliases(
    given: Mapping[str, Any], sources: Mapping[str, str], others: Mapping[str, Any]
) -> tuple[Values, dict[str, str]]:
    """Replace today's names by those of 1.1.

    Args:
        given: arguments by the name used; None under one of today's names means "not given".
        sources: how each of them was given, for messages.
        others: further arguments that a translation may look at.

    Returns:
        The arguments by their 1.1 names, and for each how it was given.

    Raises:
        MisconfiguredValue: if both names of one argument were given.
    """
    values = {name: value for name, value in given.items() if name not in ALIASES}
    origin = {name: sources[name] for name in values}
    context = {**others, **values}
    for name in (n for n in given if n in ALIASES):
        if given[name] is None:
            continue
        for argument, value in ALIASES[name].translate(sources[name], given[name], context).items():
            if argument in values:
                raise MisconfiguredValue(
                    f"{sources[name]}={shown(given[name])} and {origin[argument]}="
                    f"{shown(values[argument])} set the same thing: pass only one of them"
                )
            values[argument], origin[argument] = value, sources[name]
    kind = values.get("accelerator")
    if isinstance(kind, str) and kind.lower() in DEVICE_KINDS:
        for argument, value in _all_of(kind.lower()).items():
            if values.get(argument) is None:
                values[argument], origin[argument] = value, origin["accelerator"]
    return values, origin

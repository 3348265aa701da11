"""Rules between arguments: other names, what is not built yet, combinations, and effects.

Each of the first two is one table. Everything here works on values that :mod:`leyden.config_values`
has already brought into their documented form, except the names in :data:`ALIASES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from leyden.config_values import count, flag, refuse, shown
from leyden.engine.errors import (
    MisconfiguredType,
    MisconfiguredValue,
    NotBuilt,
    ReportedAssertion,
    ReportedRuntime,
)

__all__ = [
    "ALIASES",
    "BACKENDS",
    "DEVICE_KINDS",
    "NOT_YET",
    "Alias",
    "Change",
    "NotYet",
    "check_backend_names",
    "check_combinations",
    "check_hardware",
    "check_not_yet",
    "effects",
    "resolve_aliases",
]

Values = dict[str, Any]

DEVICE_KINDS = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")
BACKENDS = ("dp", "ddp", "ddp2", "ddp_spawn", "ddp_cpu", "fsdp", "horovod", "xla")


@dataclass(frozen=True)
class Change:
    """One argument that another one set to something else.

    Attributes:
        argument: the argument whose value changed.
        because: the argument and value that changed it, such as ``fast_dev_run=True``.
        old: its value before.
        new: its value in this run.
    """

    argument: str
    because: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """Return ``max_epochs: 5 -> 1 (fast_dev_run=True)``."""
        return f"{self.argument}: {shown(self.old)} -> {shown(self.new)} ({self.because})"


# --- today's names ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alias:
    """What an argument of today's Lightning is called here.

    Attributes:
        meaning: the translation in words, for documentation.
        translate: (name, value, all other arguments) -> the arguments it stands for.
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
    if kind not in ("auto", *BACKENDS):
        return kind
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _devices(name: str, value: Any, others: Mapping[str, Any]) -> Values:
    """Translate ``devices=``; in text a bare number is a count, unlike in ``gpus=``."""
    kind = _kind(others)
    if isinstance(value, str):
        word = value.strip()
        if word == "auto":
            return {} if kind == "cpu" else _all_of(kind)
        value = int(word) if word.lstrip("-").isdecimal() else value
    if kind == "cpu":
        return {"num_processes": count(1, advice="on the CPU devices= is that many")(name, value)}
    return {"tpu_cores" if kind == "tpu" else "gpus": value}


def _all_of(kind: str) -> Values:
    if kind == "mps":
        raise NotBuilt("accelerator='mps' is not built yet: leave it out to train on the CPU")
    return {"tpu_cores": 8} if kind == "tpu" else {"gpus": -1}


def _strategy(name: str, value: Any, others: Mapping[str, Any]) -> Values:
    return {} if value == "auto" else {"distributed_backend": value}


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
        for argument, value in ALIASES[name].translate(name, given[name], context).items():
            if argument in values:
                raise MisconfiguredValue(
                    f"{sources[name]}={shown(given[name])} and {origin[argument]}="
                    f"{shown(values[argument])} set the same thing: pass only one of them"
                )
            values[argument], origin[argument] = value, sources[name]
    kind = values.get("accelerator")
    if isinstance(kind, str) and kind.lower() in ("cuda", "gpu", "mps", "tpu"):
        for argument, value in _all_of(kind.lower()).items():
            if values.get(argument) is None:
                values[argument], origin[argument] = value, origin["accelerator"]
    return values, origin


# --- what is not built yet --------------------------------------------------------------------------


@dataclass(frozen=True)
class NotYet:
    """Values of an argument that wait for a feature.

    Attributes:
        built: whether a value is served already.
        allowed: those values in words.
        why: what is missing.
        instead: what to do until then.
    """

    built: Callable[[Any], bool]
    allowed: str
    why: str
    instead: str


# Delete a row when its feature is there.
NOT_YET: dict[str, NotYet] = {
    "gpus": NotYet(
        lambda v: v is None or v == 0,
        "None or 0",
        "training on GPUs is not built yet",
        "leave gpus out to train on the CPU",
    ),
    "tpu_cores": NotYet(
        lambda v: v is None,
        "None",
        "training on TPUs is not built yet",
        "leave tpu_cores out to train on the CPU",
    ),
    "num_nodes": NotYet(
        lambda v: v == 1, "1", "training on several nodes is not built yet", "leave it out"
    ),
    "num_processes": NotYet(
        lambda v: v == 1, "1", "training in several processes is not built yet", "leave it out"
    ),
    "accelerator": NotYet(
        lambda v: v is None or (isinstance(v, str) and v.lower() in ("cpu", "auto")),
        "None, 'cpu' or 'auto'",
        "distributed training is not built yet",
        "leave accelerator out to train in this process on the CPU",
    ),
    "distributed_backend": NotYet(
        lambda v: v is None,
        "None",
        "distributed training is not built yet",
        "leave it (and strategy) out to train in this process",
    ),
    "plugins": NotYet(
        lambda v: v is None or v == [], "None", "plugins are not built yet", "leave plugins out"
    ),
    "precision": NotYet(
        lambda v: v == 32, "32", "mixed precision is not built yet", "leave precision out"
    ),
    "auto_lr_find": NotYet(
        lambda v: v is False,
        "False",
        "the learning rate finder is not built yet",
        "choose the rate in configure_optimizers",
    ),
    "auto_scale_batch_size": NotYet(
        lambda v: v is False,
        "False",
        "the batch size finder is not built yet",
        "choose the size in train_dataloader",
    ),
    "profiler": NotYet(
        lambda v: v != "pytorch" if isinstance(v, str) else True,
        "None, 'simple', 'advanced' or a profiler object",
        "the PyTorch profiler is not built yet",
        "use torch.profiler around fit",
    ),
}


def check_not_yet(values: Values, origin: Mapping[str, str]) -> None:
    """Refuse what waits for a feature."""
    for argument, row in NOT_YET.items():
        if not row.built(values[argument]):
            name = origin.get(argument, argument)
            said = "" if name == argument else f" (from {name})"
            raise NotBuilt(
                f"{argument}={shown(values[argument])}{said}: {row.why}; allowed is {row.allowed}: "
                f"{row.instead}"
            )


# --- combinations -----------------------------------------------------------------------------------


def check_hardware(values: Values) -> None:
    """Check devices, precision and backends against one another and against this machine."""
    gpus, tpus, precision = values["gpus"], values["tpu_cores"], values["precision"]
    if precision == 16 and values["amp_backend"] not in ("native", "apex"):
        refuse(
            ReportedAssertion,
            "amp_backend",
            values["amp_backend"],
            "is unknown: pass 'native' or 'apex'",
        )
    if tpus is not None and gpus:
        raise MisconfiguredValue(
            f"gpus={shown(gpus)} and tpu_cores={shown(tpus)} ask for two kinds of device: pass one"
        )
    if values["auto_select_gpus"] and gpus == 0:
        raise MisconfiguredValue(
            "auto_select_gpus=True with gpus=0 selects none: pass gpus=k, or leave both out"
        )
    if gpus:
        _check_gpus_exist(values)
    if values["num_nodes"] > 1 and str(values["distributed_backend"]) in ("dp", "ddp_cpu"):
        raise MisconfiguredValue(
            f"num_nodes={values['num_nodes']} with {values['distributed_backend']}: it works within "
            "one node; pass accelerator='ddp'"
        )


def _check_gpus_exist(values: Values) -> None:
    import torch

    gpus = values["gpus"]
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = max(gpus) + 1 if isinstance(gpus, list) else max(gpus, 1)
    if wanted > found:
        kind = MisconfiguredValue
        if values["auto_select_gpus"] and not isinstance(gpus, list) and gpus > 0:
            kind = ReportedRuntime
        what = f"{found} of them" if found else "none"
        refuse(kind, "gpus", gpus, f"asks for GPUs, and this machine has {what}: pass gpus=None")


def check_backend_names(values: Values) -> None:
    """Bring ``accelerator`` and ``distributed_backend`` together; the latter gets the backend in force."""
    accelerator, backend = values["accelerator"], values["distributed_backend"]
    for name in ("accelerator", "distributed_backend"):
        value = values[name]
        known = BACKENDS if name == "distributed_backend" else BACKENDS + DEVICE_KINDS
        if isinstance(value, str) and value.lower() not in known:
            refuse(MisconfiguredValue, name, value, f"is unknown: pass one of {', '.join(known)}")
        if isinstance(value, (bool, int, float, list, tuple, dict, type)):
            refuse(MisconfiguredType, name, value, "is no name: pass text such as 'ddp', or None")
    if not isinstance(accelerator, str) or accelerator.lower() in DEVICE_KINDS:
        return
    if isinstance(backend, str) and backend.lower() != accelerator.lower():
        raise MisconfiguredValue(
            f"accelerator={accelerator!r} and distributed_backend={backend!r} differ: pass only one"
        )
    values["distributed_backend"] = accelerator.lower()


def check_combinations(values: Values) -> None:
    """Check the arguments of the loop and the callbacks against one another."""
    for unit in ("epochs", "steps"):
        low, high = values[f"min_{unit}"], values[f"max_{unit}"]
        # The default min_epochs=1 is a floor only for runs that have an epoch at all.
        floor = 1 if unit == "epochs" else 0
        if low is not None and high is not None and low > max(high, floor):
            raise MisconfiguredValue(
                f"min_{unit}={low} is above max_{unit}={high}: raise max_{unit} or lower min_{unit}"
            )
    callbacks = values["callbacks"]
    listed = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    savers = [c for c in listed if _is_a(c, "ModelCheckpoint")]
    # Under fast_dev_run nothing saves, whoever asked for it.
    if values["checkpoint_callback"] is False and savers and not values["fast_dev_run"]:
        raise MisconfiguredValue(
            "checkpoint_callback=False, but callbacks has a ModelCheckpoint: "
            "take it out, or leave checkpoint_callback out"
        )
    bars = [c for c in listed if _is_a(c, "ProgressBarBase")]
    if len(bars) > 1:
        raise MisconfiguredValue(
            f"callbacks has {len(bars)} progress bars ({', '.join(type(b).__name__ for b in bars)}): "
            "pass one"
        )


def _is_a(value: object, name: str) -> bool:
    # By name: the classes live in files that need not be loaded for this, and a ModelCheckpoint of a
    # foreign Lightning is refused beside checkpoint_callback=False just as ours is.
    return any(kind.__name__ == name for kind in type(value).__mro__)


# --- effects ----------------------------------------------------------------------------------------


def effects(values: Values) -> list[Change]:
    """Apply the arguments that set others, in place, and say what changed.

    ``fast_dev_run`` comes first, so that ``overfit_batches`` decides the limits where both are given,
    as in Lightning 1.1.
    """
    changes: list[Change] = []

    def put(because: str, **new: Any) -> None:
        for argument, value in new.items():
            old = values[argument]
            if (type(old), old) != (type(value), value):
                changes.append(Change(argument, because, old, value))
                values[argument] = value

    run = values["fast_dev_run"]
    if run:
        batches = int(run)
        because = f"fast_dev_run={run}"
        limits = {f"limit_{loop}_batches": batches for loop in ("train", "val", "test", "predict")}
        put(because, **limits, max_epochs=1, max_steps=batches, num_sanity_val_steps=0)
        put(because, val_check_interval=1.0, check_val_every_n_epoch=1)
        put(because, min_epochs=min(values["min_epochs"], 1))
        if values["min_steps"] is not None:
            put(because, min_steps=min(values["min_steps"], batches))
        put(because, logger=False, checkpoint_callback=False)
        put(because, auto_lr_find=False, auto_scale_batch_size=False)
    overfit = values["overfit_batches"]
    if overfit > 0:
        because = f"overfit_batches={overfit}"
        put(because, **{f"limit_{loop}_batches": overfit for loop in ("train", "val", "test")})
    return changes

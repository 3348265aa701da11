"""Rules between arguments: which combinations are refused, what sets what.

Everything here works on values that :mod:`leyden.config_values` and :mod:`leyden.config_objects`
have brought into their documented form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leyden.backends.devices import KINDS, Machine, chosen_gpus, gpu_ids
from leyden.backends.plugins import plugin_of
from leyden.backends.precision.levels import LEVELS
from leyden.backends.strategies import Strategy
from leyden.backends.strategies.xla import TPU_WAYS, check_tpu_cores
from leyden.config_names import BACKENDS, DEVICE_KINDS
from leyden.config_plugins import check_plugins
from leyden.config_values import refuse, shown
from leyden.engine.errors import (
    MisconfigurationException,
    MisconfiguredType,
    MisconfiguredValue,
    ReportedAssertion,
    ReportedRuntime,
)

__all__ = [
    "Change",
    "check_backend_names",
    "check_combinations",
    "check_hardware",
    "effects",
]

Values = dict[str, Any]


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


def _said(argument: str, values: Values, origin: Mapping[str, str]) -> str:
    """Return ``gpus=-1 (from accelerator)``: the value in our terms, and what the caller wrote."""
    name = origin.get(argument, argument)
    return f"{argument}={shown(values[argument])}" + (f" (from {name})" if name != argument else "")


# --- combinations


def check_hardware(values: Values, origin: Mapping[str, str]) -> None:
    """Check devices, precision and backends against one another and against this machine."""
    gpus, tpus, precision = values["gpus"], values["tpu_cores"], values["precision"]
    if precision == 16 and values["amp_backend"] not in ("native", "apex"):
        refuse(
            ReportedAssertion,
            "amp_backend",
            values["amp_backend"],
            "is unknown: pass 'native' or 'apex'",
        )
    if precision in (16, "16-mixed") and values["amp_backend"] == "apex":
        if values["amp_level"] not in LEVELS:
            allowed = f"is unknown: pass one of {', '.join(LEVELS)}"
            refuse(MisconfiguredValue, "amp_level", values["amp_level"], allowed)
    check_plugins(values)
    if tpus is not None and gpus:
        raise MisconfiguredValue(
            f"gpus={shown(gpus)} and tpu_cores={shown(tpus)} ask for two kinds of device: pass one"
        )
    if values["auto_select_gpus"] and gpus == 0:
        raise MisconfiguredValue(
            "auto_select_gpus=True with gpus=0 selects none: pass gpus=k, or leave both out"
        )
    if tpus is not None:
        _check_tpu(values, origin)
    _check_kind(values, origin)
    if gpus:
        _check_gpus_exist(values, origin)


def _check_tpu(values: Values, origin: Mapping[str, str]) -> None:
    """Hold ``tpu_cores`` against the precision, the backend and this machine."""
    said, backend = _said("tpu_cores", values, origin), values["distributed_backend"]
    if isinstance(values["accelerator"], str) and values["accelerator"].lower() in ("cpu", "cuda"):
        raise MisconfiguredValue(
            f"accelerator={values['accelerator']!r} and {said} ask for two kinds of device: pass "
            "one, or accelerator='tpu'"
        )
    if values["precision"] == "16-mixed":
        raise MisconfiguredValue(
            f"precision='16-mixed' with {said}: TPUs compute in bfloat16, not in float16; pass "
            "precision=16, which means bfloat16 there, or 'bf16-mixed'"
        )
    if values["precision"] == 16 and values["amp_backend"] == "apex":
        raise MisconfiguredValue(
            f"amp_backend='apex' with {said}: its levels are about float16 on GPUs; leave it out, "
            "precision=16 means bfloat16 on a TPU"
        )
    ready = plugin_of(values["plugins"], Strategy)
    if ready is not None and ready.root_device.type not in ("xla", "tpu"):
        raise MisconfiguredValue(
            f"plugins={shown(ready)} and {said} ask for two kinds of device: pass one"
        )
    if ready is not None and ready.name in TPU_WAYS:
        backend = ready.name
    check_tpu_cores(
        values["tpu_cores"], backend.lower() if isinstance(backend, str) else None, said
    )


def _check_kind(values: Values, origin: Mapping[str, str]) -> None:
    """Hold the kind of device against ``gpus`` and against this machine."""
    accelerator = values["accelerator"]
    kind = KINDS.get(accelerator.lower()) if isinstance(accelerator, str) else None
    if kind in ("cpu", "mps") and values["gpus"]:
        said = _said("gpus", values, origin)
        raise MisconfiguredValue(
            f"accelerator={accelerator!r} and {said} ask for two kinds of device: pass one, or "
            "accelerator='gpu'"
        )
    if kind == "mps" and not (machine := Machine.look()).mps:
        raise MisconfiguredValue(
            f"accelerator={accelerator!r} asks for the GPU of a Mac, and there is none to use: "
            f"{machine.no_mps}; pass accelerator='auto' to take what there is"
        )


def _check_gpus_exist(values: Values, origin: Mapping[str, str]) -> None:
    machine, gpus = Machine.look(), values["gpus"]
    try:
        gpu_ids(gpus, machine.cuda)
    except ValueError as error:
        kind: type[MisconfigurationException] = MisconfiguredValue
        if values["auto_select_gpus"] and not isinstance(gpus, list) and gpus > 0:
            kind = ReportedRuntime
        what = str(error) if machine.cuda else f"this machine has none ({machine.no_cuda})"
        said = _said("gpus", values, origin)
        raise kind(
            f"{said} asks for GPUs: {what}; pass gpus=None, or accelerator='auto' to take what "
            "there is"
        ) from None


def check_backend_names(values: Values, origin: Mapping[str, str]) -> None:
    """Check the two names of the backend, and put the one in force into ``distributed_backend``."""
    accelerator, backend = values["accelerator"], values["distributed_backend"]
    for name in ("accelerator", "distributed_backend"):
        value = values[name]
        known = BACKENDS if name == "distributed_backend" else BACKENDS + DEVICE_KINDS
        if isinstance(value, str) and value.lower() not in known:
            allowed = f"is unknown: pass one of {', '.join(known)}"
            refuse(MisconfiguredValue, origin.get(name, name), value, allowed)
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
            "checkpoint_callback=False but found ModelCheckpoint in callbacks: "
            "take it out, or leave checkpoint_callback out"
        )
    bars = [c for c in listed if _is_a(c, "ProgressBarBase")]
    if len(bars) > 1:
        raise MisconfiguredValue(
            "You added multiple progress bar callbacks: callbacks has "
            f"{len(bars)} progress bars ({', '.join(type(b).__name__ for b in bars)}): pass one"
        )


def _is_a(value: object, name: str) -> bool:
    # By name: the classes live in files that need not be loaded for this, and a ModelCheckpoint of
    # a foreign Lightning is refused beside checkpoint_callback=False just as ours is.
    return any(kind.__name__ == name for kind in type(value).__mro__)


# --- effects


def effects(values: Values) -> list[Change]:
    """Apply the arguments that set others, in place, and say what changed.

    ``fast_dev_run`` comes first, so that ``overfit_batches`` decides the limits where both are
    given, as in Lightning 1.1.
    """
    changes: list[Change] = []

    def put(because: str, **new: Any) -> None:
        for argument, value in new.items():
            old = values[argument]
            if (type(old), old) != (type(value), value):
                changes.append(Change(argument, because, old, value))
                values[argument] = value

    # Ids that somebody wrote down are no matter of choice.
    if values["auto_select_gpus"] and isinstance(values["gpus"], int):
        picked = chosen_gpus(values["gpus"], Machine.look().cuda)
        put("auto_select_gpus=True", gpus=picked)

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

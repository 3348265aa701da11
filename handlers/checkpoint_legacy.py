"""What checkpoints of Lightning 1.1 and before hold, and how it becomes today's form.

Those files name classes: callbacks as keys, ``argparse.Namespace`` and ``AttributeDict`` around
hyper-parameters. Each name has an inert stand-in here, which takes the class's place while the file
is read: Lightning need not be installed, and no code of it runs.
"""

import argparse
import importlib
import pickle
from collections import OrderedDict
from typing import IO, Any

import torch

__all__ = ["LegacyAttributes", "LegacyClass", "STAND_INS", "load_trusted", "stand_in", "upgrade"]


class LegacyAttributes(dict[str, Any]):
    """Hyper-parameters of an old file: read as a dict, whatever their class was."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


class LegacyClass:
    """A class that an old file names. Never made into objects, only a key."""

    legacy_name = ""


def stand_in(name: str) -> type[LegacyClass]:
    """Make an inert class for the full name ``name``."""
    return type(name.rpartition(".")[2], (LegacyClass,), {"legacy_name": name})


_CALLBACKS = "pytorch_lightning.callbacks"
_CHECKPOINT = f"{_CALLBACKS}.model_checkpoint.ModelCheckpoint"
_STOPPING = f"{_CALLBACKS}.early_stopping.EarlyStopping"

#: full name in the file -> what takes its place
STAND_INS: dict[str, type] = {
    _CHECKPOINT: stand_in(_CHECKPOINT),
    _STOPPING: stand_in(_STOPPING),
    "argparse.Namespace": LegacyAttributes,
    # torch's safe reader fills no dicts but a few of its own choice; this one is among them.
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
}

# key of the form before 0.9 -> the callback and key of its state since
_OLD_CALLBACK_KEYS = {
    "checkpoint_callback_best": ("ModelCheckpoint", "best_model_score"),
    "checkpoint_callback_best_model_score": ("ModelCheckpoint", "best_model_score"),
    "checkpoint_callback_best_model_path": ("ModelCheckpoint", "best_model_path"),
    "early_stop_callback_wait": ("EarlyStopping", "wait_count"),
    "early_stop_callback_patience": ("EarlyStopping", "patience"),
}
_OLD_HPARAMS_KEYS = ("hparams", "module_arguments")


def upgrade(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Bring what an old Lightning wrote to today's form, in place.

    Callback states are keyed by class name instead of class, the loose callback keys of versions
    before 0.9 move to where they belong, and hyper-parameters are plain dicts under
    ``hyper_parameters``. What is in today's form already stays as it is.
    """
    states = checkpoint.get("callbacks")
    if isinstance(states, dict):
        named: dict[Any, Any] = {}
        for key, state in states.items():
            short = key.__name__ if isinstance(key, type) else key
            # Two classes of one name: the later keeps its full name, so that neither is lost.
            named[_full_name(key) if short in named else short] = state
        checkpoint["callbacks"] = named
    for old, (callback, new) in _OLD_CALLBACK_KEYS.items():
        if old in checkpoint:
            states = checkpoint.setdefault("callbacks", {})
            states.setdefault(callback, {})[new] = checkpoint.pop(old)
    for old in _OLD_HPARAMS_KEYS:
        if old in checkpoint and "hyper_parameters" not in checkpoint:
            checkpoint["hyper_parameters"] = checkpoint.pop(old)
    if "hyper_parameters" in checkpoint:
        checkpoint["hyper_parameters"] = _plain_attributes(checkpoint["hyper_parameters"])
    return checkpoint


def _full_name(key: Any) -> Any:
    if not isinstance(key, type):
        return key
    return getattr(key, "legacy_name", f"{key.__module__}.{key.__qualname__}")


def _plain_attributes(value: Any) -> Any:
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain_attributes(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain_attributes(item) for item in value)
    return value


class _TrustingUnpickler(pickle.Unpickler):
    """Unpickles anything; Lightning's classes fall back to their stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            if module.partition(".")[0] != "pytorch_lightning":
                raise
            full = f"{module}.{name}"
            return STAND_INS.get(full) or stand_in(full)


class _TrustingPickle:
    """The part of the pickle module that ``torch.load`` asks for."""

    __name__ = "leyden_trusting_pickle"
    Unpickler = _TrustingUnpickler

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        return _TrustingUnpickler(file, **options).load()


def load_trusted(file: IO[bytes], map_location: Any) -> Any:
    """Read a file that may run code: the caller was told and said yes."""
    importlib.import_module("torch.optim.lr_scheduler")  # old schedulers name it without importing
    return torch.load(
        file, map_location=map_location, weights_only=False, pickle_module=_TrustingPickle()
    )

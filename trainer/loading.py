"""Rebuild a module from a checkpoint."""

import inspect
from collections.abc import MutableMapping
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from leyden.handlers.checkpoint_archive import UnsafeCheckpoint
from leyden.handlers.checkpoint_objects import pickled
from leyden.handlers.config_containers import is_container, packed
from leyden.hparams import AttributeDict
from leyden.hparams_files import read_hparams

__all__ = ["load_module"]

_Module = TypeVar("_Module")
_PLAIN = (type(None), bool, int, float, str)


def load_module(
    cls: type[_Module],
    path: str | Path | IO[bytes],
    map_location: Any,
    hparams_file: str | Path | None,
    strict: bool,
    trust: bool,
    given: dict[str, Any],
) -> _Module:
    """Build a module from a checkpoint; see ``LightningModule.load_from_checkpoint``.

    Args:
        cls: The class of the module.
        path: The checkpoint.
        map_location: Where its tensors go; None: to the CPU.
        hparams_file: Hyper-parameters that replace the saved ones.
        strict: The names of the weights must be exactly those of the module.
        trust: Read the file even if that runs code from it.
        given: Arguments of the constructor that win over the saved ones.
    """
    from leyden.handlers import checkpoint_io

    # First, so that a wrong name costs no reading of a large file.
    replaced = None if hparams_file is None else read_hparams(hparams_file)
    for parameter in inspect.signature(cls.__init__).parameters.values():
        # An object in the file that is the default of here is no danger.
        default = parameter.default
        if default is not inspect.Parameter.empty and not isinstance(default, _PLAIN):
            pickled(default)
    checkpoint = checkpoint_io.load(
        path,
        map_location="cpu" if map_location is None else map_location,
        trust=trust,
    )
    if replaced is not None:
        checkpoint["hyper_parameters"] = replaced
    else:
        containers = (checkpoint.get("leyden") or {}).get("omegaconf")
        if containers:
            checkpoint["hyper_parameters"] = packed(checkpoint["hyper_parameters"], containers)
        _without_objects(cls, path, checkpoint, given)
    checkpoint.setdefault("hyper_parameters", {})  # on_load_checkpoint may look for it
    module: Any = cls(**_arguments(cls, checkpoint, given))
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=strict)
    return cast(_Module, module)


def _without_objects(cls: Any, path: Any, checkpoint: dict[str, Any], given: Any) -> None:
    """Take the texts of objects out of the hyper-parameters: no constructor is made for them.

    Raises:
        UnsafeCheckpoint: the file holds one that is needed, pickled in another process.
    """
    objects = (checkpoint.get("leyden") or {}).get("objects", {}).get("hyper_parameters", {})
    parameters = inspect.signature(cls.__init__).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    whole = checkpoint.get("hparams_name") in parameters
    left = [name for name in objects if name not in given]
    needed = [
        name
        for name in left
        if objects[name] is not None and (whole or takes_all or name in parameters)
    ]
    if needed:
        raise UnsafeCheckpoint(
            f"checkpoint {str(path)!r} holds {_listed(needed)} as pickled objects, and reading "
            "those could run any code. Pass what they were, load_from_checkpoint(path, "
            f"{needed[0]}=...), or trust_checkpoint=True if you know who wrote the file"
        )
    for name in left:
        del checkpoint["hyper_parameters"][name]


def _arguments(cls: Any, checkpoint: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Work out what to call the constructor with."""
    parameters = inspect.signature(cls.__init__).parameters
    named = {
        name
        for name, parameter in list(parameters.items())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kept = checkpoint.get("hyper_parameters") or {}
    # One argument holds them all, or attribute access as well: it may have been a Namespace.
    saved = kept if is_container(kept) else AttributeDict(_as_dict(kept))
    argument = checkpoint.get("hparams_name")
    arguments: dict[str, Any]
    if argument and argument in named:
        saved.update({key: value for key, value in given.items() if key not in named})
        arguments = {argument: saved}
    else:
        arguments = dict(saved)
    arguments.update(given)
    if not takes_all:
        arguments = {name: value for name, value in arguments.items() if name in named}
    required = [
        name
        for name in named
        if parameters[name].default is inspect.Parameter.empty and name not in arguments
    ]
    if required:
        raise TypeError(
            f"{cls.__name__} needs {_listed(required)}, which the checkpoint does not hold: pass "
            f"load_from_checkpoint(path, {required[0]}=...), or save_hyperparameters() in __init__"
        )
    return arguments


def _as_dict(saved: Any) -> dict[str, Any]:
    if isinstance(saved, MutableMapping):
        return dict(saved)
    return dict(vars(saved))  # A Namespace, in a file that is trusted.


def _listed(names: list[str]) -> str:
    names = sorted(names)
    return (
        repr(names[0])
        if len(names) == 1
        else f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"
    )

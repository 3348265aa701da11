"""Hyper-parameters: the arguments a module was made with, kept for loggers and checkpoints."""

import argparse
import copy
import difflib
import inspect
from collections.abc import Iterable, MutableMapping
from dataclasses import fields, is_dataclass
from types import FrameType
from typing import Any, cast

from leyden.handlers.deprecation import deprecated

__all__ = ["AttributeDict", "HyperParameters"]


class AttributeDict(dict[str, Any]):
    """A dict whose keys can be read and written as attributes.

    Example:
        >>> hparams = AttributeDict(width=3)
        >>> hparams.depth = 2
        >>> hparams["depth"], hparams.width
        (2, 3)
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            near = difflib.get_close_matches(name, [key for key in self if isinstance(key, str)])
            hint = (
                f", did you mean {near[0]!r}?" if near else f": there are {sorted(map(str, self))}"
            )
            raise AttributeError(f"no hyper-parameter {name!r}{hint}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"no hyper-parameter {name!r}") from None

    def __repr__(self) -> str:
        if not self:
            return ""
        quoted = {f'"{key}":': self[key] for key in sorted(self, key=str)}
        width = max(map(len, quoted))
        return "\n".join(f"{key:<{width}} {value}" for key, value in quoted.items())

    def copy(self) -> "AttributeDict":
        """Return a shallow copy, an AttributeDict as well."""
        return type(self)(self)


class HyperParameters:
    """Keeps the arguments of a constructor: what modules and data modules have in common."""

    _hparams_name: str | None = None

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: str | Iterable[str] | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Keep the constructor's arguments in ``hparams``, in checkpoints and in the logger.

        Args:
            args: Names of arguments, or one object that holds them all (dict, Namespace,
                dataclass instance); none: every argument.
            ignore: Names to leave out.
            frame: The frame of the constructor, where this is called from elsewhere.
            logger: Send them to the logger.

        Example:
            >>> class Model(HyperParameters):
            ...     def __init__(self, width, rate=0.1):
            ...         super().__init__()
            ...         self.save_hyperparameters()
            >>> dict(Model(3).hparams)
            {'width': 3, 'rate': 0.1}
        """
        frame = frame or cast(FrameType, cast(FrameType, inspect.currentframe()).f_back)
        self._log_hyperparams = logger
        _save(self, *args, ignore=ignore, frame=frame)

    @property
    def hparams(self) -> MutableMapping[str, Any]:
        """The hyper-parameters; may be changed, and are saved as they are then."""
        if "_hparams" not in self.__dict__:
            self._hparams: MutableMapping[str, Any] = AttributeDict()
        return self._hparams

    @hparams.setter
    def hparams(self, value: Any) -> None:
        _assign(self, value)

    @property
    def hparams_initial(self) -> MutableMapping[str, Any]:
        """A copy of the hyper-parameters as they were saved first."""
        # A copy each time: nothing that is done to it may reach a logger or a checkpoint.
        return _deep_copy(self.__dict__.get("_hparams_initial", AttributeDict()))


def _save(owner: Any, *args: Any, ignore: str | Iterable[str] | None, frame: FrameType) -> None:
    """Keep constructor arguments of ``owner`` in its ``hparams``.

    Args:
        owner: The module or data module whose constructor is running.
        args: Names of arguments to keep, or one object that holds them all (dict, Namespace,
            dataclass instance); none: keep every argument.
        ignore: Names to leave out.
        frame: The frame of the constructor.
    """
    given = _arguments(owner, frame)
    ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
    objects = [value for value in args if not isinstance(value, str)]
    if len(objects) == 1:
        found: Any = objects[0]
        name = _named_by(found, given)
        _set_hparams(owner, found, name, ignored)
        return
    if objects:
        raise ValueError(
            f"save_hyperparameters got {len(objects)} objects: pass names, or one object"
        )
    missing = [name for name in args if name not in given]
    if missing:
        raise ValueError(
            f"save_hyperparameters({missing[0]!r}): the constructor of {type(owner).__name__} has "
            f"no such argument, it has {sorted(given)}"
        )
    kept = {name: given[name] for name in args} if args else given
    _set_hparams(owner, kept, "kwargs" if kept else None, ignored)


def _set_hparams(owner: Any, found: Any, name: str | None, ignored: set[str]) -> None:
    hparams = _to_hparams(found)
    for key in ignored:
        hparams.pop(key, None)
    _add(owner, hparams)
    owner._hparams_name = name
    owner._hparams_initial = _deep_copy(owner._hparams)


def _add(owner: Any, hparams: MutableMapping[str, Any]) -> None:
    kept = owner.__dict__.get("_hparams")
    # A subclass that saves its own arguments adds to those its parents saved.
    if isinstance(kept, dict) and isinstance(hparams, dict):
        kept.update(hparams)
    else:
        owner._hparams = hparams


def _to_hparams(found: Any) -> MutableMapping[str, Any]:
    """Turn what a user gave as hyper-parameters into the mapping that ``hparams`` holds.

    Raises:
        ValueError: ``found`` is a number, a text, or another object without names.
    """
    if isinstance(found, argparse.Namespace):
        return AttributeDict(vars(found))
    if is_dataclass(found) and not isinstance(found, type):
        return AttributeDict({field.name: getattr(found, field.name) for field in fields(found)})
    if isinstance(found, AttributeDict):
        return found
    if isinstance(found, dict):
        return AttributeDict(found)
    if isinstance(found, MutableMapping):  # OmegaConf's containers have attributes of their own.
        return found
    raise ValueError(
        f"hyper-parameters of type {type(found).__name__} have no names: pass a dict, an "
        "argparse.Namespace or a dataclass instance"
    )


def _arguments(owner: Any, frame: FrameType) -> dict[str, Any]:
    """Return the arguments of the constructor that runs in ``frame``, with their values of now.

    Those taken by ``**kwargs`` are among them under their own names; ``self``, ``*args`` are not.
    """
    if is_dataclass(owner) and frame.f_code.co_name == "__post_init__":
        return {field.name: getattr(owner, field.name) for field in fields(owner) if field.init}
    names, _, keywords, values = inspect.getargvalues(frame)
    given = {name: values[name] for name in names[1:] if name in values}
    if keywords is not None:
        given.update(values.get(keywords, {}))
    return given


def _named_by(value: Any, given: dict[str, Any]) -> str | None:
    """Return the name of the argument that holds ``value``, None if none does."""
    for name, other in given.items():
        if other is value:
            return name
    for name, other in given.items():
        # Equal is good enough for a copy; tensors and arrays have no single answer.
        if type(other) is type(value) and isinstance(value, (dict, argparse.Namespace)):
            try:
                if other == value:
                    return name
            except (RuntimeError, ValueError):
                continue
    return None


def _assign(owner: Any, value: Any) -> None:
    """Do ``owner.hparams = value``, noting the constructor's argument it came from.

    What was there stays, and so do the initial ones: only what a module was made with goes to
    loggers. Source: Lightning 1.1.
    """
    deprecated(
        "self.hparams = ...: The setter for self.hparams in LightningModule",
        since="1.1",
        instead="call self.save_hyperparameters()",
    )
    _add(owner, _to_hparams(value))
    owner._hparams_name = _argument_in_stack(owner, value) or owner._hparams_name
    if "_hparams_initial" not in owner.__dict__:
        owner._hparams_initial = _deep_copy(owner._hparams)


def _argument_in_stack(owner: Any, value: Any) -> str | None:
    """Find the constructor on the stack (torch's ``__setattr__`` is between) and its argument."""
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount:
            if frame.f_locals.get(code.co_varnames[0]) is owner:
                return _named_by(value, _arguments(owner, frame))
        frame = frame.f_back
    return None


def _deep_copy(hparams: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Copy deeply, except for values that cannot be copied: they are shared."""
    if not isinstance(hparams, AttributeDict):
        return copy.deepcopy(hparams)
    copied = AttributeDict()
    memo: dict[int, Any] = {}
    for key, value in hparams.items():
        try:
            copied[key] = copy.deepcopy(value, memo)
        except Exception:  # Whatever the user's own object raises; it is only not protected.
            copied[key] = value
    return copied

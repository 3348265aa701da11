"""The parser behind ``LeydenCLI``: jsonargparse, with the arguments of Trainer, module and data."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from leyden.arguments import (
    argument_descriptions,
    get_init_arguments_and_types,
    init_annotations,
)
from leyden.config import TrainerConfig
from leyden.config_names import ALIASES

__all__ = ["Choice", "add_class", "add_trainer", "jsonargparse", "parser_class", "type_of_class"]

#: What an optimizer or a scheduler gets from the module, not from the command line.
_FILLED = {"optimizer": {"params"}, "lr_scheduler": {"optimizer"}}


def jsonargparse() -> Any:
    """Import jsonargparse, or say how to get it."""
    try:
        import jsonargparse as found
    except ImportError as error:
        raise ImportError(
            "LeydenCLI needs the package jsonargparse, which is not installed: "
            "pip install 'leyden[cli]'"
        ) from error
    return found


@functools.cache
def parser_class() -> type[Any]:
    """Return the class of the parser: jsonargparse's, with the methods of this file."""
    base = jsonargparse().ArgumentParser
    methods: dict[str, Callable[..., Any]] = {
        "add_lr_scheduler_args": _add_lr_scheduler_args,
        "add_optimizer_args": _add_optimizer_args,
        "error": lambda self, message, ex=None: base.error(self, _with_hint(self, message), ex),
    }
    return type("LeydenArgumentParser", (base,), {"__doc__": __doc__, **methods})


def _with_hint(parser: Any, message: str) -> str:
    """Say what an option that is unknown may have been meant to be."""
    unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
    if unknown is None or "did you mean" in message:  # said by the parser of the subcommand
        return message
    near = difflib.get_close_matches(unknown[1], parser._option_string_actions, n=2, cutoff=0.7)
    return f"{message}: did you mean {' or '.join(near)}?" if near else message


def _title(parser: Any, key: str, title: str) -> None:
    """Name a group of options as its reader does; by itself it is the repr of the class."""
    if key in parser.groups:
        parser.groups[key].title = title


# --- the Trainer


def _object_types() -> dict[str, Any]:
    """What jsonargparse may build for arguments that take objects; by the names of leyden."""
    from leyden.backends.precision import Precision
    from leyden.handlers import Handler
    from leyden.handlers.profilers import BaseProfiler
    from leyden.loggers import LightningLoggerBase

    loggers: Any = LightningLoggerBase
    return {
        "logger": bool | loggers | list[loggers],
        "checkpoint_callback": bool | Handler,
        "callbacks": list[Handler] | Handler | None,
        "profiler": str | bool | BaseProfiler | None,
        "plugins": Precision | list[Precision] | str | None,
        "accelerator": str | None,
    }


def add_trainer(parser: Any, trainer_class: type[Any]) -> None:
    """Add an option ``--trainer.x`` for each argument of a Trainer's constructor."""
    # Imported so that --trainer.callbacks EarlyStopping is found by its short name.
    import leyden.callbacks
    import leyden.handlers
    import leyden.profiler  # noqa: F401

    kinds = {**init_annotations(trainer_class), **_object_types()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, keyword, default=default, annotation=kinds.get(name, Any))
        for name, _, default in get_init_arguments_and_types(trainer_class)
    ]

    def trainer(**arguments: Any) -> None:
        """Stand for the constructor: the Trainer itself is made by LeydenCLI."""

    trainer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    trainer.__annotations__ = {p.name: p.annotation for p in parameters}
    parser.add_function_arguments(trainer, "trainer", fail_untyped=False)
    told = {
        **{name: f"Today's name: {alias.meaning}." for name, alias in ALIASES.items()},
        **argument_descriptions(TrainerConfig),
        **argument_descriptions(trainer_class),
    }
    _explain(parser, "trainer", told)
    _title(parser, "trainer", f"arguments of {trainer_class.__name__}")


# --- modules and data


def type_of_class(what: str, cls: Any, base: type[Any]) -> type[Any]:
    """Check what was given as the class of the module or the data."""
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise TypeError(
            f"{what}={cls!r} is no subclass of {base.__name__}: pass the class itself, "
            f"or None to choose one by its name on the command line"
        )
    return cls


def add_class(parser: Any, cls: type[Any], key: str, *, choose: bool, required: bool) -> None:
    """Add the options of a class that the command line makes an object of.

    Args:
        parser: the parser.
        cls: the class; with ``choose`` the base of those that may be chosen.
        key: the name before the dot, ``model`` or ``data``.
        choose: ``--model package.Class --model.lr 0.1`` instead of ``--model.lr 0.1``.
        required: whether one has to be chosen.
    """
    if choose:
        parser.add_subclass_arguments(cls, key, fail_untyped=False, required=required)
        _title(parser, key, f"{key}: a {cls.__name__}")
        return
    parser.add_class_arguments(cls, key, fail_untyped=False, sub_configs=True)
    _explain(parser, key, argument_descriptions(cls))
    _title(parser, key, f"arguments of {cls.__name__}")


def _explain(parser: Any, key: str, told: Mapping[str, str]) -> None:
    """Give options the words of the docstrings; type and default follow by themselves."""
    for action in parser._actions:
        name = str(action.dest).removeprefix(f"{key}.")
        if str(action.dest).startswith(f"{key}.") and name in told:
            action.help = told[name]


# --- optimizers and schedulers


@dataclass(frozen=True)
class Choice:
    """Options that name an optimizer or a scheduler.

    Attributes:
        kind: ``"optimizer"`` or ``"lr_scheduler"``.
        only: the class, where there is no choice of one.
        link_to: the argument of the module that gets it; empty: its ``configure_optimizers``.
    """

    kind: str
    only: Any
    link_to: str

    def spec(self, chosen: Any) -> dict[str, Any] | None:
        """Return ``{"class_path": ..., "init_args": ...}`` of what was parsed; None of nothing."""
        if chosen is None:
            return None
        arguments = _as_dict(chosen)
        if self.only is None:
            inner = arguments.get("init_args") or {}
            return {"class_path": arguments["class_path"], "init_args": _as_dict(inner)}
        path = f"{self.only.__module__}.{self.only.__qualname__}"
        return {"class_path": path, "init_args": arguments}


def _as_dict(value: Any) -> dict[str, Any]:
    return dict(value.as_dict() if hasattr(value, "as_dict") else value)


def _add_optimizer_args(
    parser: Any, optimizer_class: Any = None, nested_key: str = "optimizer", link_to: str = ""
) -> None:
    """Add the options of an optimizer, ``--optimizer Adam --optimizer.lr 0.01``.

    Args:
        parser: the parser.
        optimizer_class: one class, whose arguments are then ``--optimizer.lr`` alone, or a tuple of
            classes to choose from; None: any optimizer.
        nested_key: the name before the dot.
        link_to: an argument of the module that gets the choice, as
            ``{"class_path": ..., "init_args": ...}``; without it the module's
            ``configure_optimizers`` is replaced.
    """
    from torch.optim import Optimizer

    _add_choice(parser, "optimizer", optimizer_class, Optimizer, nested_key, link_to)


def _add_lr_scheduler_args(
    parser: Any, lr_scheduler_class: Any = None, nested_key: str = "lr_scheduler", link_to: str = ""
) -> None:
    """Add the options of a scheduler, as ``add_optimizer_args`` does of an optimizer."""
    from torch.optim.lr_scheduler import LRScheduler

    _add_choice(parser, "lr_scheduler", lr_scheduler_class, LRScheduler, nested_key, link_to)


def _add_choice(
    parser: Any, kind: str, classes: Any, base: type[Any], key: str, link_to: str
) -> None:
    options = {"instantiate": False, "fail_untyped": False, "skip": _FILLED[kind]}
    only = classes if isinstance(classes, type) else None
    choice = Choice(kind, only, link_to)
    if only is not None:
        parser.add_class_arguments(only, key, sub_configs=True, **options)
    else:
        parser.add_subclass_arguments(classes or base, key, required=False, **options)
    _title(parser, key, f"{key}: what the model is trained with, instead of its own")
    parser.__dict__.setdefault("choices", {})[key] = choice
    if link_to:
        parser.link_arguments(key, link_to, compute_fn=choice.spec)

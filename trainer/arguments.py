"""Command lines and environment variables for the arguments of a class.

The functions work on any class: they read the signature of its ``__init__`` (and of its bases',
where it passes ``**kwargs`` on), so Trainer and the data modules share them.
"""

import argparse
import ast
import inspect
import os
import re
import textwrap
import types
import typing
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "add_argparse_args",
    "argument_descriptions",
    "default_attributes",
    "environment",
    "from_argparse_args",
    "get_deprecated_arg_names",
    "get_init_arguments_and_types",
    "init_annotations",
    "match_env_arguments",
    "parse_argparser",
    "parse_env_variables",
    "parse_text",
]

T = TypeVar("T")

# Lightning 1.1 code names its variables PL_..., and they win over what the code passes.
PREFIXES = ("LEYDEN", "PL")

_TRUE = ("y", "yes", "t", "true", "on", "1")
_FALSE = ("n", "no", "f", "false", "off", "0")
_LITERALS = {list: "[", tuple: "(", dict: "{"}


# --- what a class takes


def _plain_types(annotation: Any) -> tuple[type, ...]:
    """Return the classes that an annotation allows: ``int | list[str]`` gives int and list."""
    if annotation is None:
        return (type(None),)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [part for a in typing.get_args(annotation) for part in _plain_types(a)]
        return tuple(dict.fromkeys(parts))
    if origin is typing.Annotated:
        return _plain_types(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return tuple(dict.fromkeys(type(value) for value in typing.get_args(annotation)))
    if isinstance(origin, type):
        return (origin,)
    return (annotation,) if isinstance(annotation, type) and annotation is not Any else ()


def _init_parameters(cls: type) -> list[tuple[inspect.Parameter, dict[str, Any]]]:
    """Return the parameters of ``__init__`` with the type hints that go with them."""
    found: dict[str, tuple[inspect.Parameter, dict[str, Any]]] = {}
    for base in cls.__mro__:
        init = base.__dict__.get("__init__")
        if init is None or base is object:
            continue
        try:
            # A signature that was set has the last word, over the annotations of the code too.
            hints = {} if hasattr(init, "__signature__") else typing.get_type_hints(init)
        except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
            hints = {}
        passes_on = False
        for parameter in list(inspect.signature(init).parameters.values())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                found.setdefault(parameter.name, (parameter, hints))
        if not passes_on:
            break
    return list(found.values())


def get_init_arguments_and_types(cls: type) -> list[tuple[str, tuple[type, ...], Any]]:
    """Return (name, types, default) of each argument.

    The default of a required argument is ``inspect.Parameter.empty``. An argument without an
    annotation takes the type of its default.
    """
    result = []
    for parameter, hints in _init_parameters(cls):
        annotation = hints.get(parameter.name, parameter.annotation)
        kinds = _plain_types(annotation)
        if annotation is parameter.empty and parameter.default not in (None, parameter.empty):
            kinds = (type(parameter.default),)
        result.append((parameter.name, kinds, parameter.default))
    return result


def init_annotations(cls: type) -> dict[str, Any]:
    """Return the annotation of each argument that has one."""
    found = {
        parameter.name: hints.get(parameter.name, parameter.annotation)
        for parameter, hints in _init_parameters(cls)
    }
    return {name: kind for name, kind in found.items() if kind is not inspect.Parameter.empty}


def get_deprecated_arg_names(cls: type) -> list[str]:
    """Return the names in class attributes called ``DEPRECATED...``; parsers leave them out."""
    names: list[str] = []
    for base in cls.__mro__:
        for attribute, value in vars(base).items():
            if attribute.startswith("DEPRECATED") and isinstance(value, (list, tuple)):
                names.extend(value)
    return names


def default_attributes(cls: type) -> dict[str, Any]:
    """Return the default of every argument that has one."""
    empty = inspect.Parameter.empty
    return {
        parameter.name: parameter.default
        for parameter, _ in _init_parameters(cls)
        if parameter.default is not empty
    }


# --- text to values


def parse_text(kinds: tuple[type, ...], text: str) -> Any:
    """Read text as a value of one of the types.

    The first that fits, in this order: None, bool, int, float, a literal of a container type, text
    itself, a path. ``0`` and ``1`` are numbers where numbers are allowed.

    Raises:
        ValueError: if the text is none of them.

    Example:
        >>> parse_text((int, float), "0.5"), parse_text((bool,), "off")
        (0.5, False)
    """
    word = text.strip()
    if type(None) in kinds and word in ("None", "none", "null"):
        return None
    number = int in kinds and word in ("0", "1")
    if bool in kinds and not number and word.lower() in _TRUE + _FALSE:
        return word.lower() in _TRUE
    for number_type in (int, float):
        if number_type in kinds:
            try:
                return number_type(word)
            except ValueError:
                continue
    for container, opening in _LITERALS.items():
        if _allows(kinds, container) and word.startswith(opening):
            try:
                return ast.literal_eval(word)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                break
    if str in kinds:
        return text
    paths: list[Any] = [k for k in kinds if _is_path(k)]
    if paths:
        return Path(text) if inspect.isabstract(paths[0]) else paths[0](text)
    allowed = " or ".join(k.__name__ for k in kinds if k is not type(None))
    raise ValueError(f"{text!r} is not {allowed}")


def _allows(kinds: tuple[type, ...], container: type) -> bool:
    # Sequence and Mapping count as well; str is a Sequence, and is handled on its own.
    return any(k is not object and issubclass(container, k) for k in kinds)


def _can_be_typed(kinds: tuple[type, ...]) -> bool:
    simple = (bool, int, float, str)
    return any(k in simple or _is_path(k) for k in kinds)


def _is_path(kind: type) -> bool:
    # pyright counts os.PathLike among the protocols with data, which issubclass refuses.
    return issubclass(kind, os.PathLike)  # pyright: ignore[reportGeneralTypeIssues]


def environment(
    prefix: str, arguments: Mapping[str, tuple[type, ...]], environ: Mapping[str, str]
) -> dict[str, tuple[str, Any]]:
    """Return ``{argument: (variable, value)}`` for the variables ``<prefix><ARGUMENT>``.

    Empty variables count as not set. Text that fits none of the argument's types stays text, so
    that whoever checks the argument refuses it by name.
    """
    found: dict[str, tuple[str, Any]] = {}
    for argument, kinds in arguments.items():
        variable = f"{prefix}{argument}".upper()
        text = environ.get(variable, "")
        if not text:
            continue
        try:
            found[argument] = (variable, parse_text(kinds, text))
        except ValueError:
            found[argument] = (variable, text)
    return found


def parse_env_variables(cls: type, template: str = "PL_%(cls_name)s_%(cls_argument)s") -> Namespace:
    """Return the arguments that the environment sets, in variables named by a template.

    Args:
        cls: class whose ``__init__`` is read.
        template: of the variables' names; both parts are put in as capitals. Without it the
            arguments are those of :func:`match_env_arguments`.
    """
    if template == "PL_%(cls_name)s_%(cls_argument)s":
        return match_env_arguments(cls)
    values: dict[str, Any] = {}
    for name, kinds, _ in get_init_arguments_and_types(cls):
        names = {"cls_name": cls.__name__.upper(), "cls_argument": name.upper()}
        here = {name.upper(): os.environ.get(template % names, "")}
        values.update(
            {key: value for key, (_, value) in environment("", {name: kinds}, here).items()}
        )
    return Namespace(**values)


def match_env_arguments(cls: type) -> Namespace:
    """Return the arguments that the environment sets, as in ``PL_TRAINER_MAX_EPOCHS=3``."""
    arguments = {name: kinds for name, kinds, _ in get_init_arguments_and_types(cls)}
    values: dict[str, Any] = {}
    for prefix in PREFIXES:
        found = environment(f"{prefix}_{cls.__name__}_", arguments, os.environ)
        values.update({name: value for name, (_, value) in found.items()})
    return Namespace(**values)


# --- command lines


def argument_descriptions(cls: type) -> dict[str, str]:
    """Return what docstrings say of each argument: an ``Args`` section, or text below a field."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        for docstring in (base.__doc__, getattr(base.__dict__.get("__init__"), "__doc__", None)):
            found.update(_args_section(inspect.cleandoc(docstring or "")))
        if "__dataclass_fields__" in base.__dict__:
            found.update(_field_docstrings(base))
    return found


def _args_section(docstring: str) -> dict[str, str]:
    match = re.search(r"^(?:Args|Arguments|Attributes):\n((?:[ \t]+.*\n?|\n)+)", docstring, re.M)
    if match is None:
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(match.group(1)).splitlines():
        head = re.match(r"(\w+)(?:\s*\([^)]*\))?:\s*(.*)", line)
        if head:
            name = head.group(1)
            found[name] = head.group(2)
        elif name and line.strip():
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _field_docstrings(cls: type) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):  # no source: a frozen application, a notebook cell
        return {}
    found: dict[str, str] = {}
    statements = getattr(body, "body", [])
    for field, text in zip(statements, statements[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def _reader(kinds: tuple[type, ...]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return parse_text(kinds, text)

    # argparse puts the name into its message: "invalid int or float value: 'x'"
    read.__name__ = _type_names(kinds)
    return read


def _type_names(kinds: tuple[type, ...]) -> str:
    simple = [k for k in kinds if k is not type(None) and _can_be_typed((k,))]
    simple += [k for k in kinds if k in _LITERALS]
    # str takes a path's place wherever both are allowed
    names = [k.__name__ for k in simple if str not in simple or not _is_path(k)]
    return " or ".join(names)


def add_argparse_args(
    cls: type,
    parent_parser: ArgumentParser,
    descriptions: Mapping[str, str] | None = None,
    *,
    known: Iterable[str] = (),
) -> ArgumentParser:
    """Return a parser that also knows the arguments of a class, one ``--name`` each.

    Args:
        cls: class whose ``__init__`` is read.
        parent_parser: parser to extend; it stays as it is.
        descriptions: help texts; by default they come from the docstrings of the class.
        known: arguments to leave out, such as those that the parser has already.

    Returns:
        A new parser. Arguments whose types cannot be written on a command line are left out.
        A bool argument may stand without a value, which means True.
    """
    parser = ArgumentParser(
        parents=[parent_parser],
        add_help=False,
        prog=parent_parser.prog,
        description=parent_parser.description,
        epilog=parent_parser.epilog,
        formatter_class=parent_parser.formatter_class,
    )
    told = argument_descriptions(cls) if descriptions is None else descriptions
    left_out = {*get_deprecated_arg_names(cls), *known}
    for name, kinds, default in get_init_arguments_and_types(cls):
        if name in left_out or not _can_be_typed(kinds):
            continue
        required = default is inspect.Parameter.empty
        note = _type_names(kinds) + (", required" if required else f", default: {default!r}")
        text = f"{told.get(name, '')} ({note})".strip().replace("%", "%%")
        extra: dict[str, Any] = {"nargs": "?", "const": True} if bool in kinds else {}
        parser.add_argument(
            f"--{name}",
            dest=name,
            type=_reader(kinds),
            default=argparse.SUPPRESS if required else default,
            required=required,
            metavar=name.upper(),
            help=text,
            **extra,
        )
    return parser


def parse_argparser(cls: type, arg_parser: ArgumentParser | Namespace) -> Namespace:
    """Parse the command line, or take what was parsed, and read a bare bool flag as True."""
    args = arg_parser.parse_args() if isinstance(arg_parser, ArgumentParser) else arg_parser
    known = {name: (kinds, default) for name, kinds, default in get_init_arguments_and_types(cls)}
    values: dict[str, Any] = {}
    for name, value in vars(args).items():
        kinds, default = known.get(name, ((), None))
        # A parser of the user's own may give None for a flag without a value.
        bare = value is None and bool in kinds and isinstance(default, bool)
        values[name] = True if bare else value
    return Namespace(**values)


def from_argparse_args(cls: type[T], args: Namespace | ArgumentParser, **kwargs: Any) -> T:
    """Make an object from parsed arguments.

    Args:
        cls: class to make.
        args: what a parser returned, or the parser itself. Arguments that ``cls`` does not know are
            the program's own and are left out; so are those that hold their default, which lets an
            environment variable fill them.
        **kwargs: arguments that win over those in ``args``.

    Returns:
        The object.
    """
    if isinstance(args, ArgumentParser):
        args = parse_argparser(cls, args)
    given = vars(args)
    chosen: dict[str, Any] = {}
    for name, _, default in get_init_arguments_and_types(cls):
        if name in given and not _same(given[name], default):
            chosen[name] = given[name]
    return cls(**{**chosen, **kwargs})


def _same(value: object, default: object) -> bool:
    # Arrays and tensors do not compare to one bool; of those only the default itself counts.
    simple = isinstance(value, (bool, int, float, str, bytes))
    return value is default or (simple and type(value) is type(default) and value == default)

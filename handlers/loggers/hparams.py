"""Hyper-parameters as plain data: flattening for writers that take flat names, and YAML files."""

import contextlib
import json
import math
import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from leyden.engine.notice import warn

__all__ = [
    "call_params",
    "convert_params",
    "flatten_dict",
    "flatten_params",
    "plain_params",
    "save_hparams_to_yaml",
    "to_yaml",
    "write_atomically",
]

# What every YAML reader takes as text without quotes; all else is quoted as JSON, which is YAML.
_PLAIN = re.compile(r"[A-Za-z_./<][A-Za-z0-9_./<>+ -]*")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf", ""}


def convert_params(params: Any) -> dict[str, Any]:
    """Make a plain dict of a Namespace, a mapping, None or an object with attributes.

    Raises:
        TypeError: If ``params`` is none of these.
    """
    if params is None:
        return {}
    if isinstance(params, Namespace):
        return dict(vars(params))
    if isinstance(params, Mapping):
        return dict(params)
    if hasattr(params, "__dict__") and not isinstance(params, type):
        return dict(vars(params))
    raise TypeError(
        f"hyper-parameters of type {type(params).__name__} cannot be logged: "
        "pass a dict, an argparse.Namespace or a dataclass instance"
    )


def flatten_dict(params: Any, delimiter: str = "/") -> dict[str, Any]:
    """Flatten nested mappings and Namespaces, as 1.1.8's loggers do; None becomes text.

    Example:
        >>> flatten_dict({"a": {"b": "c"}, 5: None})
        {'a/b': 'c', '5': 'None'}
    """
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            inner = flatten_dict(value, delimiter)
            flat.update((f"{key}{delimiter}{name}", entry) for name, entry in inner.items())
        else:
            flat[str(key)] = "None" if value is None else value
    return flat


def call_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each function by what it returns, or by its name where that is none.

    Example:
        >>> call_params({"size": lambda: 3, "kind": len, "rate": 0.5})
        {'size': 3, 'kind': 'len', 'rate': 0.5}
    """
    return {key: _called(value) if callable(value) else value for key, value in params.items()}


def _called(value: Any) -> Any:
    name = getattr(value, "__name__", None)
    try:
        result = value()
    except Exception:  # any failure: the value was not meant to be called like this
        return name
    return name if callable(result) else result


def plain_params(params: dict[str, Any]) -> dict[str, Any]:
    """Make text, in place, of what is no bool, int, float, str, tensor or NumPy scalar.

    Example:
        >>> plain_params({"rate": 0.5, "sizes": [1, 2]})
        {'rate': 0.5, 'sizes': '[1, 2]'}
    """
    for key, value in params.items():
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            value = params[key] = value.item()
        if type(value) not in (bool, int, float, str, Tensor):
            params[key] = str(value)
    return params


def flatten_params(params: Mapping[str, Any], delimiter: str = "/") -> dict[str, Any]:
    """Flatten nested hyper-parameters to names and values that every writer takes.

    A function is called, as in 1.1.8, and its result stands for it; where it needs arguments or
    fails, its name does. What is no bool, int, float, str or tensor of one element becomes text.

    Example:
        >>> flatten_params({"lr": 0.1, "net": {"width": 4, "act": None}})
        {'lr': 0.1, 'net/width': 4, 'net/act': 'None'}
    """
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            for inner, entry in flatten_params(value, delimiter).items():
                flat[f"{key}{delimiter}{inner}"] = entry
        else:
            flat[str(key)] = _flat_value(value)
    return flat


def _flat_value(value: Any) -> Any:
    if callable(value):
        try:
            result = value()
        except Exception:  # any failure: the value was not meant to be called like this
            result = value
        value = getattr(value, "__name__", str(value)) if callable(result) else result
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    # By exact type: an enum or a NumPy float is a number to Python, not to a protobuf writer.
    return value if type(value) in (bool, int, float, str) else str(value)


def to_yaml(params: Mapping[str, Any]) -> str:
    """Write a mapping as YAML: block style, keys sorted.

    No YAML package is needed to write this; any YAML reader reads it. What is not plain data
    (a module, a function) is replaced by its type's name, with a warning.

    Example:
        >>> print(to_yaml({"b": "two", "a": [1, 2.5], "c": {"d": None}}), end="")
        a:
        - 1
        - 2.5
        b: two
        c:
          d: null
    """
    return "".join(f"{line}\n" for line in _block(params, "", [])) if params else "{}\n"


def _block(value: Any, indent: str, path: list[str]) -> list[str]:
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            name = _scalar(key, [*path, str(key)])
            lines += _entry(f"{indent}{name}:", value[key], indent, [*path, str(key)])
    else:
        for index, item in enumerate(value):
            lines += _entry(f"{indent}-", item, indent, [*path, str(index)])
    return lines


def _entry(head: str, value: Any, indent: str, path: list[str]) -> list[str]:
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if (is_list or isinstance(value, Mapping)) and value:
        # A list may stand at its key's own column; everything else goes two further in.
        same = is_list and not head.endswith("-")
        return [head, *_block(value, indent if same else indent + "  ", path)]
    if is_list:
        return [f"{head} []"]
    if isinstance(value, Mapping):
        return [f"{head} {{}}"]
    return [f"{head} {_scalar(value, path)}"]


def _scalar(value: Any, path: list[str]) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    elif type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item() if value.size == 1 else value
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(float(value))
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        text = str(value)
        plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT and text[-1] != " "
        return text if plain and not text.startswith(".") else _quoted(text)
    warn(
        f"the hyper-parameter {'.'.join(path)!r} is of type {type(value).__name__}, which is no "
        "plain data: its type's name is written to the YAML file in place of it",
    )
    return _scalar(type(value).__name__, path)


def _quoted(text: str) -> str:
    # JSON spells what is beyond 16 bits as two escapes, which YAML reads as two characters.
    escaped = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", escaped)


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    # YAML 1.1 wants a point in the mantissa: 1e-05 would be read back as text.
    return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text


def save_hparams_to_yaml(config_yaml: str | os.PathLike[str], hparams: Any) -> None:
    """Write hyper-parameters to a YAML file; a reader never sees half of it.

    Args:
        config_yaml: The file; its folder has to exist.
        hparams: A mapping or a Namespace.

    Raises:
        RuntimeError: If the folder does not exist.
        TypeError: If ``hparams`` is neither a mapping nor a Namespace nor such an object.
    """
    path = os.fspath(config_yaml)
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise RuntimeError(f"cannot write {path!r}: make the folder {folder!r} first")
    write_atomically(path, to_yaml(convert_params(hparams)).encode())


def write_atomically(path: str, data: bytes) -> None:
    """Write a file beside its name and move it there; on failure the old file stays as it was."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise

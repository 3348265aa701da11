"""Checks for arguments that are text, times, devices or objects: the second half of the values."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from leyden.backends.compile import compile_options
from leyden.config_values import LARGEST, flag, is_integer, is_number, plain, refuse, shown
from leyden.engine.errors import MisconfiguredType, MisconfiguredValue, ReportedValue

__all__ = [
    "callbacks",
    "checkpoint",
    "compilation",
    "cores",
    "devices",
    "flag_or_attribute",
    "flag_or_text",
    "logger",
    "path",
    "profiler",
    "text",
    "time_limit",
]


def text(name: str, value: Any) -> str:
    """Accept any text that is not empty."""
    if not isinstance(value, str):
        refuse(MisconfiguredType, name, value, "is not text: pass a string")
    if not value:
        refuse(MisconfiguredValue, name, value, "is empty: leave the argument out instead")
    return value


def path(name: str, value: Any) -> str | None:
    """Accept None, a text path (URLs too) or an ``os.PathLike``; return it as text."""
    if value is None:
        return None
    found = value
    if isinstance(value, os.PathLike):
        try:
            found = os.fspath(value)
        except Exception as error:
            raise MisconfiguredType(f"{name}={shown(value)} is no path: {error}") from error
    if not isinstance(found, str):
        refuse(MisconfiguredType, name, value, "is no path: pass a string or a pathlib.Path")
    if not found or "\0" in found:
        refuse(MisconfiguredValue, name, value, "is no path: leave the argument out, or name one")
    return found


_CLOCK = re.compile(r"(\d{1,6}):(\d{1,2}):(\d{1,2}):(\d{1,2})", re.ASCII)
_UNITS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")


def time_limit(name: str, value: Any) -> timedelta | None:
    """Accept ``"DD:HH:MM:SS"``, a dict of timedelta's arguments, or a timedelta above zero."""
    allowed = 'pass "DD:HH:MM:SS", a dict like {"hours": 2}, or a datetime.timedelta'
    if value is None:
        return None
    if isinstance(value, str):
        match = _CLOCK.fullmatch(value.strip())
        if match is None:
            refuse(MisconfiguredValue, name, value, f"is no duration: {allowed}")
        days, hours, minutes, seconds = map(int, match.groups())
        duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    elif isinstance(value, Mapping):
        unknown = [key for key in value if key not in _UNITS]
        if unknown or not value:
            refuse(MisconfiguredValue, name, value, f"must have keys among {', '.join(_UNITS)}")
        if not all(is_number(plain(v)) for v in value.values()):
            refuse(MisconfiguredType, name, value, f"must map units to numbers: {allowed}")
        try:
            duration = timedelta(**{unit: plain(v) for unit, v in value.items()})
        except (OverflowError, ValueError, TypeError) as error:
            raise MisconfiguredValue(f"{name}={shown(value)} is no duration: {error}") from error
    elif isinstance(value, timedelta):
        duration = value
    else:
        refuse(MisconfiguredType, name, value, f"is no duration: {allowed}")
    if duration <= timedelta(0):
        refuse(MisconfiguredValue, name, value, "is not above zero: leave it out for no limit")
    return duration


def devices(name: str, value: Any) -> int | list[int] | None:
    """Accept None, a number of devices, or their ids as a list, a tuple or text like ``"0,1"``.

    In text a single number is an id, as in Lightning 1.1 (``"2"`` is the third device, ``2`` two of
    them), except ``"-1"``, which is all of them.
    """
    allowed = "None, a number of devices, -1 for all, or a list of ids like [0, 1]"
    value = plain(value)
    if value is None:
        return None
    if is_integer(value):
        if not -1 <= value <= LARGEST:
            refuse(MisconfiguredValue, name, value, f"is no number of devices: pass {allowed}")
        return int(value)
    if isinstance(value, str):
        try:
            found = [int(part) for part in value.split(",") if part.strip()]
        except ValueError as error:
            raise ReportedValue(f"{name}={shown(value)} is no id: pass {allowed}") from error
        if found == [-1]:
            return -1
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        found = [plain(part) for part in value]
    else:
        refuse(MisconfiguredType, name, value, f"is neither a number nor ids: pass {allowed}")
    if not found:
        refuse(MisconfiguredValue, name, value, f"names no device: pass {allowed}")
    if not all(is_integer(part) for part in found):
        refuse(MisconfiguredType, name, value, f"must hold whole numbers: pass {allowed}")
    if any(part < 0 for part in found) or len(set(found)) < len(found):
        why = "names a device twice, or by a negative number"
        refuse(MisconfiguredValue, name, value, f"{why}: pass {allowed}")
    return [int(part) for part in found]


def cores(name: str, value: Any) -> int | list[int] | None:
    """Accept None, 1, 8, or [i] with i from 1 to 8; the text ``"8"`` is a count too."""
    value = plain(value)
    allowed = "1, 8, or [i] with i from 1 to 8"
    if isinstance(value, str) and value.strip() in ("1", "8"):
        return int(value)
    found = devices(name, value)
    one = isinstance(found, list) and len(found) == 1 and 1 <= found[0] <= 8
    if found not in (None, 1, 8) and not one:
        refuse(MisconfiguredValue, name, value, f"is no choice of TPU cores: pass {allowed}")
    return found


def compilation(name: str, value: Any) -> bool | dict[str, Any]:
    """Accept a bool or a dict of arguments of torch.compile; None is False."""
    value = plain(value)
    if value is not None and not isinstance(value, (bool, Mapping)):
        allowed = f"is a {type(value).__name__}: pass True, False, or a dict of torch.compile's own"
        refuse(MisconfiguredType, name, value, allowed)
    options = compile_options(value, name)
    return False if options is None else (options or True)


def flag_or_text(name: str, value: Any) -> bool | str:
    """Accept a bool, or text that is not empty; None is False."""
    if value is None:
        return False
    return text(name, value) if isinstance(value, str) else flag()(name, value)


def flag_or_attribute(name: str, value: Any) -> bool | str:
    """Accept a bool, or the name of an attribute, such as "lr" or "hparams.lr"; None is False."""
    checked = flag_or_text(name, value)
    if isinstance(checked, str) and not all(part.isidentifier() for part in checked.split(".")):
        advice = "pass True for lr or learning_rate, or a name such as 'rate' or 'hparams.rate'"
        refuse(MisconfiguredValue, name, value, f"is no name of an attribute: {advice}")
    return checked


def profiler(name: str, value: Any) -> Any:
    """Accept None, a bool, 'simple', 'advanced', 'pytorch', 'trace' or a profiler object."""
    if isinstance(value, str):
        if value.lower() not in ("simple", "advanced", "pytorch", "trace"):
            allowed = "can only be 'simple' or 'advanced', 'pytorch' or 'trace'"
            why = f"is no known profiler: a name {allowed}; or pass None, True or a profiler object"
            refuse(ReportedValue, name, value, why)
        return value.lower()
    if value is None or isinstance(value, bool):
        return "simple" if value else None
    if not _has(value, "profile") and not (_has(value, "start") and _has(value, "stop")):
        why = (
            "is no profiler. Only None, bool, str and subclasses of `BaseProfiler` are valid "
            "values for `Trainer`'s `profiler` parameter: pass None, True, 'simple', 'advanced', "
            "'pytorch', 'trace', or a profiler object"
        )
        refuse(MisconfiguredType, name, value, why)
    return value


def _has(value: object, method: str) -> bool:
    """Whether an object (a class is none) has the method; an attribute that raises is not there."""
    if isinstance(value, type):
        return False
    try:
        return callable(getattr(value, method, None))
    except Exception:
        return False


def _refuse_class(name: str, value: object) -> None:
    if isinstance(value, type):
        refuse(MisconfiguredType, name, value, f"is a class: pass an object, {value.__name__}(...)")


def logger(name: str, value: Any) -> Any:
    """Accept a bool, a logger, or a list of loggers; None is False."""
    if value is None or isinstance(value, bool):
        return bool(value)
    allowed = "pass True, False, a logger, or a list of loggers"
    several = isinstance(value, (list, tuple)) and not _has(value, "log_metrics")
    for part in value if several else [value]:
        _refuse_class(name, part)
        if not _has(part, "log_metrics"):
            refuse(MisconfiguredType, name, part, f"has no log_metrics, so is no logger: {allowed}")
    return value


def _is_callback(value: object) -> bool:
    # Ours or ignite's handlers have attach(); a foreign Lightning's callbacks have its hooks.
    from leyden.handlers.callback_base import CallbackBase

    hooks = _has(value, "setup") and _has(value, "on_fit_start")
    return isinstance(value, CallbackBase) or _has(value, "attach") or hooks


def callbacks(name: str, value: Any) -> Any:
    """Accept None, a callback or handler, or a list of them; what was given comes back."""
    if value is None:
        return None
    allowed = "pass callbacks (or objects with an attach method), one or a list of them"
    for part in value if isinstance(value, (list, tuple)) else [value]:
        _refuse_class(name, part)
        if not _is_callback(part):
            refuse(MisconfiguredType, name, part, f"is no callback: {allowed}")
    return value


def checkpoint(name: str, value: Any) -> Any:
    """Accept a bool or a checkpoint callback; None is False."""
    if value is None or isinstance(plain(value), bool):
        return bool(value)
    _refuse_class(name, value)
    if not _is_callback(value):
        refuse(
            MisconfiguredType, name, value, "is no callback: pass True, False or a ModelCheckpoint"
        )
    return value

"""Checks for one argument at a time: a value of any kind in, the value in its documented form out.

Every check is called with the argument's name and the value, and raises one of
:mod:`leyden.engine.errors` when the value is refused. Whether arguments fit together is decided in
:mod:`leyden.config_rules`.
"""

import math
import os
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from numbers import Integral, Real
from typing import Any, NoReturn

from leyden.engine.errors import (
    MisconfigurationException,
    MisconfiguredType,
    MisconfiguredValue,
    ReportedAssertion,
    ReportedIndex,
    ReportedType,
    ReportedValue,
)

__all__ = [
    "Check",
    "accumulation",
    "algorithm",
    "anything",
    "callbacks",
    "checkpoint",
    "choice",
    "cores",
    "count",
    "devices",
    "either",
    "fast_dev_run",
    "flag",
    "flag_or_count",
    "flag_or_text",
    "interval",
    "limit",
    "logger",
    "magnitude",
    "norm_order",
    "path",
    "plain",
    "precision",
    "profiler",
    "refuse",
    "sanity_steps",
    "shown",
    "text",
    "time_limit",
]

Check = Callable[[str, Any], Any]

# Counters are compared with machine integers (islice, torch), so nothing larger can be honoured.
LARGEST = 2**63 - 1

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def shown(value: object) -> str:
    """Return a short repr for a message, whatever the object's own ``__repr__`` does."""
    try:
        return " ".join(_short.repr(value).split())
    except Exception:  # a repr that raises, an integer of more digits than Python prints
        return f"<{type(value).__name__}>"


def refuse(kind: type[MisconfigurationException], name: str, value: object, why: str) -> NoReturn:
    """Raise ``kind`` with a message that begins with the argument and its value."""
    raise kind(f"{name}={shown(value)} {why}")


def plain(value: Any) -> Any:
    """Return a NumPy scalar as the Python number it holds, and anything else unchanged."""
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _integer(name: str, value: Any, allowed: str) -> int:
    """Return a whole number as int; ``1e3`` counts as whole, ``True`` does not."""
    number = plain(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not _is_integer(number):
        kind = MisconfiguredValue if isinstance(number, float) else MisconfiguredType
        refuse(kind, name, value, f"is not a whole number: pass {allowed}")
    if abs(number) > LARGEST:
        refuse(MisconfiguredValue, name, value, f"is more than any run can count: pass {allowed}")
    return int(number)


def _real(name: str, value: Any, allowed: str) -> float | int:
    """Return a number as int or float, keeping which of the two it was."""
    number = plain(value)
    if not _is_number(number):
        refuse(MisconfiguredType, name, value, f"is not a number: pass {allowed}")
    if isinstance(number, float):
        return float(number)
    if isinstance(number, Integral):
        return _integer(name, number, allowed)
    try:  # fractions.Fraction and its like
        return float(number)
    except OverflowError:
        refuse(MisconfiguredValue, name, value, f"is too large for a float: pass {allowed}")


def flag(*, none: bool | None = None) -> Check:
    """Accept True and False; None means ``none`` where that is given."""

    def check(name: str, value: Any) -> bool:
        answer = plain(value)
        if answer is None and none is not None:
            return none
        if not isinstance(answer, bool):
            refuse(MisconfiguredType, name, value, "is neither True nor False: pass one of them")
        return answer

    return check


def either(word: object, check: Check) -> Check:
    """Accept ``word`` as it is (None, for instance), and whatever ``check`` accepts."""

    def combined(name: str, value: Any) -> Any:
        return word if value is word else check(name, value)

    return combined


def count(
    minimum: int,
    *,
    none: int | None = None,
    unlimited: int | None = None,
    optional: bool = False,
    advice: str = "",
) -> Check:
    """Accept whole numbers from ``minimum`` on.

    Args:
        minimum: smallest number allowed.
        none: what None means; refused if not given.
        unlimited: the number that today's Lightning writes for None, if it does.
        optional: whether None is a value of its own.
        advice: what to do instead, for the message.
    """
    allowed = f"an integer of at least {minimum}"
    if optional:
        allowed += ", or None"
    if advice:
        allowed += f"; {advice}"

    def check(name: str, value: Any) -> int | None:
        if value is None and (optional or none is not None):
            return none
        number = _integer(name, value, allowed)
        if unlimited is not None and number == unlimited:
            return None
        if number < minimum:
            low = "is negative" if number < 0 <= minimum else "is too small"
            refuse(MisconfiguredValue, name, value, f"{low}: pass {allowed}")
        return number

    return check


def limit(*, none: float | None = 1.0) -> Check:
    """Accept a share between 0.0 and 1.0, or a number of batches; ``3.0`` is three batches."""
    allowed = "a float from 0.0 to 1.0 (a share of the batches) or an integer (that many batches)"

    def check(name: str, value: Any) -> float | int:
        if value is None and none is not None:
            return none
        number = _real(name, value, allowed)
        if isinstance(number, float) and not 0.0 <= number <= 1.0:
            if number > 1.0 and number.is_integer():
                return _integer(name, number, allowed)
            refuse(MisconfiguredValue, name, value, f"is no share of the batches: pass {allowed}")
        if number < 0:
            refuse(MisconfiguredValue, name, value, f"is negative: pass {allowed}")
        return number

    return check


def interval(name: str, value: Any) -> float | int:
    """Accept a share of the training epoch above 0.0, or a number of batches from 1 on."""
    number = limit()(name, value)
    if number == 0:
        refuse(
            MisconfiguredValue,
            name,
            value,
            "would validate never: pass a float up to 1.0 (a share of the training epoch) or an "
            "integer from 1 on (every so many batches); limit_val_batches=0 switches validation off",
        )
    return float(number) if isinstance(number, float) else number


def magnitude(name: str, value: Any) -> float | int:
    """Accept a finite number that is not negative; None means 0."""
    allowed = "a number above 0, or 0 to switch clipping off"
    if value is None:
        return 0
    number = _real(name, value, allowed)
    if not math.isfinite(number):
        refuse(MisconfiguredValue, name, value, f"is not finite: pass {allowed}")
    if number < 0:
        refuse(MisconfiguredValue, name, value, f"is negative: pass {allowed}")
    return number


def norm_order(name: str, value: Any) -> float:
    """Accept -1 or 0 (off), a positive order, or ``'inf'``; return it as a float."""
    allowed = "the order of the norm (2 for the usual one, 'inf' for the largest), or -1 for none"
    if isinstance(value, str):
        if value != "inf":
            refuse(MisconfiguredValue, name, value, f"is not a norm: pass {allowed}")
        return math.inf
    number = float(_real(name, value, allowed))
    if math.isnan(number) or (number < 0 and number != -1):
        refuse(MisconfiguredValue, name, value, f"is not a norm: pass {allowed}")
    return number


def sanity_steps(name: str, value: Any) -> float | int:
    """Accept a number of batches, or -1 for all of them, which becomes infinity."""
    if value is None:
        return 2
    if isinstance(value, float) and value == math.inf:
        return value
    number = _integer(name, value, "a number of batches, 0 for none, or -1 for all")
    if number < -1:
        refuse(MisconfiguredValue, name, value, "is negative: pass 0 for none, or -1 for all")
    return math.inf if number == -1 else number


def fast_dev_run(name: str, value: Any) -> bool | int:
    """Accept False, True, or a number of batches; 0 is False and 1 is True."""
    answer = plain(value)
    allowed = "True for one batch of each loop, a number of batches, or False"
    if isinstance(answer, float):  # 1.0 reads like a share of an epoch, so whole floats do not pass
        refuse(MisconfiguredType, name, value, f"is a float: pass {allowed}")
    number = int(answer) if isinstance(answer, bool) else _integer(name, value, allowed)
    if number < 0:
        refuse(MisconfiguredValue, name, value, f"is negative: pass {allowed}")
    return number if number > 1 else bool(number)


def accumulation(name: str, value: Any) -> int | dict[int, int]:
    """Accept a factor, or ``{epoch: factor}``; a schedule is returned sorted, with epoch 0 in it."""
    allowed = "an integer of at least 1, or a dict {epoch: factor}"
    value = plain(value)
    if _is_integer(value):
        if not 1 <= value <= LARGEST:
            refuse(MisconfiguredValue, name, value, f"is not a number of batches: pass {allowed}")
        return int(value)
    if not isinstance(value, Mapping):
        refuse(ReportedType, name, value, f"is no factor: pass {allowed}")
    if not value:
        refuse(ReportedType, name, value, f"schedules nothing: pass {allowed}")
    schedule: dict[int, int] = {}
    for raw_epoch, raw_factor in value.items():
        epoch, factor = plain(raw_epoch), plain(raw_factor)
        if not (_is_integer(epoch) and _is_integer(factor)):
            refuse(ReportedType, name, value, "must map whole numbers to whole numbers")
        if epoch < 0:
            refuse(ReportedIndex, name, value, "has a negative epoch: epochs count from 0")
        if not 1 <= factor <= LARGEST or epoch > LARGEST:
            refuse(MisconfiguredValue, name, value, "has a factor below 1: 1 means every batch")
        schedule[int(epoch)] = int(factor)
    return dict(sorted({0: 1, **schedule}.items()))


def choice(*words: str | None) -> Check:
    """Accept one of ``words``, exactly as written."""
    allowed = ", ".join(map(repr, words))

    def check(name: str, value: Any) -> str | None:
        if not (value is None or isinstance(value, str)):
            refuse(MisconfiguredType, name, value, f"is not text: pass one of {allowed}")
        if value not in words:
            refuse(MisconfiguredValue, name, value, f"is unknown: pass one of {allowed}")
        return value

    return check


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
        if not all(_is_number(plain(v)) for v in value.values()):
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
    """Accept None, a number of devices, or their ids as a list or as text like ``"0,1"``.

    In text a single number is an id, as in Lightning 1.1 (``"2"`` is the third device, ``2`` two of them),
    except ``"-1"``, which is all of them.
    """
    allowed = "None, a number of devices, -1 for all, or a list of ids like [0, 1]"
    value = plain(value)
    if value is None:
        return None
    if _is_integer(value):
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
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, tuple)):
        found = [plain(part) for part in value]
    else:
        refuse(MisconfiguredType, name, value, f"is neither a number nor ids: pass {allowed}")
    if not found:
        refuse(MisconfiguredValue, name, value, f"names no device: pass {allowed}")
    if not all(_is_integer(part) for part in found):
        refuse(MisconfiguredType, name, value, f"must hold whole numbers: pass {allowed}")
    if any(part < 0 for part in found) or len(set(found)) < len(found):
        refuse(MisconfiguredValue, name, value, "must hold different ids, none of them negative")
    return [int(part) for part in found]


def cores(name: str, value: Any) -> int | list[int] | None:
    """Accept None, 1, 8, or [i] with i from 1 to 8; in text ``"1"`` and ``"8"`` are numbers of cores."""
    value = plain(value)
    allowed = "1, 8, or [i] with i from 1 to 8"
    if isinstance(value, str) and value.strip() in ("1", "8"):
        return int(value)
    found = devices(name, value)
    one = isinstance(found, list) and len(found) == 1 and 1 <= found[0] <= 8
    if found not in (None, 1, 8) and not one:
        refuse(MisconfiguredValue, name, value, f"is no choice of TPU cores: pass {allowed}")
    return found


def precision(name: str, value: Any) -> int:
    """Accept 32 and 16."""
    number = plain(value)
    if not _is_integer(number) or number not in (16, 32):
        refuse(ReportedAssertion, name, value, "is no precision there is: pass 32 or 16")
    return int(number)


def algorithm(name: str, value: Any) -> str:
    """Accept ``'norm'`` and ``'value'``; None is ``'norm'``."""
    return "norm" if value is None else str(choice("norm", "value")(name, value))


def flag_or_count(name: str, value: Any) -> bool | int:
    """Accept a bool or a number of epochs; 0 and 1 become bools."""
    answer = plain(value)
    number = int(answer) if isinstance(answer, bool) else count(0)(name, answer) or 0
    return number if number > 1 else bool(number)


def flag_or_text(name: str, value: Any) -> bool | str:
    """Accept a bool, or text that is not empty; None is False."""
    if value is None:
        return False
    return text(name, value) if isinstance(value, str) else flag()(name, value)


def anything(name: str, value: Any) -> Any:
    """Accept any value; a rule of :mod:`leyden.config_rules` decides."""
    return value


def profiler(name: str, value: Any) -> Any:
    """Accept None, a bool, ``'simple'``, ``'advanced'``, ``'pytorch'``, or a profiler object."""
    allowed = "pass None, True, 'simple', 'advanced', or a profiler object"
    if isinstance(value, str):
        if value.lower() not in ("simple", "advanced", "pytorch"):
            refuse(ReportedValue, name, value, f"is no known profiler: {allowed}")
        return value.lower()
    if value is None or isinstance(value, bool):
        return "simple" if value else None
    if not _has(value, "profile") and not (_has(value, "start") and _has(value, "stop")):
        refuse(MisconfiguredType, name, value, f"is no profiler: {allowed}")
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
    """Accept None, a callback or handler, or a list of them; the object given is returned itself."""
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

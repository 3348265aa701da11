"""Checks for one argument at a time: a value of any kind in, the value in its documented form out.

Every check is called with the argument's name and the value, and raises one of
:mod:`leyden.engine.errors` when the value is refused. Whether arguments fit together is decided in
:mod:`leyden.config_rules`.
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NoReturn

from leyden.backends.precision.choice import BITS, WORDS
from leyden.engine.errors import (
    MisconfigurationException,
    MisconfiguredType,
    MisconfiguredValue,
    ReportedAssertion,
    ReportedIndex,
    ReportedType,
)

__all__ = [
    "LARGEST",
    "Check",
    "accumulation",
    "algorithm",
    "anything",
    "choice",
    "count",
    "determinism",
    "either",
    "fast_dev_run",
    "flag",
    "flag_or_count",
    "interval",
    "is_integer",
    "is_number",
    "limit",
    "magnitude",
    "norm_order",
    "plain",
    "precision",
    "refuse",
    "sanity_steps",
    "shown",
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


def is_integer(value: object) -> bool:
    """Whether a value is a whole number; bools are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a real number; bools are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _integer(name: str, value: Any, allowed: str) -> int:
    """Return a whole number as int; ``1e3`` counts as whole, ``True`` does not."""
    number = plain(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not is_integer(number):
        kind = MisconfiguredValue if isinstance(number, float) else MisconfiguredType
        refuse(kind, name, value, f"is not a whole number: pass {allowed}")
    if abs(number) > LARGEST:
        refuse(MisconfiguredValue, name, value, f"is more than any run can count: pass {allowed}")
    return int(number)


def _real(name: str, value: Any, allowed: str) -> float | int:
    """Return a number as int or float, keeping which of the two it was."""
    number = plain(value)
    if not is_number(number):
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
    false: int | None = None,
    unlimited: int | None = None,
    optional: bool = False,
    advice: str = "",
) -> Check:
    """Accept whole numbers from ``minimum`` on.

    Args:
        minimum: smallest number allowed.
        none: what None means; refused if not given.
        false: what False means; refused if not given.
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
        if value is False and false is not None:
            return false
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
                return min(int(number), LARGEST)
            why = f"is no share of the batches (you passed invalid value {number}): pass {allowed}"
            refuse(MisconfiguredValue, name, value, why)
        if number < 0:
            why = f"is negative (you passed invalid value {number}): pass {allowed}"
            refuse(MisconfiguredValue, name, value, why)
        return number

    return check


def interval(name: str, value: Any) -> float | int:
    """Accept a share of the training epoch, or a number of batches from 1 on.

    Source: Lightning 1.1, where a share of 0.0 is each batch.
    """
    number = limit()(name, value)
    if number == 0 and not isinstance(number, float):
        refuse(
            MisconfiguredValue,
            name,
            value,
            "would validate never: pass a float up to 1.0 (a share of the training epoch) or an "
            "integer from 1 on (that many batches); limit_val_batches=0 switches validation off",
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
    allowed = "either a bool or an int: True for one batch of each loop, or a number of batches"
    if isinstance(answer, float):  # 1.0 reads like a share of an epoch, so whole floats do not pass
        refuse(MisconfiguredType, name, value, f"is a float: pass {allowed}")
    number = int(answer) if isinstance(answer, bool) else _integer(name, value, allowed)
    if number < 0:
        why = f"is negative, and should be >= 0: pass {allowed}"
        refuse(MisconfiguredValue, name, value, why)
    return number if number > 1 else bool(number)


def accumulation(name: str, value: Any) -> int | dict[int, int]:
    """Accept a factor, or ``{epoch: factor}``; a schedule comes back sorted, with epoch 0."""
    allowed = "an integer of at least 1, or a dict {epoch: factor}"
    value = plain(value)
    if is_integer(value):
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
        if not (is_integer(epoch) and is_integer(factor)):
            refuse(ReportedType, name, value, f"maps not only whole numbers: pass {allowed}")
        if epoch < 0:
            refuse(ReportedIndex, name, value, f"has the epoch {epoch}: epochs count from 0")
        if not 1 <= factor <= LARGEST or epoch > LARGEST:
            why = f"has the factor {shown(factor)}: 1 steps on every batch, more on every so many"
            refuse(MisconfiguredValue, name, value, why)
        schedule[int(epoch)] = int(factor)
    return dict(sorted({0: 1, **schedule}.items()))


def choice(*words: str | None) -> Check:
    """Accept one of ``words``, exactly as written."""
    allowed = ", ".join(map(repr, words))

    def check(name: str, value: Any) -> str | None:
        if not (value is None or isinstance(value, str)):
            refuse(MisconfiguredType, name, value, f"is not text: pass one of {allowed}")
        if value not in words:
            refuse(
                MisconfiguredValue,
                name,
                value,
                f"is unknown: `{name}` can be {allowed}, got {value}",
            )
        return value

    return check


def precision(name: str, value: Any) -> int | str:
    """Accept numbers of bits, and today's words for them."""
    number = plain(value)
    if isinstance(number, str) and number.lower() in WORDS:
        return number.lower()
    if not is_integer(number) or number not in BITS:
        allowed = ", ".join(map(repr, (*BITS, *WORDS)))
        refuse(ReportedAssertion, name, value, f"is no precision there is: pass one of {allowed}")
    return int(number)


def algorithm(name: str, value: Any) -> str:
    """Accept ``'norm'`` and ``'value'``; None is ``'norm'``."""
    return "norm" if value is None else str(choice("norm", "value")(name, value))


def determinism(name: str, value: Any) -> bool | str:
    """Accept True, False and ``'warn'``; None is False."""
    return (
        str(choice("warn")(name, value))
        if isinstance(value, str)
        else flag(none=False)(name, value)
    )


def flag_or_count(name: str, value: Any) -> bool | int:
    """Accept a bool or a number of epochs; 0 and 1 become bools."""
    answer = plain(value)
    number = int(answer) if isinstance(answer, bool) else count(0)(name, answer) or 0
    return number if number > 1 else bool(number)


def anything(name: str, value: Any) -> Any:
    """Accept any value; a rule of :mod:`leyden.config_rules` decides."""
    return value

"""Warn where it helps: at the nearest line outside of leyden."""

import sys
import warnings

__all__ = ["warn"]


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the nearest line outside of leyden: where the user called it, or the user's hook.

    A fixed ``stacklevel`` would show a line of ours, which nobody can change, and would have
    Python's filters take warnings for one and the same that have different causes.

    Args:
        message: what is wrong, and what to do.
        category: the class of the warning.

    Example:
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     warn("two workers would be faster: pass num_workers=2")
        >>> print(told[0].category.__name__, told[0].message)
        UserWarning two workers would be faster: pass num_workers=2
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _ours(module: str) -> bool:
    return module == "leyden" or module.startswith("leyden.")

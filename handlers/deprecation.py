"""Tell that something is deprecated: in one form, at the line of whoever wrote it."""

from leyden.engine.notice import warn

__all__ = ["deprecated"]


def deprecated(what: str, *, since: str, instead: str) -> None:
    """Warn, at the nearest line outside of leyden, that ``what`` was deprecated.

    Args:
        what: as the user wrote it, such as ``Trainer(profiler=True)``.
        since: the version of Lightning that deprecated it.
        instead: what to write.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     deprecated("Trainer(profiler=True)", since="1.1", instead="pass profiler='simple'")
        >>> print(told[0].message)
        Trainer(profiler=True) works, and is deprecated since Lightning 1.1: pass profiler='simple'
    """
    warn(f"{what} works, and is deprecated since Lightning {since}: {instead}", DeprecationWarning)

"""Tell that something is deprecated: in one form, at the line of whoever wrote it."""

from leyden.engine.notice import warn

__all__ = ["deprecated"]


def deprecated(
    what: str, *, since: str, instead: str, then: str = "will be removed in v1.3"
) -> None:
    r"""Warn, at the nearest line outside of leyden, that ``what`` was deprecated.

    Args:
        what: as the user wrote it, such as ``Trainer(profiler=True)``.
        since: the version of Lightning that deprecated it.
        instead: what to write.
        then: what Lightning announced; programs filter its warnings by these words.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     deprecated("Trainer(profiler=True)", since="1.1", instead="pass profiler='simple'")
        >>> print(str(told[0].message).replace(", but", ",\nbut"))
        Trainer(profiler=True) is deprecated since Lightning 1.1 and will be removed in v1.3 there,
        but works here: pass profiler='simple'
    """
    warn(
        f"{what} is deprecated since Lightning {since} and {then} there, but works here: {instead}",
        DeprecationWarning,
    )

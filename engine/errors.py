"""The errors for arguments that make no sense, raised before anything runs.

The tree; every class on the right-hand side is also the built-in named there::

    MisconfigurationException            catches them all
      MisconfiguredType                  TypeError: the value is of a wrong type
      MisconfiguredValue                 ValueError: right type, impossible value or combination
      NotBuilt                           ValueError: not there in this version or on this machine
      ReportedType                       TypeError      }
      ReportedValue                      ValueError     }  for these arguments Lightning 1.1 raised
      ReportedIndex                      IndexError     }  the bare built-in, so code that looks at
      ReportedAssertion                  AssertionError }  the type's name finds the one it knows
      ReportedRuntime                    RuntimeError   }

``type(error).__name__`` is what Lightning 1.1 users match on: ``MisconfigurationException`` for the
first three subclasses, the built-in's own name for the others. ``__qualname__`` stays the class's
own, because tracebacks print it and pickle finds the class by it.
"""

__all__ = [
    "MisconfigurationException",
    "MisconfiguredType",
    "MisconfiguredValue",
    "NotBuilt",
    "ReportedAssertion",
    "ReportedIndex",
    "ReportedRuntime",
    "ReportedType",
    "ReportedValue",
]


class MisconfigurationException(Exception):
    """An argument, or arguments together, that no run can honour."""


class MisconfiguredType(MisconfigurationException, TypeError):
    """An argument of a wrong type, or one that does not exist."""


class MisconfiguredValue(MisconfigurationException, ValueError):
    """An argument of the right type whose value is impossible, alone or beside the others."""


class NotBuilt(MisconfigurationException, ValueError):
    """A sensible request that this version, or this machine, cannot serve."""


class ReportedType(MisconfigurationException, TypeError):
    """A wrong type that Lightning 1.1 reports as a bare ``TypeError``."""


class ReportedValue(MisconfigurationException, ValueError):
    """A wrong value that Lightning 1.1 reports as a bare ``ValueError``."""


class ReportedIndex(MisconfigurationException, IndexError, ValueError):
    """A wrong value that Lightning 1.1 reports as a bare ``IndexError``."""


class ReportedAssertion(MisconfigurationException, AssertionError, ValueError):
    """A wrong value that Lightning 1.1 reports as a bare ``AssertionError``."""


class ReportedRuntime(MisconfigurationException, RuntimeError):
    """A request that Lightning 1.1 reports as a bare ``RuntimeError``."""


for _kind in (MisconfiguredType, MisconfiguredValue, NotBuilt):
    _kind.__name__ = MisconfigurationException.__name__
ReportedType.__name__ = "TypeError"
ReportedValue.__name__ = "ValueError"
ReportedIndex.__name__ = "IndexError"
ReportedAssertion.__name__ = "AssertionError"
ReportedRuntime.__name__ = "RuntimeError"
del _kind

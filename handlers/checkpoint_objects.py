"""Objects in a checkpoint, pickled beside the plain data: read only by who may read them.

A file is still data that any reader loads without running code: a pickle in it is bytes. It is
unpickled in the process that pickled it, which knows its own bytes again by their digest, and where
the file is trusted.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch

from leyden.handlers.checkpoint_legacy import load_trusted

__all__ = ["know", "known", "pickled", "revive"]

#: digests of what this process pickled, or the processes it started.
_OWN: set[bytes] = set()


def pickled(value: Any) -> bytes | None:
    """Pickle an object, and remember the result; None where that cannot be done.

    Example:
        >>> pickled(lambda: 0) is None
        True
    """
    file = io.BytesIO()
    try:
        torch.save(value, file)
    except Exception:  # whatever an object's own way to be pickled raises
        return None
    data = file.getvalue()
    _OWN.add(_digest(data))
    return data


def known() -> list[bytes]:
    """The digests of what this process pickled, for another one that may read it."""
    return sorted(_OWN)


def know(digests: Iterable[bytes]) -> None:
    """Read what a process pickled that this one started."""
    _OWN.update(digests)


def revive(checkpoint: dict[str, Any], *, trust: bool = False, map_location: Any = None) -> None:
    """Put the objects of a checkpoint in the place of their texts, as far as that is allowed.

    Args:
        checkpoint: as it was read; those that stay texts stay under ``objects`` too.
        trust: Unpickle what other processes pickled as well.
        map_location: As in ``torch.load``.
    """
    own = checkpoint.get("leyden")
    packed: Any = own.get("objects") if isinstance(own, Mapping) else None
    if not isinstance(packed, MutableMapping):
        return
    for key, parts in list(packed.items()):
        whole = isinstance(parts, bytes)
        into: Any = checkpoint if whole else checkpoint.get(key)
        left = packed if whole else parts
        for name, data in [(key, parts)] if whole else list(parts.items()):
            if data is not None and (trust or _digest(data) in _OWN):
                into[name] = load_trusted(io.BytesIO(data), map_location)
                del left[name]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

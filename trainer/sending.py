"""Pickles by value, in which some objects stand by a name: those that the reader has of its own."""

import functools
import io
import pickle
import sys
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor

from leyden.backends.launchers.spawn import pickler
from leyden.backends.xla.host import host_copy
from leyden.engine import RemovableEventHandle
from leyden.engine.errors import MisconfigurationException

__all__ = ["Late", "dumps", "loads"]


def dumps(value: Any, known: Mapping[str, Any]) -> bytes:
    """Pickle by value; the known objects stand there by their names."""
    names = {id(one): name for name, one in known.items() if one is not None}

    class Pickler(pickler().Pickler):  # type: ignore[misc]
        def persistent_id(self, one: Any) -> Any:
            return names.get(id(one))

        def reducer_override(self, one: Any) -> Any:
            # Where a handler listens is said anew in each process.
            if isinstance(one, RemovableEventHandle):
                return type(None), ()
            if isinstance(one, Tensor) and one.device.type == "xla":
                # As it lies there it would come up on the reader's XLA device, and start XLA in a
                # process that is to leave the cores to others.
                copy: Any = host_copy(one)
                return copy.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            if isinstance(one, (type, FunctionType)):
                home = sys.modules.get(one.__module__ or "")
                if home is not None and home not in by_value and not _importable(home.__name__):
                    pickler().register_pickle_by_value(home)
                    by_value.append(home)
            return super().reducer_override(one)

    by_value: list[ModuleType] = []
    file = io.BytesIO()
    try:
        Pickler(file).dump(value)
    finally:
        for home in by_value:
            pickler().unregister_pickle_by_value(home)
    return file.getvalue()


@functools.cache
def _importable(name: str) -> bool:
    """Whether another process finds a module by its name: one loaded from a file it may not."""
    top = name.partition(".")[0]
    if top == "__main__" or top in sys.builtin_module_names:
        return True  # the former is sent by value anyway
    finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
    return any(find(top, None) is not None for find in finders if find is not None)


def loads(blob: bytes, known: Any) -> Any:
    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name: Any) -> Any:
            return known[name]

    return Unpickler(io.BytesIO(blob)).load()


class Late:
    """The parts of a Trainer that is being made: only itself is there from the beginning."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __getitem__(self, name: str) -> Any:
        if name == "trainer":
            return self.trainer
        raise MisconfigurationException(
            f"what is sent to the new processes holds the Trainer's {name}: keep the Trainer "
            "itself instead, or what is needed of it"
        )

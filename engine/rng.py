"""The streams of random numbers: read, put back, kept apart.

States are plain data (ints, floats, text, lists and tensors), so that ``torch.load`` reads them
with ``weights_only=True``. NumPy is looked at only where it is imported already, devices only where
they are in use: reading a state never starts anything.
"""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

__all__ = [
    "Streams",
    "add_stream",
    "capture",
    "generators",
    "isolate",
    "plain_state",
    "read",
    "reseed",
    "restore",
    "seed_all",
    "write",
]

# How far to look for generators inside a loader's parts, and in how many objects at most.
_DEPTH = 5
_MANY = 64
_OBJECTS = 2000

# Of devices that torch itself has no stream of: name -> (read, write).
_added: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {}


def add_stream(name: str, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
    """Let a further stream be part of :func:`capture` and :func:`restore`, for this process.

    Args:
        name: under which its state is kept; not one of those that :func:`capture` has itself.
        read: gives its state as plain data.
        write: puts such a state back.
    """
    _added[name] = (read, write)


def capture() -> dict[str, Any]:
    """Read the global streams of Python, NumPy, torch on the CPU and on CUDA devices.

    Returns:
        ``{"python", "torch"}`` and, where they are in use, ``"numpy"`` and ``"cuda"`` (a list, one
        entry a device) and what :func:`add_stream` added.
    """
    state: dict[str, Any] = {
        "python": random.getstate(),
        "torch": torch.default_generator.get_state(),
    }
    numpy = _numpy()
    if numpy is not None:
        state["numpy"] = plain_state(numpy.random.get_state(legacy=False))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    for name, (read_added, _) in _added.items():
        state[name] = read_added()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put back what :func:`capture` read.

    Streams that the state does not hold stay as they are, and so does the state of devices that
    this machine does not have.
    """
    random.setstate(_tuples(state["python"]))
    torch.default_generator.set_state(_bytes(state["torch"]))
    if "numpy" in state:
        import numpy

        numpy.random.set_state(_arrays(state["numpy"]))
    if "cuda" in state and torch.cuda.is_available():
        for device, kept in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(_bytes(kept), device)
    for name, (_, write_added) in _added.items():
        if name in state:
            write_added(state[name])


@contextlib.contextmanager
def isolate(stream: dict[str, Any] | None = None) -> Iterator[None]:
    """Give a stage its own stream: the streams outside are bitwise untouched by what it draws.

    Args:
        stream: Holds the stage's stream from one time to the next, as :func:`capture` gives it; an
            empty dict begins as a copy of the streams outside. Without it, each time begins so.
    """
    outside = capture()
    if stream:
        restore(stream)
    try:
        yield
    finally:
        if stream is not None:
            stream.clear()
            stream.update(capture())
        restore(outside)


class Streams:
    """The global random streams, and those of the generators that some objects hold.

    Args:
        owners: The objects; see :func:`generators`.
    """

    def __init__(self, *owners: object) -> None:
        self._held = generators(*owners)

    def read(self) -> dict[str, Any]:
        """Read them all, as plain data."""
        return {"global": capture(), "held": [read(item) for item in self._held]}

    def write(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`read` gave."""
        held = state["held"]
        if len(held) != len(self._held):
            raise ValueError(
                f"the state holds {len(held)} random generators of the loader, but this loader "
                f"has {len(self._held)}: resume with the loader that it was saved with"
            )
        restore(state["global"])
        for item, kept in zip(self._held, held, strict=True):
            write(item, kept)


def generators(*owners: object) -> list[Any]:
    """Find the random generators that these objects hold, in a fixed order.

    Those are ``torch.Generator`` on the CPU, ``random.Random``, ``numpy.random.Generator`` and
    ``RandomState`` objects in attributes, in attributes of those, and in short containers.
    """
    found: list[Any] = []
    seen: set[int] = set()
    # Breadth first, so that a limit cuts the far ends off.
    level: list[Any] = list(owners)
    for _ in range(_DEPTH):
        below: list[Any] = []
        for item in level:
            if id(item) in seen or len(seen) > _OBJECTS:
                continue
            seen.add(id(item))
            if _is_generator(item):
                found.append(item)
            else:
                below += _inside(item)
        level = below
    return found


def read(generator: Any) -> Any:
    """Read the state of one of :func:`generators` as plain data."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "get_state"):  # numpy.random.RandomState
        return plain_state(generator.get_state(legacy=False))
    return plain_state(generator.bit_generator.state)


def write(generator: Any, state: Any) -> None:
    """Put back what :func:`read` gave."""
    if isinstance(generator, torch.Generator):
        generator.set_state(_bytes(state))
    elif isinstance(generator, random.Random):
        generator.setstate(_tuples(state))
    elif hasattr(generator, "set_state"):
        generator.set_state(_arrays(state))
    else:
        generator.bit_generator.state = _arrays(state)


def plain_state(value: Any) -> Any:
    """Turn a state of NumPy's into plain data.

    Arrays become ``{"array": dtype, "values": [...]}``.
    """
    if isinstance(value, dict):
        return {key: plain_state(item) for key, item in value.items()}
    if hasattr(value, "dtype"):
        if value.ndim == 0:
            return value.item()
        return {"array": str(value.dtype), "values": value.tolist()}
    return value


def seed_all(seed: int) -> None:
    """Seed the global streams of this process: Python, torch on the CPU, NumPy if it is in use."""
    random.seed(seed)
    # torch.manual_seed() asks every kind of device too, at 85 us instead of 1.
    torch.default_generator.manual_seed(seed)
    numpy = _numpy()
    if numpy is not None:
        numpy.random.seed(seed & 0xFFFFFFFF)


def reseed(generator: Any, seed: int) -> None:
    """Seed one of :func:`generators`."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif hasattr(generator, "seed"):  # random.Random, numpy.random.RandomState
        generator.seed(seed if isinstance(generator, random.Random) else seed & 0xFFFFFFFF)
    else:
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state


def _numpy() -> ModuleType | None:
    numpy = sys.modules.get("numpy")
    return numpy if numpy is not None and "numpy.random" in sys.modules else None


def _is_generator(item: object) -> bool:
    if isinstance(item, torch.Generator):
        return item.device.type == "cpu"
    if isinstance(item, random.Random):
        return not isinstance(item, random.SystemRandom)
    numpy = _numpy()
    return numpy is not None and isinstance(
        item, (numpy.random.Generator, numpy.random.RandomState)
    )


def _inside(item: object) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values()) if len(item) <= _MANY else []
    if isinstance(item, (list, tuple)):
        return list(item) if len(item) <= _MANY else []
    if isinstance(item, (type, ModuleType, torch.Tensor)) or callable(getattr(item, "mro", None)):
        return []
    attributes = getattr(item, "__dict__", None)
    return list(attributes.values()) if isinstance(attributes, dict) else []


def _arrays(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        import numpy

        return numpy.array(value["values"], dtype=value["array"])
    return {key: _arrays(item) for key, item in value.items()}


def _tuples(value: Any) -> Any:
    """Undo what a trip through JSON or a list did to ``random``'s state."""
    version, words, gauss = value
    return (version, tuple(words), gauss)


def _bytes(state: torch.Tensor) -> torch.Tensor:
    return state.to(device="cpu", dtype=torch.uint8)

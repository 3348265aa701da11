"""Say more where memory runs out: what ran, with which batch, on which device, what to try."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leyden.handlers.batch_size_scaler import is_out_of_memory

__all__ = ["explain", "shapes_of"]

_GIGABYTE = 1 << 30
_MANY = 6
_MARK = "leyden: memory ran out "


def explain(
    error: BaseException,
    *,
    doing: str,
    batch: Any = None,
    device: torch.device | str = "cpu",
    advice: Sequence[str] = (),
) -> bool:
    """Add to an error about memory where it happened; every other error stays as it is.

    The error itself goes on, with its type, message and traceback; Python 3.11 and later print what
    is added below them, in 3.10 it is put behind the message.

    Args:
        error: what was raised.
        doing: what ran, such as "in training, at epoch 2, batch 17".
        batch: what it ran with.
        device: where.
        advice: what to try.

    Returns:
        Whether something was added.

    Example:
        >>> error = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        >>> explain(error, doing="in training", batch=torch.ones(4, 3), advice=["smaller batches"])
        True
    """
    if not is_out_of_memory(error) or any(_MARK in note for note in _notes(error)):
        return False
    lines = [f"{_MARK}{doing}, on {device}{_used(torch.device(device))}"]
    shapes = shapes_of(batch)
    lines.append(f"  the batch: {shapes or 'none was at hand, it was being made'}")
    lines += [f"  try: {text}" for text in advice]
    text = "\n".join(lines)
    add_note = getattr(error, "add_note", None)
    if add_note is not None:
        add_note(text)
    else:
        first = error.args[0] if error.args else ""
        error.args = (f"{first}\n{text}", *error.args[1:])
    return True


def shapes_of(batch: Any) -> str:
    """Return the shapes and types of the tensors in a batch, in words.

    Example:
        >>> shapes_of({"x": torch.ones(2, 3), "y": [torch.arange(4)]})
        "['x'] (2, 3) float32, ['y'][0] (4,) int64"
    """
    found: list[str] = []
    _collect(batch, "", found)
    more = f" and {len(found) - _MANY} more" if len(found) > _MANY else ""
    return ", ".join(found[:_MANY]) + more


def _collect(data: Any, place: str, found: list[str]) -> None:
    if isinstance(data, Tensor):
        kind = str(data.dtype).removeprefix("torch.")
        found.append(f"{place} {tuple(data.shape)} {kind}".strip())
    elif isinstance(data, Mapping):
        for key, value in data.items():
            _collect(value, f"{place}[{key!r}]", found)
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            _collect(value, f"{place}[{index}]", found)


def _notes(error: BaseException) -> list[str]:
    noted = getattr(error, "__notes__", [])
    return [str(text) for text in (*noted, *error.args[:1])]


def _used(device: torch.device) -> str:
    """What the allocator holds, where it can be asked at such a moment."""
    if device.type != "cuda" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ""
    try:
        free, total = torch.cuda.mem_get_info(device)
        mine = torch.cuda.memory_allocated(device)
    except RuntimeError:  # the device does not answer any more
        return ""
    return (
        f" ({mine / _GIGABYTE:.1f} of {total / _GIGABYTE:.1f} GiB hold tensors of this process, "
        f"{free / _GIGABYTE:.1f} are free)"
    )

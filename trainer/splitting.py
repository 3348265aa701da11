"""Split a batch along time for truncated back-propagation."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from leyden.exceptions import MisconfiguredValue

__all__ = ["split_batch"]


def split_batch(batch: Any, split_size: int) -> list[Any]:
    """Split a batch along time; see ``LightningModule.tbptt_split_batch``."""
    if not isinstance(split_size, int) or split_size < 1:
        raise MisconfiguredValue(f"split_size={split_size!r} is no number of steps: pass 1 or more")
    if isinstance(batch, Tensor) or not isinstance(batch, Sequence):
        raise MisconfiguredValue(
            f"a batch of type {type(batch).__name__} cannot be split along time: return a tuple "
            "or list from the loader, or override tbptt_split_batch"
        )
    lengths = {_time(part) for part in batch if _has_time(part)}
    if len(lengths) != 1:
        found = f"times of {sorted(lengths)} steps" if lengths else "nothing with a time dimension"
        raise MisconfiguredValue(
            f"the batch holds {found}: all parts need the same length in dimension 1; "
            "override tbptt_split_batch to split it another way"
        )
    return [
        [_cut(part, start, start + split_size) for part in batch]
        for start in range(0, lengths.pop(), split_size)
    ]


def _has_time(part: Any) -> bool:
    if isinstance(part, Tensor):
        return part.dim() > 1
    return isinstance(part, Sequence) and len(part) > 0 and hasattr(part[0], "__len__")


def _time(part: Any) -> int:
    return int(part.shape[1]) if isinstance(part, Tensor) else len(part[0])


def _cut(part: Any, start: int, end: int) -> Any:
    if not _has_time(part):
        return part
    if isinstance(part, Tensor):
        return part[:, start:end]
    return [sample[start:end] for sample in part]

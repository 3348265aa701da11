"""Make one batch of several: what all cores together take in one step.

In Lightning 1.1 ``batch_size`` is what each core gets. Where one process drives all cores, the
batch that it fetches is theirs together: ``cores`` consecutive batches of the user's loader.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from leyden.engine.errors import MisconfiguredValue

__all__ = ["GatheredBatches", "GatheredIndices", "gathered"]


def gathered(loader: Any, count: int, *, whole: bool = False) -> Any:
    """Return a loader whose batches are ``count`` consecutive ones of ``loader``, which is left.

    A plain ``DataLoader`` collates them at once, so that its workers do it and a resumed run skips
    indices as it does without; of anything else the batches are joined.

    Args:
        loader: the user's.
        count: how many.
        whole: leave out a last batch of fewer, where the loader itself has ``drop_last=True``.
    """
    if count == 1:
        return loader
    if type(loader) is not DataLoader or loader.batch_size is None and loader.batch_sampler is None:
        return GatheredBatches(loader, count)
    whole = whole and bool(loader.drop_last or getattr(loader.batch_sampler, "drop_last", False))
    made = copy.copy(loader)
    own = made.__dict__  # DataLoader refuses to have these set
    own["_iterator"] = None
    if isinstance(loader.dataset, IterableDataset):
        # torch's own batch sampler of those gives lists of None, as many as there are samples.
        own["batch_size"] = (loader.batch_size or 1) * count
        own["batch_sampler"] = torch.utils.data.BatchSampler(
            loader.sampler, own["batch_size"], loader.drop_last
        )
        return made
    own["batch_sampler"] = GatheredIndices(loader.batch_sampler, count, whole=whole)
    return made


class GatheredIndices:
    """A batch sampler that joins ``count`` consecutive batches of another one.

    Args:
        batch_sampler: gives lists of indices.
        count: how many make one.
        whole: leave out a last one of fewer.
    """

    def __init__(self, batch_sampler: Any, count: int, *, whole: bool = False) -> None:
        self.batch_sampler = batch_sampler
        self.count = count
        self.whole = whole

    @property
    def sampler(self) -> Any:
        """The sampler that decides the order, for whoever tells it the epoch."""
        return getattr(self.batch_sampler, "sampler", self.batch_sampler)

    def __iter__(self) -> Iterator[list[Any]]:
        batches = iter(self.batch_sampler)
        while group := list(islice(batches, self.count)):
            if self.whole and len(group) < self.count:
                return
            yield [index for batch in group for index in batch]

    def __len__(self) -> int:
        return _groups(len(self.batch_sampler), self.count, self.whole)


class GatheredBatches:
    """Joins ``count`` consecutive batches of any loader along their first dimension.

    Raises:
        MisconfiguredValue: when it comes to batches that cannot be joined.
    """

    def __init__(self, loader: Iterable[Any], count: int) -> None:
        self.loader = loader
        self.count = count

    @property
    def dataset(self) -> Any:
        """The loader's dataset, whose random generators belong to the run."""
        return getattr(self.loader, "dataset", None)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while group := list(islice(batches, self.count)):
            yield _joined(group)

    def __len__(self) -> int:
        return _groups(len(self.loader), self.count, False)  # type: ignore[arg-type]


def _groups(batches: int, count: int, whole: bool) -> int:
    return batches // count if whole else -(-batches // count)


def _joined(parts: list[Any]) -> Any:
    """One batch of several that are built alike."""
    first = parts[0]
    if isinstance(first, torch.Tensor) and first.dim():
        return torch.cat(parts)
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_joined(list(each)) for each in zip(*parts, strict=True)))
    if isinstance(first, tuple):
        return tuple(_joined(list(each)) for each in zip(*parts, strict=True))
    if isinstance(first, list):
        if any(isinstance(item, (torch.Tensor, Mapping, list, tuple)) for item in first):
            return [_joined(list(each)) for each in zip(*parts, strict=True)]
        return [item for part in parts for item in part]  # one entry a sample
    raise MisconfiguredValue(
        f"a batch holds {type(first).__name__}, of which {len(parts)} cannot be joined to the "
        "batch of all cores: give batches of tensors whose first dimension counts the samples, or "
        "let a torch DataLoader collate them"
    )

"""Bring batches from the loader to the device of the run, through the hooks on the way."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from leyden.backends.side_copy import SideCopy
from leyden.backends.strategies import Strategy
from leyden.datamodule import LightningDataModule
from leyden.handlers.hooks import accepted
from leyden.module import LightningModule
from leyden.overrides import overrides
from leyden.transfer import move_to_device, tensors_of

__all__ = ["Bringing"]


class Bringing:
    """What a run does to each batch before its step.

    Without a device to go to and without hooks there is nothing to do, and nothing is called. On a
    CUDA device the copy runs on a stream of its own, unless ``transfer_batch_to_device`` or
    ``on_before_batch_transfer`` is overridden: what these do is not known, and they see each batch
    when its turn comes. Where worker processes load, the copy of the next batch has begun before
    the step of this one; in the main process that would run the dataset's code too early.

    Args:
        run: with ``model``, ``datamodule`` and ``strategy``.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self._copies: dict[torch.device, SideCopy] = {}

    def whole(self) -> Callable[[Any], Any] | None:
        """What is done to a batch, at once; None where nothing is."""
        begin, finish = self._side()
        if begin is None:
            return finish
        return lambda batch: finish(begin(batch))  # type: ignore[misc]

    def of_feed(self, loader: Any) -> dict[str, Any]:
        """The arguments of :class:`leyden.engine.feed.Feed` for a training loader."""
        begin, finish = self._side()
        if begin is None:
            return {"transfer": finish}
        ahead = isinstance(loader, DataLoader) and loader.num_workers > 0
        return {"stage": begin, "transfer": finish, "ahead": ahead}

    def _side(self) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
        """What begins a copy, if that is a thing of its own, and what ends it."""
        device = self.run.model.device
        before, own, after = (
            self._hook("on_before_batch_transfer"),
            self._hook("transfer_batch_to_device"),
            self._hook("on_after_batch_transfer"),
        )
        moves = device.type != "cpu"
        strategy = self.run.strategy
        splits = type(strategy).split_batch is not Strategy.split_batch  # among its devices
        split = strategy.split_batch if splits else None
        if not (before or after or moves):
            return None, None
        if device.type == "cuda" and not (before or own):
            copy = self._copy(device)

            def finish(begun: Any) -> Any:
                batch = copy.finish(begun)
                batch = after(batch, 0) if after else batch
                return split(batch) if split else batch

            return copy.begin, finish
        taken = accepted(own, 0) if own else None  # 1.1's have no dataloader_idx

        def bring(batch: Any) -> Any:
            if before:
                batch = before(batch, 0)
            if moves:
                if own:
                    batch = own(*(batch, device, 0)[:taken])
                else:
                    batch = move_to_device(batch, device)
            batch = after(batch, 0) if after else batch
            return split(batch) if split else batch

        return None, bring

    def _copy(self, device: torch.device) -> SideCopy:
        if device not in self._copies:
            self._copies[device] = SideCopy(device, move_to_device, tensors_of)
        return self._copies[device]

    def _hook(self, name: str) -> Callable[..., Any] | None:
        """A hook on batches: the data module's, else the module's; None if nobody overrides it."""
        owners = (
            (self.run.datamodule, LightningDataModule),
            (self.run.model, LightningModule),
        )
        for owner, base in owners:
            if owner is not None and overrides(owner, name, base):
                found: Callable[..., Any] = getattr(owner, name)
                return found
        return None

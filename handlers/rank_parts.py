"""What each process of a run adds to a checkpoint, and what it takes back from one.

The processes of a run hold the same weights, but not the same random numbers, loader positions,
running metrics, buffers or gradients of an unfinished accumulation. Those of the first process are
where they are in any checkpoint; those of the others are beside them, under ``leyden.ranks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from leyden.engine.notice import warn

__all__ = ["collected", "own_part", "settle"]

#: What stands under "leyden" and differs from process to process.
_PARTS = ("position", "handlers", "metrics", "gradients", "loader", "outputs", "batch", "moment")


def collected(trainer: Any, checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """Return the checkpoint with the parts of all processes; None where nothing is to be written.

    Every process calls this; one that has sent its part goes on. Where the processes cannot talk
    any more the first one writes what it has.

    Args:
        trainer: the run, with ``strategy`` and ``lightning_module``.
        checkpoint: as this process sees it.

    Raises:
        RuntimeError: the other processes did not come.
    """
    strategy = trainer.strategy
    if strategy.world_size == 1:
        return checkpoint
    first: bool = strategy.global_rank == 0
    own = checkpoint.get("leyden")
    if own is None or "position" not in own or strategy.broken:
        return checkpoint if first else None  # weights only: they are the same everywhere
    part = {} if first else _part(trainer.lightning_module, checkpoint)
    try:
        parts = strategy.collect(part)
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {strategy.global_rank} could not put its part into the checkpoint: {error}. A "
            "checkpoint that continues a run is saved by all processes together: call "
            "trainer.save_checkpoint on every rank, or with weights_only=True on the first one"
        ) from error
    if parts is None:
        return None
    own["ranks"] = parts[1:]
    own["strategy"] = strategy.state_dict()
    return checkpoint


def _part(module: Any, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    own = checkpoint["leyden"]
    names = {name for name, _ in module.named_buffers()}
    return {
        "own": {name: own[name] for name in _PARTS if name in own},
        "buffers": {k: v for k, v in checkpoint["state_dict"].items() if k in names},
        "callbacks": checkpoint["callbacks"],
        "callback_states": own["callback_states"],
    }


def own_part(strategy: Any, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint as this process is to see it: its own part in the place of the first's.

    A run of another number of processes goes on at the same number of samples, but not bit for bit:
    the samples are dealt out differently. A warning says so.
    """
    own = checkpoint.get("leyden")
    if own is None or "position" not in own:
        return checkpoint
    own = dict(own)
    others, state = own.pop("ranks", []), own.pop("strategy", {})
    before, now = len(others) + 1, strategy.world_size
    rank = strategy.global_rank
    found = {**checkpoint, "leyden": own}
    gradients = [own.get("gradients", {}), *(other["own"]["gradients"] for other in others)]
    turn = rank % before
    if turn:
        part = others[turn - 1]
        own.update(part["own"])
        for name in set(_PARTS) - set(part["own"]):
            own.pop(name, None)
        own["callback_states"] = part["callback_states"]
        found["callbacks"] = part["callbacks"]
        found["state_dict"] = {**checkpoint["state_dict"], **part["buffers"]}
    if before == now:
        if state:
            strategy.load_state_dict(state)
        return found
    _deal_anew(strategy.global_rank == 0, own, gradients, before, now)
    return found


def _deal_anew(
    tells: bool, own: dict[str, Any], gradients: list[Mapping[str, Any]], before: int, now: int
) -> None:
    """Fit what one of ``before`` processes saved to one of ``now``."""
    loader = own.get("loader")
    inner = loader.get("loader") if loader is not None else None
    size = (inner.get("batch_size") if isinstance(inner, dict) else None) or 1
    batch = own["position"]["batch"]
    own["position"] = {**own["position"], "samples": batch * size * before, "batch_size": size}
    if tells:
        lost = f"; running averages of this epoch leave out those of {before - now} processes"
        warn(
            f"the checkpoint was saved by {before} processes and goes on with {now}: at the same "
            "number of samples, but not bit for bit, since they are dealt out differently"
            + (lost if now < before and batch else ""),
            UserWarning,
        )
    names = {name for part in gradients for name in part}
    # Each has the mean: their mean, where the group is complete, is that of all again.
    own["gradients"] = {
        name: torch.stack(
            [
                part[name] if name in part else torch.zeros_like(_first(gradients, name))
                for part in gradients
            ]
        ).mean(0)
        for name in names
    }
    if isinstance(inner, dict) and "batches" in inner:
        anything = dict.fromkeys(("batches", "batch_size", "order"))
        own["loader"] = {**own["loader"], "loader": {**inner, **anything, "recorded": False}}


def settle(
    position: dict[str, Any], loader: dict[str, Any] | None, batch_size: Any, now: int
) -> int:
    """Put a run of another number of processes on the batch with the same number of samples before.

    Args:
        position: of the checkpoint; changed.
        loader: the loader's position; changed.
        batch_size: of the loader that goes on, None where it does not say.
        now: how many processes go on.

    Returns:
        By how many batches it moved.
    """
    size = position.pop("batch_size")
    batch = position.pop("samples") // ((batch_size or size) * now)
    moved: int = batch - position["batch"]
    position["batch"] = batch
    position["iteration"] += moved
    if loader is not None:
        loader["position"] = batch
    return moved


def _first(parts: list[Mapping[str, Any]], name: str) -> Any:
    return next(part[name] for part in parts if name in part)

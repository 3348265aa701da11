"""A checkpoint as a directory: tensors that many processes wrote, the rest in one plain file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.backends import sharded_files
from leyden.handlers import checkpoint_archive
from leyden.handlers.checkpoint_archive import DamagedCheckpoint, UnsafeCheckpoint

__all__ = [
    "PLAIN",
    "is_folder",
    "join",
    "load",
    "prepare",
    "save",
    "split",
    "tensors_of",
    "verify",
    "write",
]

#: The file beside the tensors: everything else of the checkpoint.
PLAIN = "leyden.ckpt"
_FILES, _ORDER = "leyden_files", "leyden_order"
_MODEL, _OPTIMIZERS, _GRADIENTS = "state_dict", "optimizer_states", "gradients"


def is_folder(
    path: str | os.PathLike[str] | IO[bytes],
) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a checkpoint is a directory; an open file is none."""
    return isinstance(path, (str, os.PathLike)) and sharded_files.is_sharded(path)


def split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Part a checkpoint into what the first process writes, and named parts of tensors.

    Tensors that every process has, such as running means, are those of the first.
    """
    plain: dict[str, Any] = dict(checkpoint)
    tensors: dict[str, Tensor] = {}
    plain[_MODEL] = _part(checkpoint[_MODEL], _MODEL, tensors)
    plain[_ORDER] = list(checkpoint[_MODEL])
    if _OPTIMIZERS in checkpoint:
        plain[_OPTIMIZERS] = [
            {
                **state,
                "state": {
                    number: _part(values, f"{_OPTIMIZERS}/{index}/{number}", tensors)
                    for number, values in state["state"].items()
                },
            }
            for index, state in enumerate(checkpoint[_OPTIMIZERS])
        ]
    resume = checkpoint.get("leyden")
    if isinstance(resume, Mapping) and _GRADIENTS in resume:
        kept = _part(resume[_GRADIENTS], _GRADIENTS, tensors)
        plain["leyden"] = {**resume, _GRADIENTS: kept}
    return plain, tensors


def _part(values: Mapping[Any, Any], path: str, tensors: dict[str, Tensor]) -> dict[Any, Any]:
    rest = {}
    for name, value in values.items():
        if sharded_files.is_spread(value):
            tensors[f"{path}/{name}"] = value
        else:
            rest[name] = value
    return rest


def join(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Put together what :func:`split` parted."""
    whole = dict(plain)
    whole[_MODEL] = dict(plain[_MODEL])
    states = [{**state, "state": dict(state["state"])} for state in plain.get(_OPTIMIZERS, ())]
    gradients: dict[str, Any] = {}
    for path, value in tensors.items():
        place, name = path.split("/", 1)
        if place == _MODEL:
            whole[_MODEL][name] = value
        elif place == _GRADIENTS:
            gradients[name] = value
        else:
            index, number, name = name.split("/", 2)
            values = states[int(index)]["state"]
            values[int(number)] = {**values.get(int(number), {}), name: value}
    whole[_MODEL] = {name: whole[_MODEL][name] for name in whole.pop(_ORDER)}
    if _OPTIMIZERS in plain:
        whole[_OPTIMIZERS] = states
    if gradients:
        kept = whole["leyden"]
        whole["leyden"] = {**kept, _GRADIENTS: {**kept[_GRADIENTS], **gradients}}
    return whole


def prepare(
    checkpoint: Mapping[str, Any], gather: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    """Part a checkpoint for :func:`write`.

    Args:
        checkpoint: as ``checkpoint_state.dump`` gave it, tensors spread as they are in the run.
        gather: brings the plain parts of all processes together; gives None where this process has
            none to write.
    """
    plain, tensors = split(checkpoint)
    return {"plain": plain if gather is None else gather(plain), "tensors": tensors}


def write(prepared: Mapping[str, Any], path: str | os.PathLike[str], group: Any = None) -> None:
    """Write a directory of what :func:`prepare` gave; every process calls it.

    The directory appears under its name when all of it is on the disk, with the checksums of its
    files.

    Args:
        prepared: this process's part.
        path: the directory.
        group: the processes; None: all there are, or this one alone.
    """
    part = sharded_files.write(prepared["tensors"], path, group)
    _together(group)
    if prepared["plain"] is not None and _is_first(group):
        plain = {**prepared["plain"], _FILES: sharded_files.checksums(part)}
        checkpoint_archive.save(plain, os.path.join(part, PLAIN))
        sharded_files.put_in_place(part)
    _together(group)


def save(checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a checkpoint as a directory; every process calls it."""
    write(prepare(checkpoint), path)


def _together(group: Any) -> None:
    if dist.is_initialized():
        dist.barrier(group)


def _is_first(group: Any) -> bool:
    return not dist.is_initialized() or dist.get_rank(group) == 0


def _plain(path: str | os.PathLike[str], **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    name = os.path.join(os.fspath(path), PLAIN)
    if not os.path.isfile(name):
        raise DamagedCheckpoint(path, f"it is a directory without {PLAIN}")
    plain: dict[str, Any] = dict(checkpoint_archive.load(name, **options))
    return plain, plain.pop(_FILES, {})


def verify(path: str | os.PathLike[str]) -> bool:
    """Check a checkpoint, file or directory, against what was written.

    Returns:
        Whether there was something to check it by; see ``checkpoint_archive.verify``.

    Raises:
        DamagedCheckpoint: a file is missing, truncated or changed.
    """
    if not is_folder(path):
        return checkpoint_archive.verify(path)
    why = sharded_files.verify(path, _plain(path)[1])
    if why:
        raise DamagedCheckpoint(path, why)
    return True


def load(
    path: str | os.PathLike[str] | IO[bytes],
    *,
    into: Mapping[str, Tensor] | None = None,
    check: bool = True,
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = lambda plain: plain,
    **options: Any,
) -> dict[str, Any]:
    """Read a checkpoint, file or directory, verified, and as data only.

    Args:
        path: the file or directory.
        into: tensors to fill from a directory, by the names of :func:`tensors_of`; the others are
            read whole.
        check: verify the tensors of a directory; a file is verified in any case.
        adapt: makes of what is no part of a tensor what this process is to see.
        options: of ``checkpoint_archive.load``.

    Raises:
        DamagedCheckpoint: a file is missing, truncated or changed.
    """
    if not is_folder(path):
        return adapt(checkpoint_archive.load(path, **options))
    plain, files = _plain(path, **options)
    why = sharded_files.verify(path, files) if check else ""
    if why:
        raise DamagedCheckpoint(path, why)
    try:
        tensors = sharded_files.read(path, into)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(f"checkpoint {str(path)!r} was not read: {error}") from error
    return join(adapt(plain), tensors)


def tensors_of(
    path: str | os.PathLike[str], model: Mapping[str, Tensor], optimizers: Sequence[Any]
) -> dict[str, Tensor]:
    """Make room for the tensors of a directory, spread as the run's own are.

    Args:
        path: the directory.
        model: the run's state by name.
        optimizers: the run's; a moment is spread as its parameter.

    Returns:
        New tensors, by the names of :func:`split`, to pass as ``into``.
    """
    into = {}
    for name, (size, dtype) in sharded_files.shapes(path).items():
        place, rest = name.split("/", 1)
        like = None
        if place in (_MODEL, _GRADIENTS):
            like = model.get(rest)
        else:
            index, number, _ = rest.split("/", 2)
            if int(index) < len(optimizers):
                groups = optimizers[int(index)].param_groups
                parameters = [p for group in groups for p in group["params"]]
                like = parameters[int(number)] if int(number) < len(parameters) else None
        if like is not None and like.shape == size:
            into[name] = torch.empty_like(like.detach(), dtype=dtype)
    return into

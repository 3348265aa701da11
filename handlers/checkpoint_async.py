"""Save checkpoints beside the training: copy now, write in a thread."""

import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from leyden.handlers.checkpoint_archive import save

__all__ = ["AsyncWriter", "Snapshot"]


class Snapshot:
    """Copies a nested state into buffers that are used again the next time.

    Everything is really copied: a ``state_dict`` aliases the weights, and Adam's the ``step``
    tensors on the CPU. Tensors on a device are copied to pinned memory on the host.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], torch.Tensor] = {}

    def take(self, obj: Any) -> Any:
        """Return a copy of ``obj``, valid until the next call."""
        used: dict[tuple[Any, ...], torch.Tensor] = {}
        devices: set[torch.device] = set()
        result = self._copy(obj, (), used, {}, devices)
        for device in devices:
            # The copies were started, not waited for, one by one.
            torch.accelerator.synchronize(device)
        self._buffers = used  # those of tensors that are gone are freed
        return result

    def clear(self) -> None:
        """Free the buffers."""
        self._buffers = {}

    def _copy(
        self,
        obj: Any,
        where: tuple[Any, ...],
        used: dict[tuple[Any, ...], torch.Tensor],
        same: dict[tuple[Any, ...], torch.Tensor],
        devices: set[torch.device],
    ) -> Any:
        if isinstance(obj, torch.Tensor):
            return self._copy_tensor(obj, where, used, same, devices)
        if type(obj) in (int, float, str, bool, type(None), bytes, complex):
            return obj
        if type(obj) in (dict, OrderedDict):
            made = type(obj)()
            for key, item in obj.items():
                made[key] = self._copy(item, (*where, key), used, same, devices)
            if type(obj) is OrderedDict:  # a module's state_dict has its _metadata there
                made.__dict__.update(copy.deepcopy(obj.__dict__))
            return made
        if type(obj) in (list, tuple):
            return type(obj)(
                self._copy(item, (*where, i), used, same, devices) for i, item in enumerate(obj)
            )
        return copy.deepcopy(obj)

    def _copy_tensor(
        self,
        tensor: torch.Tensor,
        where: tuple[Any, ...],
        used: dict[tuple[Any, ...], torch.Tensor],
        same: dict[tuple[Any, ...], torch.Tensor],
        devices: set[torch.device],
    ) -> torch.Tensor:
        tensor = tensor.detach()
        if tensor.layout is not torch.strided or type(tensor) not in (
            torch.Tensor,
            torch.nn.Parameter,
        ):
            return tensor.clone()
        # Tied weights stay one tensor in the file.
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and identity in same:
            return same[identity]
        device = tensor.device
        buffer = self._buffers.get(where)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=device.type == "cuda")
        buffer.copy_(tensor, non_blocking=device.type == "cuda")
        if device.type != "cpu":
            devices.add(device)
        used[where] = same[identity] = buffer
        return buffer


class AsyncWriter:
    """Writes checkpoints in a thread, one at a time.

    The training waits for the copy only, and for the save before if that is not done. A failed save
    is raised by the next call of :meth:`save`, :meth:`check`, :meth:`join` or :meth:`close`. The
    interpreter does not exit while a save is under way.

    Args:
        write: Called with ``(obj, path)`` in the thread.
    """

    def __init__(self, write: Callable[[Any, str | os.PathLike[str]], None] = save) -> None:
        self._write = write
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._thread is not None and self._thread.is_alive()

    def save(
        self,
        obj: Any,
        path: str | os.PathLike[str],
        *,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Copy ``obj`` and begin to write it to ``path``.

        Args:
            obj: What to save; it may change as soon as this returns.
            path: Where to.
            then: Called in the thread when the file is durable (to delete an older one).
        """
        self.join()
        copied = self._snapshot.take(obj)
        # Not a daemon: a save that was begun is finished before the process ends.
        self._thread = threading.Thread(
            target=self._run, args=(copied, path, then), name="leyden-checkpoint"
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what a finished save failed with; does not wait."""
        if not self.busy:
            self.join()

    def join(self) -> None:
        """Wait for the save under way, and raise what it failed with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait as :meth:`join` does, and free the buffers."""
        try:
            self.join()
        finally:
            self._snapshot.clear()

    def _run(self, obj: Any, path: str | os.PathLike[str], then: Callable[[], None] | None) -> None:
        try:
            self._write(obj, path)
            if then is not None:
                then()
        except BaseException as error:  # for the training thread to raise
            self._error = error

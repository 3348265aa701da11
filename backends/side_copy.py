"""Copy batches to a GPU on a stream of their own, while the GPU computes the batch before."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["SideCopy"]


class SideCopy:
    """Begins copies on a side stream; who takes a batch has the computing stream wait for it.

    The copy of a batch overlaps with whatever was launched before it, since nothing on the
    computing stream comes before it; neither the process nor the device waits. From memory that is
    not pinned CUDA copies only while the process waits: a DataLoader with ``pin_memory=True`` is
    what makes the overlap.

    Args:
        device: where batches are copied to.
        move: ``move(batch, device)`` gives the batch there, by copies that do not block.
        tensors: gives the tensors of a moved batch; None where it holds more than can be seen, in
            which case the batch is moved on the computing stream.
        cuda: what makes and joins streams; tests bring their own.

    Example:
        >>> copy = SideCopy("cuda", move, tensors)  # doctest: +SKIP
        >>> batch = copy.finish(copy.begin(batch))  # doctest: +SKIP
    """

    def __init__(
        self,
        device: torch.device | str,
        move: Callable[[Any, torch.device], Any],
        tensors: Callable[[Any], list[Any] | None],
        *,
        cuda: Any = torch.cuda,
    ) -> None:
        self.device = torch.device(device)
        self._move = move
        self._tensors = tensors
        self._cuda = cuda
        self._stream: Any = None

    def begin(self, batch: Any) -> tuple[Any, Any, Any]:
        """Begin to copy; the result is for :meth:`finish`."""
        if self._tensors(batch) is None:
            return self._move(batch, self.device), None, None
        if self._stream is None:
            self._stream = self._cuda.Stream(self.device)
        with self._cuda.stream(self._stream):
            moved = self._move(batch, self.device)
            done = self._stream.record_event()
        # The source is kept until the copy has its place in the order of the computing stream.
        return moved, done, batch

    def finish(self, begun: tuple[Any, Any, Any]) -> Any:
        """Give the batch to the stream that computes."""
        moved, done, _ = begun
        if done is not None:
            computing = self._cuda.current_stream(self.device)
            computing.wait_event(done)
            for tensor in self._tensors(moved) or ():
                # Their memory is the side stream's: it must not be used again before the computing
                # stream is through with it.
                tensor.record_stream(computing)
        return moved

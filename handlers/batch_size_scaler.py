"""Search for the largest batch that fits; tell running out of memory from other errors."""

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator

import torch

from leyden.engine.errors import (
    MisconfiguredType,
    MisconfiguredValue,
    ReportedRuntime,
    ReportedValue,
)

__all__ = ["BatchSizeScaler", "free_memory", "is_out_of_memory"]

log = logging.getLogger(__name__)

_MODES = ("power", "binsearch")
# What torch and the libraries under it say where they raise a plain RuntimeError.
_SIGNS = (
    "out of memory",  # CUDA, HIP, MPS and XLA
    "can't allocate memory",  # torch on the CPU: DefaultCPUAllocator
    "not enough memory",  # the same on Windows
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # cuDNN, for want of memory for its workspace
    "RESOURCE_EXHAUSTED",
)


class BatchSizeScaler:
    """Tries sizes until memory runs out, and gives the largest that went through.

    ``"power"`` doubles and gives the last power that fitted; ``"binsearch"`` then halves the gap
    until it is 1. A size is given only if it was tried and fitted, less the margin.

    Args:
        mode: ``"power"`` or ``"binsearch"``.
        init_val: the first size.
        max_trials: how many sizes to try at most.
        margin: the share to take off the largest size that fitted, for what a longer run may need
            on top (fragmented memory, a batch of longer sequences); 0 takes off nothing.

    Attributes:
        tried: (size, whether it fitted) of the last search, in order.

    Source: the batch-size scaling of Lightning 1.1; differently, a size that was not tried is never
    returned, and one that fails at once is an error.

    Example:
        >>> def trial(size):
        ...     if size > 21:
        ...         raise MemoryError
        >>> scaler = BatchSizeScaler("binsearch")
        >>> scaler.search(trial), [size for size, _ in scaler.tried]
        (21, [2, 4, 8, 16, 32, 24, 20, 22, 21])
        >>> BatchSizeScaler("binsearch", margin=0.1).search(trial)
        18
    """

    def __init__(
        self,
        mode: str = "power",
        *,
        init_val: int = 2,
        max_trials: int = 25,
        margin: float = 0.0,
    ) -> None:
        if mode not in _MODES:
            raise ReportedValue(f"mode={mode!r} is unknown: pass 'power' or 'binsearch'")
        for name, value in (("init_val", init_val), ("max_trials", max_trials)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise MisconfiguredType(f"{name}={value!r} is no count: pass an int of 1 or more")
            if value < 1:
                raise MisconfiguredValue(f"{name}={value} is below 1: pass a count of 1 or more")
        if isinstance(margin, bool) or not isinstance(margin, (int, float)):
            raise MisconfiguredType(f"margin={margin!r} is no number: pass a share such as 0.05")
        if not 0 <= margin < 1:
            raise MisconfiguredValue(
                f"margin={margin!r} is not a share: pass 0, or a number below 1 such as 0.05"
            )
        self.mode = mode
        self.init_val = init_val
        self.max_trials = max_trials
        self.margin = margin
        self.tried: list[tuple[int, bool]] = []

    def search(self, trial: Callable[[int], int | None]) -> int:
        """Return the largest size for which ``trial(size)`` runs.

        Args:
            trial: runs a few steps with batches of that size; it raises where memory runs out, and
                returns the largest size that makes sense (the samples there are), None if unknown.

        Raises:
            MisconfigurationException: the first size does not fit; it is a RuntimeError as well.
            Exception: what ``trial`` raises for another reason than memory.
        """
        with _short_collections():
            return self._search(trial)

    def _search(self, trial: Callable[[int], int | None]) -> int:
        self.tried = []
        size, low, high = self.init_val, 0, 0  # low fitted, high did not; 0: none yet
        most: int | None = None
        while len(self.tried) < self.max_trials:
            fits, known = self._try(trial, size)
            if fits:
                most = known if known is not None else most
                low = size
                if most is not None and size >= most:
                    break
            elif not low:
                raise ReportedRuntime(
                    f"a batch of {size} (init_val={self.init_val}) does not fit in memory, so "
                    "there is no size to begin with: pass a smaller init_val, or make the model or "
                    "the samples smaller"
                )
            else:
                high = size
            if high and (self.mode == "power" or high - low <= 1):
                break
            size = (low + high) // 2 if high else 2 * size
            if most is not None:
                size = min(size, most)
        else:
            log.warning(
                "max_trials=%s are spent: a batch larger than %s may fit", self.max_trials, low
            )
        if most is not None:
            low = min(low, max(most, 1))
        return max(int(low * (1 - self.margin)), 1)

    def _try(self, trial: Callable[[int], int | None], size: int) -> tuple[bool, int | None]:
        known: int | None = None
        try:
            known = trial(size)
            fits = True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            fits = False
        # Here the error is gone, and with it the frames that hold the tensors of the trial.
        free_memory()
        self.tried.append((size, fits))
        log.info("a batch of %s %s", size, "fits" if fits else "does not fit in memory")
        return fits, known


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a device or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def _short_collections() -> Iterator[None]:
    """Collect once; in the block only what is made in it is looked at.

    Going through all that torch and its like have imported takes a good part of a second.
    """
    free_memory()
    if gc.get_freeze_count():  # somebody's own, which unfreeze() would undo
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def free_memory() -> None:
    """Give back what nobody uses: cycles of objects, and the blocks that CUDA keeps for reuse."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()

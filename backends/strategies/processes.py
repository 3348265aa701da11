"""Several processes, one device each, that talk through torch.distributed."""

from __future__ import annotations

import atexit
import contextlib
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leyden.backends.environments import Environment
from leyden.backends.joining import join
from leyden.backends.samplers import shared
from leyden.backends.strategies.base import Answer, Strategy
from leyden.backends.sync_batchnorm import synchronised
from leyden.engine.errors import MisconfigurationException

__all__ = ["OPS", "ProcessStrategy", "RankError"]

OPS = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}

#: How long a process whose connection broke waits for the word of the one that failed.
_WORD = timedelta(seconds=3)
#: What the errors of a broken or late connection have in common.
_BROKEN = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "process group", "store")


class RankError(RuntimeError):
    """This process ends because of another one, or because they do not agree.

    Attributes:
        ranks: the numbers of the processes it is about.
    """

    def __init__(self, message: str, ranks: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.ranks = tuple(ranks)


class _Pending(Answer):
    """What all processes were asked, and have not been heard of yet."""

    def __init__(self, numbers: Tensor, work: Any) -> None:
        super().__init__(())
        self._numbers = numbers
        self._work = work

    def result(self) -> list[int]:
        self._work.wait()
        return [int(number) for number in self._numbers.tolist()]


class ProcessStrategy(Strategy):
    """Processes that each hold a device and a share of the data.

    What they agree on goes over a group of its own, on the CPU: it disturbs neither the gradients
    nor what the user's code sends.

    Args:
        device: of this process.
        environment: which process this is.
        timeout: how long the processes look for one another before they end with an error.
        patience: how long one waits in a run for another that is late (it downloads data, or writes
            a large file) before it ends with an error. One that died is noticed at once.
        ask_every: batches at most from one question to the others, whether somebody wants to stop,
            to the next. They are fewer where batches are long: there is a question every second.
        process_group_backend: "nccl", "gloo" ...; None: what suits the device.

    Attributes:
        sync_batchnorm: whether batch normalizations look at the batches of all processes while a
            run is on.

    Raises:
        MisconfigurationException: for an operation that is not known.
    """

    active = True
    shares_data = True
    #: The process group, and the one for agreements that was made beside it.
    _controls: ClassVar[tuple[Any, Any]] = (None, None)

    def __init__(
        self,
        device: torch.device | str = "cpu",
        environment: Environment | None = None,
        *,
        timeout: timedelta = timedelta(seconds=60),
        patience: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
        ask_every: int = 32,
    ) -> None:
        super().__init__(device, environment)
        if isinstance(ask_every, bool) or not isinstance(ask_every, int) or ask_every < 1:
            raise MisconfigurationException(
                f"ask_every={ask_every!r} is no number of batches: pass 1 for a question after "
                "each batch, or more"
            )
        self.ask_every = ask_every
        self.timeout = timeout
        self.patience = patience
        self.process_group_backend = process_group_backend
        self.sync_batchnorm = False
        self._unsynchronise: Callable[[], None] | None = None
        self._joined = False
        self._runs = 0

    # ------------------------------------------------------------------ one run

    def connect(self) -> None:
        self.broken = False
        self._runs += 1
        if not dist.is_initialized():
            if not self.environment.started:
                return
            backend = self.process_group_backend
            if backend is None:
                backend = "nccl" if self.root_device.type == "cuda" else "gloo"
            join(self.environment, backend, self.timeout)
            self._joined = True
            # Threads of a group that is there while the interpreter ends abort the process.
            atexit.register(self.disconnect)
            # torch has no public way to another limit for the calls than for the beginning.
            dist.distributed_c10d._set_pg_timeout(self.patience, dist.group.WORLD)
        if ProcessStrategy._controls[0] is not dist.group.WORLD:
            control = dist.new_group(backend="gloo", timeout=self.patience)
            ProcessStrategy._controls = (dist.group.WORLD, control)

    def disconnect(self) -> None:
        if self._joined and dist.is_initialized():
            dist.destroy_process_group()
            atexit.unregister(self.disconnect)
            ProcessStrategy._controls = (None, None)
        self._joined = False

    def place(self, model: nn.Module) -> None:
        super().place(model)
        if self.sync_batchnorm and self.world_size > 1:
            self.release()
            self._unsynchronise = synchronised(model)

    def release(self) -> None:
        if self._unsynchronise is not None:
            self._unsynchronise()
            self._unsynchronise = None

    @property
    def connected(self) -> bool:
        """Whether the processes can talk."""
        return dist.is_initialized() and ProcessStrategy._controls[0] is dist.group.WORLD

    @property
    def control(self) -> Any:
        """The group for agreements: on the CPU, apart from that of the gradients."""
        return ProcessStrategy._controls[1]

    # ------------------------------------------------------------------ data

    def share(self, loader: Any, *, train: bool, batches: bool = False) -> Any:
        if self.world_size == 1 or not self.replaces_samplers:
            return loader
        return shared(loader, self.world_size, self.global_rank, train=train, batches=batches)

    # ------------------------------------------------------------------ talk

    def reduce(self, value: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        if op not in ("mean", *OPS):
            raise MisconfigurationException(
                f"op={op!r} is unknown: pass 'mean', {', '.join(map(repr, OPS))}"
            )
        whole = value.detach().clone()
        dist.all_reduce(whole, OPS.get(op, dist.ReduceOp.SUM), group=group)
        return whole / dist.get_world_size(group) if op == "mean" else whole

    def gather_objects(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value, group=self.control)
        return found

    def collect(self, value: Any) -> list[Any] | None:
        found: list[Any] | None = [None] * self.world_size if self.global_rank == 0 else None
        dist.gather_object(value, found, dst=0, group=self.control)
        return found

    def broadcast(self, value: Any, source: int = 0) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=source, group=self.control)
        return box[0]

    def barrier(self, name: str = "") -> None:
        dist.barrier(group=self.control)

    def any(self, flag: bool) -> bool:
        return bool(self.ask([int(flag)]).result()[0])

    def ask(self, numbers: Sequence[int]) -> Answer:
        told = torch.tensor(numbers, dtype=torch.int32)
        work = dist.all_reduce(told, dist.ReduceOp.MAX, group=self.control, async_op=True)
        return _Pending(told, work)

    def compare(self, numbers: Sequence[float]) -> list[list[float]]:
        mine = torch.tensor(numbers, dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(found, mine, group=self.control)
        return [list(theirs.tolist()) for theirs in found]

    # ------------------------------------------------------------------ failures

    def failed(self, error: BaseException) -> BaseException:
        """Tell the other processes, or find out which of them it was.

        An error with a true attribute ``on_all_ranks`` ends all processes alike, at the same place.

        Returns:
            What to raise: the error itself, or a :class:`RankError` that names who failed first.
        """
        alike = isinstance(error, RankError) or getattr(error, "on_all_ranks", False)
        if self.broken or self.world_size == 1 or alike or not dist.is_initialized():
            return error
        self.broken = True
        text = str(error).lower()
        connection = isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError) and any(word in text for word in _BROKEN)
        )
        word = self._word(_WORD if connection else timedelta(0))
        if word is not None and isinstance(error, RuntimeError):
            return RankError(
                f"rank {self.global_rank} ends because rank {word['rank']} failed with "
                f"{word['type']}: {word['message']}\nIts own output shows where",
                (word["rank"],),
            )
        if connection:
            return RankError(
                f"rank {self.global_rank} lost another process, which ended without a word "
                "(killed, maybe for want of memory) or did not come within "
                f"{self.patience.total_seconds():g} s: {error}"
            )
        self._tell(error)
        # Whoever waits for this process now hears at once that it does not come.
        self.disconnect()
        return error

    def _key(self) -> str:
        return f"leyden/failed/{self._runs}"

    def _tell(self, error: BaseException) -> None:
        told = {"rank": self.global_rank, "type": type(error).__name__, "message": str(error)[:500]}
        with contextlib.suppress(Exception):  # the store may be gone with its process
            _store().compare_set(self._key(), "", json.dumps(told))

    def _word(self, wait: timedelta) -> dict[str, Any] | None:
        with contextlib.suppress(Exception):
            store = _store()
            if wait:
                store.wait([self._key()], wait)
            if store.check([self._key()]):
                found: dict[str, Any] = json.loads(store.get(self._key()))
                return found if found["rank"] != self.global_rank else None
        return None


def _store() -> Any:
    # torch has no public way to the store that the processes met at.
    return dist.distributed_c10d._get_default_store()

"""Keep the state of modules, optimizers, loaders and random streams in memory, and put it back."""

import copy
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from leyden.backends.xla.moving import put_data
from leyden.datamodule import LightningDataModule
from leyden.engine import rng
from leyden.engine.errors import MisconfigurationException

__all__ = ["Snapshot"]

# What is inside of longer containers is left alone: they hold data, not state.
_LONG = 100_000
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type)


class Snapshot:
    """The state of some objects at one moment; :meth:`restore` brings it back, bit for bit.

    Of modules, optimizers and schedulers it holds every attribute: parameters with their gradients,
    buffers, modes, tensors, numbers, lists and dicts, submodules that are added later are gone
    again. Objects among them that have ``state_dict`` and ``load_state_dict`` are asked for their
    state; of any others it holds the random generators inside. The global random streams of Python,
    NumPy and torch are part of it.

    It lies in the memory of the host, and nothing is written. Objects stay the same objects: who
    holds a parameter or a list sees its old contents again.

    As a context manager it restores at the end, whatever ended the block.

    Args:
        owners: modules, optimizers, schedulers, loaders, or lists of those.
        skip: objects not to look at.
        tensors: False: keep which tensor there is, not its contents (for data that nobody changes).

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> before = model.weight.clone()
        >>> with Snapshot(model):
        ...     model.train(False).weight.data.zero_()
        ...     drawn = torch.rand(1)
        tensor([[0., 0.]])
        >>> torch.equal(model.weight, before), model.training, torch.equal(torch.rand(1), drawn)
        (True, True, True)
    """

    def __init__(self, *owners: Any, skip: Iterable[Any] = (), tensors: bool = True) -> None:
        self._tensors = tensors
        self._undo: list[Callable[[], Any]] = []
        self._seen: dict[int, Any] = {id(one): one for one in skip}
        self._storages: dict[tuple[Any, int], int] = {}
        self._grad = torch.is_grad_enabled()
        self._streams = rng.capture()
        for owner in owners:
            self.add(owner)

    def add(self, owner: Any) -> None:
        """Keep the present state of one more object, unless it is kept already.

        Raises:
            MisconfigurationException: it has parameters that are not made yet.
        """
        if not isinstance(owner, (dict, list, set, tuple, deque)) and hasattr(owner, "__dict__"):
            if not _has_state(owner) or isinstance(owner, _FOLLOWED):
                self._attributes(owner)
                return
        self._walk(owner)

    def restore(self) -> None:
        """Bring the state back; it can be brought back again later.

        Raises:
            Exception: what the first ``load_state_dict`` raises that fails; all else is back then.
        """
        first: Exception | None = None
        for undo in self._undo:
            try:
                undo()
            except Exception as error:
                first = first or error
        rng.restore(self._streams)
        torch.set_grad_enabled(self._grad)
        if first is not None:
            raise first

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()

    # ------------------------------------------------------------------ kinds of objects

    def _walk(self, *values: Any) -> None:
        left = list(values)
        while left:
            value = left.pop()
            if isinstance(value, _PLAIN) or id(value) in self._seen:
                continue
            if isinstance(value, tuple):
                self._seen[id(value)] = value
                left += value
            elif isinstance(value, Tensor):
                self._tensor(value)
            elif isinstance(value, (dict, list, set, deque)):
                left += self._container(value)
            elif isinstance(value, _FOLLOWED):
                self._attributes(value)
            elif _has_state(value):
                self._stateful(value)
            else:
                self._generators(value)

    def _attributes(self, owner: Any) -> None:
        if id(owner) in self._seen:
            return
        self._seen[id(owner)] = owner
        kept = dict(vars(owner))

        def undo() -> None:
            attributes = vars(owner)
            attributes.clear()
            attributes.update(kept)

        self._undo.append(undo)
        self._walk(*kept.values())

    def _container(self, value: Any) -> list[Any]:
        self._seen[id(value)] = value
        kept = list(value.items()) if isinstance(value, dict) else list(value)
        kind: Any = _kind(value)

        def undo() -> None:
            # By the built-in's own methods: those of a subclass may do more than that.
            kind.clear(value)
            fill: Any = kind.extend if issubclass(kind, (list, deque)) else kind.update
            fill(value, kept)

        self._undo.append(undo)
        if len(kept) > _LONG:
            return []
        return [item for _, item in kept] if isinstance(value, dict) else kept

    def _stateful(self, value: Any) -> None:
        self._seen[id(value)] = value
        state = copy.deepcopy(value.state_dict())
        self._undo.append(lambda: value.load_state_dict(copy.deepcopy(state)))
        self._generators(value)

    def _generators(self, value: Any) -> None:
        self._seen[id(value)] = value
        for generator in rng.generators(value):
            # Found from several objects, read once: the first reading is the oldest.
            if generator is value or id(generator) not in self._seen:
                self._seen[id(generator)] = generator
                kept = rng.read(generator)
                self._undo.append(partial(rng.write, generator, kept))

    def _tensor(self, value: Tensor) -> None:
        self._seen[id(value)] = value
        if is_lazy(value):
            raise MisconfigurationException(
                "the model has parameters that are not made yet (a lazy layer): run a batch "
                "through it first, so that there is something to put back"
            )
        same = value.data  # the same memory, seen as it is now
        home, whole = value.device, value.layout is torch.strided and value.device.type != "xla"
        if self._tensors and home.type == "xla":
            same = value.detach().cpu()  # its memory is not to be seen
        elif self._tensors and not whole:
            same = value.detach().clone()  # its memory is in parts of its own
        elif self._tensors and value.device.type != "meta":
            self._contents(same)
        leaf = value.is_leaf
        gradient, wanted = (value.grad, value.requires_grad) if leaf else (None, False)

        def undo() -> None:
            if not _is_same(value, same):
                # A copy of the copy, which has to last for the next time.
                put_data(value, same if whole else same.clone().to(home))
            if leaf:
                value.requires_grad_(wanted)
                value.grad = gradient

        self._undo.append(undo)
        if gradient is not None:
            self._walk(gradient)

    def _contents(self, data: Tensor) -> None:
        # The whole memory, once for all tensors in it: views of it, tied weights, overlaps.
        storage: Any = data.untyped_storage()
        key = (data.device, storage.data_ptr())
        if self._storages.get(key, -1) >= storage.nbytes():
            return
        self._storages[key] = storage.nbytes()
        # In the host's memory: on the device there may be none to spare.
        copied = storage.clone() if data.device.type == "cpu" else storage.cpu()
        self._undo.append(partial(storage.copy_, copied, False))


_FOLLOWED = (nn.Module, Optimizer, LRScheduler, LightningDataModule)


def _has_state(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return callable(getattr(value, "state_dict", None)) and callable(
        getattr(value, "load_state_dict", None)
    )


def _kind(value: Any) -> Any:
    for kind in (OrderedDict, dict, list, deque):
        if isinstance(value, kind):
            return kind
    return set


def _is_same(value: Tensor, same: Tensor) -> bool:
    return (
        value.device == same.device
        and value.dtype == same.dtype
        and value.layout == same.layout
        and value.shape == same.shape
        and value.layout is torch.strided
        and value.data_ptr() == same.data_ptr()
        and value.stride() == same.stride()
    )

"""What a run asks of a strategy: which device and process this is, how processes work together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.backends.devices import use
from leyden.backends.environments import Environment
from leyden.backends.precision.base import Kind
from leyden.backends.xla.moving import move_module

__all__ = ["Answer", "Strategy"]


class Answer:
    """What was asked of all processes, as far as it is known at once.

    Args:
        numbers: the largest of each.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self._known = list(numbers)

    def result(self) -> list[int]:
        """Wait for all processes and return the largest of each number."""
        return self._known


class Strategy:
    """One process on one device: nothing is wrapped, nothing is sent.

    Another strategy overrides what it does differently. A run calls, in this order: :meth:`connect`
    before anything else; :meth:`place` before optimizers are made; :meth:`prepare` when model,
    optimizers and precision are ready; the step that :meth:`around` gave for each batch;
    :meth:`release` when the run ends, however it does. What talks to other processes is called by
    all of them, in the same order.

    A ready one can be passed as ``Trainer(plugins=...)``.

    Args:
        device: where the model and the batches of this process are.
        environment: which process this is among how many.

    Attributes:
        name: as ``Trainer(accelerator=...)`` takes it.
        writes_folders: whether a checkpoint is a directory, to which each process writes its part.
        active: False where training steps need nothing of it.
        shares_data: whether each process gets its own share of the samples.
        lazy: whether the device only records what is computed, until :meth:`mark`.
        averages_gradients: whether gradients are averaged by :meth:`average_gradients`, not during
            backward passes.
        join_uneven_inputs: whether processes may have different numbers of training batches.
        broken: whether the processes cannot talk any more: one of them failed.
        replaces_samplers: whether loaders get a sampler for this process's share.
        launcher: what starts the processes, where they have to be started; None: this process does
            the work itself.
        started_by: the launcher that started the others, of which this process is one.
    """

    name: ClassVar[str] = "single_device"
    active: ClassVar[bool] = False
    shares_data: ClassVar[bool] = False
    writes_folders: bool = False
    lazy: ClassVar[bool] = False
    averages_gradients: ClassVar[bool] = False
    join_uneven_inputs: bool = False

    def __init__(
        self, device: torch.device | str = "cpu", environment: Environment | None = None
    ) -> None:
        self.root_device = torch.device(device)
        self.environment = Environment() if environment is None else environment
        self.launcher: Any = None
        self.started_by: Any = None
        self.broken = False
        self.replaces_samplers = True

    # ------------------------------------------------------------------ who and where

    @property
    def global_rank(self) -> int:
        """The number of this process among all, from 0."""
        return self.environment.global_rank

    @property
    def local_rank(self) -> int:
        """The number of this process on its machine, from 0."""
        return self.environment.local_rank

    @property
    def node_rank(self) -> int:
        """The number of this machine, from 0."""
        return self.environment.node_rank

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self.environment.world_size

    @property
    def num_nodes(self) -> int:
        """The number of machines."""
        return self.environment.num_nodes

    # ------------------------------------------------------------------ one run

    def connect(self) -> None:
        """Join the other processes; does nothing where that was done."""

    def disconnect(self) -> None:
        """Leave the other processes, if it was leyden that joined them."""

    def place(self, model: nn.Module) -> None:
        """Bring the model to its device, in the shape in which it is trained.

        Optimizers are made afterwards: they hold the parameters that are there then.
        """
        use(self.root_device)
        move_module(model, self.root_device)

    def prepare(self, model: nn.Module, optimizers: Sequence[Optimizer], *, manual: bool) -> None:
        """Make ready for training steps; the precision has prepared model and optimizers.

        Args:
            model: on its device.
            optimizers: those of its parameters.
            manual: the user's step does its own backward passes.
        """

    def step_of(self, model: nn.Module, name: str, *, ends: bool) -> Callable[..., Any]:
        """Return the step of a model that :meth:`around` is put around.

        Args:
            model: on its device.
            name: of the method: ``training_step``, ``validation_step`` ...
            ends: whether the model has a method that finishes it (``training_step_end`` ...).
        """
        found: Callable[..., Any] = getattr(model, name)
        return found

    def around(
        self, step: Callable[..., Any], kind: Kind, closes: Callable[[], bool]
    ) -> Callable[..., Any]:
        """Return a step as it is to run; called only where :attr:`active` is True.

        Args:
            step: takes what ``training_step`` or ``validation_step`` takes.
            kind: "train"; "manual" where the step contains its backward passes; "evaluate".
            closes: whether gradients are complete with the batch at hand, so that they have to be
                brought together.
        """
        return step

    def before_backward(self, loss: Tensor) -> None:
        """Called before each backward pass of a manual step."""

    def after_backward(self) -> None:
        """Called after each backward pass of a manual step."""

    def average_gradients(self, optimizer: Optimizer) -> None:
        """Average the gradients that an optimizer is about to use over the processes."""

    def mark(self) -> None:
        """Run what was recorded: after each optimizer step, and after each evaluation batch."""

    def flush(self) -> None:
        """Run what was recorded between two steps, where :attr:`lazy` is True."""

    def release(self) -> None:
        """Take back what only a run needs."""

    def failed(self, error: BaseException) -> BaseException:
        """Tell the other processes of an error; return what is to be raised for it here."""
        return error

    # ------------------------------------------------------------------ data

    def share(self, loader: Any, *, train: bool, batches: bool = False) -> Any:
        """Return a loader over this process's share of the samples.

        Args:
            loader: the user's; it is left as it is.
            train: the share may be filled up to equal length; an evaluation counts every sample
                once.
            batches: the share is of whole batches, those that one process would see.
        """
        return loader

    def split_batch(self, batch: Any) -> Any:
        """Cut a batch on the device up among several, where one process drives them as one."""
        return batch

    # ------------------------------------------------------------------ talk

    def reduce(self, value: Tensor, op: str = "mean", group: Any = None) -> Tensor:
        """Bring a tensor of every process together: 'mean', 'sum', 'min' or 'max'."""
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """Return what each process brought, in their order; plain data."""
        return [value]

    def collect(self, value: Any) -> list[Any] | None:
        """Return what each process brought on the first one, None on the others; plain data."""
        return [value]

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """Return what the process ``source`` brought; plain data."""
        return value

    def barrier(self, name: str = "") -> None:
        """Wait until every process is here."""

    def ask(self, numbers: Sequence[int]) -> Answer:
        """Ask all processes for the largest of each number, without waiting for the answer."""
        return Answer(numbers)

    def compare(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return the numbers of each process, in their order."""
        return [list(numbers)]

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so; waits for all of them."""
        return flag

    # ------------------------------------------------------------------ state

    def writing_group(self) -> Any:
        """The processes that write a directory beside the training; None: this one alone."""
        return None

    def whole(self, value: Tensor) -> Tensor:
        """Return the whole of a tensor whose parts are on several processes."""
        return value

    def spread(self, value: Tensor, like: Tensor) -> Tensor:
        """Return this process's part of a whole tensor, as that of ``like``."""
        return value

    def model_state_dict(self, model: nn.Module) -> dict[str, Any]:
        """Return the whole model's state, on every process that will write it."""
        return model.state_dict()

    def load_model_state_dict(self, model: nn.Module, state: Any, *, strict: bool = True) -> Any:
        """Load a whole model's state into this process's part of it."""
        return model.load_state_dict(state, strict=strict)

    def optimizer_state_dict(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state of an optimizer, by parameter number as torch does."""
        return optimizer.state_dict()

    def load_optimizer_state_dict(
        self, model: nn.Module, optimizer: Optimizer, state: dict[str, Any]
    ) -> None:
        """Load what :meth:`optimizer_state_dict` gave."""
        optimizer.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """What the next process of this rank needs to go on bit for bit, as plain data."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""

    def __repr__(self) -> str:
        place = f"rank {self.global_rank} of {self.world_size}" if self.world_size > 1 else ""
        return f"{type(self).__name__}({str(self.root_device)!r}{', ' + place if place else ''})"

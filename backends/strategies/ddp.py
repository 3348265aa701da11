"""One process a device, each with the whole model: torch's DistributedDataParallel."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from leyden.backends.environments import Environment
from leyden.backends.precision.base import Kind
from leyden.backends.strategies.processes import ProcessStrategy
from leyden.backends.strategies.uneven import Uneven, shared_from, zeros_of
from leyden.engine.errors import MisconfigurationException
from leyden.engine.notice import warn
from leyden.engine.step import needs_closure

__all__ = ["DDPStrategy"]


class _Call(nn.Module):
    """Lets DistributedDataParallel run any function over a model's parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


class _QuietReducer:
    """Stands for a reducer until it has prepared its first backward pass.

    There torch warns, past Python's filters, where ``find_unused_parameters=True`` found nothing.
    Leyden asks for it by itself, so that nobody would know what to do about that warning. Inside of
    ``apply_`` warnings of C++ become Python's.
    """

    def __init__(self, ddp: DistributedDataParallel) -> None:
        self._ddp = ddp
        self._reducer: Any = ddp.reducer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def prepare_for_backward(self, tensors: list[Tensor]) -> None:
        self._ddp.reducer = self._reducer

        def prepare(number: float) -> float:
            self._reducer.prepare_for_backward(tensors)
            return number

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
            torch.zeros(1).apply_(prepare)


class DDPStrategy(ProcessStrategy):
    """Every process holds the whole model and a share of the data; gradients are averaged.

    The average is taken while the backward pass runs, only where gradients are complete: the
    batches before, of an accumulation, send nothing.

    Args:
        device: of this process.
        environment: which process this is.
        timeout: how long the processes look for one another.
        patience: how long one waits in a run for another that is late.
        process_group_backend: "nccl", "gloo" ...; None: what suits the device.
        ask_every: batches at most between two questions to all whether somebody wants to stop.
        ddp_options: arguments of DistributedDataParallel, such as ``find_unused_parameters``
            (default True, as in Lightning 1.1), ``static_graph``, ``gradient_as_bucket_view``,
            ``bucket_cap_mb``.
        join_uneven_inputs: let processes have different numbers of training batches, as torch's
            ``Join`` does: those that have run out add zeros to the gradients of the others until
            all have. Every sample is trained on, and all processes make the same steps.
        divide_by_initial_world_size: divide sums of such gradients by the number of all processes,
            so that each sample counts alike; False: by the number of those that had a batch.

    Raises:
        MisconfigurationException: for ``join_uneven_inputs`` where a process without a batch cannot
            know what the others send.
    """

    name: ClassVar[str] = "ddp"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        environment: Environment | None = None,
        *,
        timeout: timedelta = timedelta(seconds=60),
        patience: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
        ask_every: int = 32,
        join_uneven_inputs: bool = False,
        divide_by_initial_world_size: bool = True,
        **ddp_options: Any,
    ) -> None:
        super().__init__(
            device,
            environment,
            timeout=timeout,
            patience=patience,
            process_group_backend=process_group_backend,
            ask_every=ask_every,
        )
        self.ddp_options = ddp_options
        for name, value in (
            ("join_uneven_inputs", join_uneven_inputs),
            ("divide_by_initial_world_size", divide_by_initial_world_size),
        ):
            if not isinstance(value, bool):
                raise MisconfigurationException(f"{name}={value!r} is neither True nor False")
        self.join_uneven_inputs = join_uneven_inputs
        self.divide_by_initial_world_size = divide_by_initial_world_size
        self.uneven = Uneven()
        if join_uneven_inputs and ddp_options.get("static_graph"):
            raise MisconfigurationException(
                "join_uneven_inputs=True does not go with static_graph=True: a process that has "
                "run out of batches computes another graph than before. Leave one of them out"
            )
        self.ddp: DistributedDataParallel | None = None
        self._manual = False
        self._order: list[int] = []  # in which the gradients of the first step were ready
        self._hooks: list[Any] = []

    def prepare(self, model: nn.Module, optimizers: Sequence[Optimizer], *, manual: bool) -> None:
        self._manual = manual
        self.ddp = None
        self._refuse_unknown(optimizers)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return
        options: dict[str, Any] = {"find_unused_parameters": True, **self.ddp_options}
        if options.get("static_graph"):
            options["find_unused_parameters"] = self.ddp_options.get(
                "find_unused_parameters", False
            )
        self.ddp = DistributedDataParallel(_Call(model), device_ids=self.device_ids(), **options)
        self._watch_order(self.ddp)
        if self.ddp.find_unused_parameters and "find_unused_parameters" not in self.ddp_options:
            quiet: Any = _QuietReducer(self.ddp)
            self.ddp.reducer = quiet

    def device_ids(self) -> list[torch.device] | None:
        """The one device that the model is on, as DistributedDataParallel wants to know it."""
        return [self.root_device] if self.root_device.type == "cuda" else None

    def around(
        self, step: Callable[..., Any], kind: Kind, closes: Callable[[], bool]
    ) -> Callable[..., Any]:
        ddp = self.ddp
        if ddp is None or kind == "evaluate":
            return step

        if kind == "manual":

            def by_hand(*args: Any, **kwargs: Any) -> Any:
                # The step's own backward passes begin before this forward ends: each is prepared
                # by itself.
                ddp.require_backward_grad_sync = False
                try:
                    return ddp(step, *args, **kwargs)
                finally:
                    ddp.require_backward_grad_sync = True
                    ddp.require_forward_param_sync = True  # buffers, in the next forward

            return by_hand

        # A static graph is learnt in the first backward pass, and only where that one sends. What
        # it averages is averaged once more with the rest of its group, which changes nothing.
        learns = bool(ddp.static_graph)
        if self.join_uneven_inputs and self.world_size > 1:
            unused = bool(ddp.find_unused_parameters)
            step = self.uneven.instead_of(step, ddp.module, finds_unused=unused)

        def synchronised(*args: Any, **kwargs: Any) -> Any:
            nonlocal learns
            if self._hooks and len(self._order) == len(self._hooks):
                self._unwatch_order()
            ddp.require_backward_grad_sync = closes() or learns
            learns = False
            return ddp(step, *args, **kwargs)

        return synchronised

    def before_backward(self, loss: Tensor) -> None:
        ddp = self.ddp
        if ddp is None or not self._manual:
            return
        # Not require_backward_grad_sync: the end of the forward around it would prepare once more.
        ddp.reducer.prepare_for_backward([loss] if ddp.find_unused_parameters else [])

    def _refuse_unknown(self, optimizers: Sequence[Optimizer]) -> None:
        """Refuse steps with a number of backward passes that only who has a batch knows."""
        if not self.join_uneven_inputs or self.world_size == 1:
            return
        searching = [type(o).__name__ for o in optimizers if needs_closure(o)]
        why = "self.automatic_optimization=False" if self._manual else ", ".join(searching)
        if why:
            raise MisconfigurationException(
                f"join_uneven_inputs=True does not go with {why}: how many backward passes a step "
                "takes is known only where there is a batch for it. Leave one of them out"
            )

    def share_buffers(self, rank: int) -> None:
        """Give all processes the buffers of one, as before each step those of the first."""
        if self.ddp is not None and self.ddp.broadcast_buffers:
            shared_from(rank, list(self.ddp.module.buffers()))

    def release(self) -> None:
        super().release()
        self._unwatch_order()
        self.ddp = None

    # ------------------------------------------------------------------ state

    def _watch_order(self, ddp: DistributedDataParallel) -> None:
        """Note the order in which the gradients of the first step are ready.

        By it torch puts them together anew for the second. What it was cannot be asked of torch
        before some steps later.
        """
        self._unwatch_order()
        self._order = []
        if ddp.find_unused_parameters or ddp.static_graph:
            return

        def noting(index: int) -> Callable[[Tensor], None]:
            def note(parameter: Tensor) -> None:
                if ddp.require_backward_grad_sync:
                    self._order.append(index)

            return note

        trained = [p for p in ddp.module.parameters() if p.requires_grad]
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(noting(index))
            for index, parameter in enumerate(trained)
        ]

    def _unwatch_order(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def state_dict(self) -> dict[str, Any]:
        """The order by which torch put the gradients together.

        With three or more processes the order of an addition depends on it, and with it the last
        bits of the gradients.
        """
        if self.ddp is not None and self.ddp.static_graph:
            return {"static_graph": True}
        return {"ready_order": list(self._order)} if self._order else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let torch see that order once more: by one backward pass of zeros that changes nothing.

        All processes do so together, before the first step of a run that goes on.
        """
        order, ddp = state.get("ready_order"), self.ddp
        if state.get("static_graph") and self.world_size > 2 and self.global_rank == 0:
            warn(
                "static_graph=True: the last bits of gradients may differ from those of the run "
                "that was stopped, since torch learns the graph anew; leave it out to go on bit "
                "for bit with three or more processes",
                UserWarning,
            )
        if not order or ddp is None or not self._hooks:
            return
        parameters = [p for p in ddp.module.parameters() if p.requires_grad]
        if sorted(order) != list(range(len(parameters))):
            return
        self._unwatch_order()
        self._order = list(order)
        kept = [parameter.grad for parameter in parameters]

        def zeros() -> Tensor:
            # What is made last is gone through first on the way back.
            return zeros_of([parameters[i] for i in reversed(order)])

        ddp.require_backward_grad_sync = True
        ddp(zeros).backward()
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient

"""Every process holds a part of each parameter: torch's fully sharded data parallelism (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.backends.environments import Environment
from leyden.backends.precision.base import Kind
from leyden.backends.strategies.processes import ProcessStrategy
from leyden.backends.sync_batchnorm import synchronised
from leyden.engine.errors import MisconfigurationException

__all__ = ["FSDPStrategy"]

#: Which modules are gathered and freed as one: classes, or a function that says so of a module.
Wrapping = Iterable[type[nn.Module]] | Callable[[nn.Module], bool] | None


class FSDPStrategy(ProcessStrategy):
    """Parameters, gradients and optimizer states are spread over the processes.

    Each parameter is whole only while it is computed with. The losses are those of ``ddp``: the
    sums are the same, in another order.

    A module that calls ``fully_shard`` itself, in ``configure_model`` or
    ``configure_sharded_model`` (both are called before optimizers are made), is taken as it is. Any
    other is sharded here.

    Args:
        device: of this process.
        environment: which process this is.
        timeout: how long the processes look for one another.
        patience: how long one waits in a run for another that is late.
        process_group_backend: "nccl", "gloo" ...; None: what suits the device.
        ask_every: batches at most between two questions to all whether somebody wants to stop.
        auto_wrap_policy: which submodules are gathered one at a time: classes of modules, or a
            function of a module. None: the model as a whole, which is right for every model and
            saves the least; under manual optimization each module that has parameters of its own,
            since backward passes inside the step find nothing gathered for the whole. A submodule
            that is gathered by itself has to be called, not only its parameters used.
        reshard_after_forward: free whole parameters between forward and backward pass.
        cpu_offload: keep parameters, gradients and optimizer states in the memory of the host.
        state_dict_type: "sharded": a checkpoint is a directory to which each process writes its
            part; "full": one file, gathered at the first process.
        sync_each_batch: send gradients after every batch of an accumulation, so that they stay
            spread over the processes, and a run that is killed inside of one goes on exactly.
            False sends them once a group: whole gradients take the memory of the whole model then,
            and a checkpoint inside a group does not hold them.

    Raises:
        MisconfigurationException: torch is older than 2.6, which has no FSDP2.

    Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel",
    arXiv:2304.11277; ``fully_shard`` of torch.
    """

    name: ClassVar[str] = "fsdp"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        environment: Environment | None = None,
        *,
        timeout: timedelta = timedelta(seconds=60),
        patience: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
        ask_every: int = 32,
        auto_wrap_policy: Wrapping = None,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
        state_dict_type: str = "sharded",
        sync_each_batch: bool = True,
    ) -> None:
        super().__init__(
            device,
            environment,
            timeout=timeout,
            patience=patience,
            process_group_backend=process_group_backend,
            ask_every=ask_every,
        )
        if state_dict_type not in ("sharded", "full"):
            raise MisconfigurationException(
                f"state_dict_type={state_dict_type!r} is unknown: pass 'sharded' for a directory "
                "that all processes write, or 'full' for one file"
            )
        _fully_shard()
        self.auto_wrap_policy = auto_wrap_policy
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload
        self.state_dict_type = state_dict_type
        self.writes_folders = state_dict_type == "sharded"
        self.sync_each_batch = sync_each_batch
        self._model: Any = None
        self._writing: Any = None

    # ------------------------------------------------------------------ one run

    def place(self, model: nn.Module) -> None:
        if not _is_sharded(model):
            if self.sync_batchnorm and self.world_size > 1:
                synchronised(model)  # for good: its modules do not become what they were either
            self._shard(model)
        self._model = model

    def _shard(self, model: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy

        fully_shard = _fully_shard()
        if not self.cpu_offload:
            model.to(self.root_device)
        options: dict[str, Any] = {
            "mesh": init_device_mesh(self.root_device.type, (self.world_size,)),
            # Inputs stay as they are: autocast converts what is worth it, targets keep their type.
            "mp_policy": MixedPrecisionPolicy(cast_forward_inputs=False),
        }
        if self.cpu_offload:
            options["offload_policy"] = CPUOffloadPolicy()
        # From the leaves up: a parameter belongs to the innermost module that was named.
        for module in reversed(list(model.modules())):
            if module is not model and self._wraps(model, module):
                fully_shard(module, reshard_after_forward=self.reshard_after_forward, **options)
        fully_shard(model, reshard_after_forward=self.reshard_after_forward, **options)

    def _wraps(self, model: nn.Module, module: nn.Module) -> bool:
        policy = self.auto_wrap_policy
        if policy is None:
            by_hand = not getattr(model, "automatic_optimization", True)
            return by_hand and any(True for _ in module.parameters(recurse=False))
        if callable(policy) and not isinstance(policy, type):
            return bool(policy(module))
        kinds = (policy,) if isinstance(policy, type) else tuple(policy)
        return isinstance(module, kinds)

    def prepare(self, model: nn.Module, optimizers: Sequence[Optimizer], *, manual: bool) -> None:
        known = {id(parameter) for parameter in model.parameters()}
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if any(id(parameter) not in known for parameter in group["params"]):
                    raise MisconfigurationException(
                        f"{type(optimizer).__name__} holds parameters that the model no longer has:"
                        " fsdp puts sharded ones in their place. Make the optimizer of "
                        "self.parameters() in configure_optimizers"
                    )

    def around(
        self, step: Callable[..., Any], kind: Kind, closes: Callable[[], bool]
    ) -> Callable[..., Any]:
        model = self._model
        if kind == "evaluate":
            return lambda *args, **kwargs: _as_forward(model, step, args, kwargs)

        buffers = [buffer for buffer in model.buffers() if type(buffer) is Tensor]

        opens = True

        def sharded(*args: Any, **kwargs: Any) -> Any:
            nonlocal opens
            closing = kind == "manual" or closes()
            if buffers and opens:
                _repeat_first(buffers)
            opens = closing
            if not self.sync_each_batch:
                model.set_requires_gradient_sync(closing)
            return _as_forward(model, step, args, kwargs)

        return sharded

    # ------------------------------------------------------------------ state

    def writing_group(self) -> Any:
        """The group over which checkpoints are written beside the training; all ask for it."""
        if self._writing is None:
            self._writing = dist.new_group(backend="gloo", timeout=self.patience)
        return self._writing

    def disconnect(self) -> None:
        self._writing = None
        super().disconnect()

    def whole(self, value: Tensor) -> Tensor:
        found: Tensor = _whole(value)
        return found

    def spread(self, value: Tensor, like: Tensor) -> Tensor:
        found: Tensor = _spread(value, like)
        return found

    def model_state_dict(self, model: nn.Module) -> dict[str, Any]:
        return {name: _whole(value) for name, value in model.state_dict().items()}

    def load_model_state_dict(self, model: nn.Module, state: Any, *, strict: bool = True) -> Any:
        own = model.state_dict()
        spread = {name: _spread(value, own.get(name)) for name, value in state.items()}
        return model.load_state_dict(spread, strict=strict)

    def optimizer_state_dict(self, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        kept = optimizer.state_dict()
        states = {
            number: {name: _whole(value) for name, value in state.items()}
            for number, state in kept["state"].items()
        }
        return {**kept, "state": states}

    def load_optimizer_state_dict(
        self, model: nn.Module, optimizer: Optimizer, state: dict[str, Any]
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        states = {
            number: {
                # Moments have the shape of their parameter and lie where its parts lie.
                name: _spread(value, parameters[number])
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": states})


def _fully_shard() -> Any:
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise MisconfigurationException(
            f"accelerator='fsdp' needs torch 2.6 or later, this is {torch.__version__}: use "
            "accelerator='ddp', or a later torch"
        ) from None
    return fully_shard


def _is_sharded(model: nn.Module) -> bool:
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def _as_forward(
    model: nn.Module, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a step as the model's forward: the hooks that gather its parameters sit around that."""
    own = vars(model).get("forward")

    def forward(*args: Any, **kwargs: Any) -> Any:
        _restore(model, own)
        return step(*args, **kwargs)

    vars(model)["forward"] = forward
    try:
        return model(*args, **kwargs)
    finally:
        _restore(model, own)


def _restore(model: nn.Module, own: Any) -> None:
    if own is not None:
        vars(model)["forward"] = own
    else:
        vars(model).pop("forward", None)


def _repeat_first(buffers: Sequence[Tensor]) -> None:
    """Give every process the buffers of the first, such as running means: once a group, as DDP."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for buffer in buffers:
        kinds.setdefault(buffer.dtype, []).append(buffer)
    for same in kinds.values():
        flat = torch.cat([buffer.detach().reshape(-1) for buffer in same])
        dist.broadcast(flat, 0)
        at = 0
        for buffer in same:
            buffer.detach().copy_(flat[at : at + buffer.numel()].view_as(buffer))
            at += buffer.numel()


def _whole(value: Any) -> Any:
    gather = getattr(value, "full_tensor", None)
    found = value if gather is None else gather()
    return found.detach().cpu() if isinstance(found, Tensor) else found


def _spread(value: Any, like: Any) -> Any:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or not isinstance(value, Tensor):
        return value
    if isinstance(value, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)

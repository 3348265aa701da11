"""One process that drives several devices: each batch is cut, each device does a part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from leyden.backends.environments import Environment
from leyden.backends.strategies.base import Strategy
from leyden.backends.strategies.ddp import DDPStrategy
from leyden.engine.errors import MisconfigurationException

__all__ = ["DDP2Strategy", "DataParallelStrategy", "Replicas", "gathered", "reduced"]


class Replicas:
    """Does a step on several devices at once: torch's ``DataParallel``, for any method of a model.

    Args:
        devices: where the replicas are; the first holds the model itself.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self.devices = list(devices)

    def scatter(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        """Cut the tensors among the arguments along their first dimension, one part a device."""
        from torch.nn.parallel.scatter_gather import scatter_kwargs

        return scatter_kwargs(arguments, options, self.devices)

    def replicate(self, model: nn.Module, count: int) -> list[Any]:
        """Copy the model to the first ``count`` devices; gradients flow back to the model."""
        from torch.nn.parallel import replicate

        return list(replicate(model, self.devices[:count], not torch.is_grad_enabled()))

    def apply(self, steps: Sequence[Callable[..., Any]], arguments: Any, options: Any) -> list[Any]:
        """Call each step with its part, all at once."""
        from torch.nn.parallel import parallel_apply

        calls: Any = [_Step(step) for step in steps]
        return list(parallel_apply(calls, arguments, options, self.devices[: len(calls)]))


class _Step(nn.Module):
    def __init__(self, step: Callable[..., Any]) -> None:
        super().__init__()
        self.step = step

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.step(*arguments, **options)


class _Logged:
    """Takes what a replica logs, to be put together with what the others logged."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[Any, dict[str, Any]]] = {}

    def log(self, name: str, value: Any, **options: Any) -> None:
        self.values[name] = (value, options)


class _Parallel:
    """A step of a model, done by all replicas."""

    def __init__(self, replicas: Any, model: nn.Module, name: str, reduce: bool) -> None:
        self.replicas = replicas
        self.model = model
        self.name = name
        self.reduce = reduce
        self.root = replicas.devices[0]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        parts, named = self.replicas.scatter(arguments, options)
        models = self.replicas.replicate(self.model, len(parts))
        logs = []
        for model in models:
            logs.append(_Logged())
            # Past nn.Module: it must not become a submodule, nor reach the model itself.
            model.__dict__["log"] = logs[-1].log
            model.__dict__["log_dict"] = _log_dict(logs[-1])
        try:
            steps = [getattr(model, self.name) for model in models]
            outputs = self.replicas.apply(steps, parts, named)
        finally:
            for model in models:
                del model.__dict__["log"], model.__dict__["log_dict"]
        self._log(logs)
        together = gathered(outputs, self.root)
        return reduced(together, len(outputs)) if self.reduce else together

    def _log(self, logs: Sequence[_Logged]) -> None:
        model: Any = self.model
        for name, (_, options) in logs[0].values.items():
            values = [log.values[name][0] for log in logs if name in log.values]
            if isinstance(values[0], (int, float, Tensor)):
                numbers = [torch.as_tensor(value).to(self.root).float() for value in values]
                model.log(name, torch.stack(numbers).mean(), **options)
            else:
                model.log(name, values[0], **options)


def _log_dict(log: _Logged) -> Callable[..., None]:
    def log_dict(dictionary: Mapping[str, Any], **options: Any) -> None:
        for name, value in dictionary.items():
            log.log(name, value, **options)

    return log_dict


def gathered(outputs: Sequence[Any], device: torch.device | str) -> Any:
    """Put together what the replicas returned, on one device.

    Single numbers become a vector with one for each replica, tensors with a batch dimension are
    joined along it; looks into mappings and sequences.

    Raises:
        MisconfigurationException: the replicas returned different kinds of things.
    """
    first = outputs[0]
    if any(type(output) is not type(first) for output in outputs):
        kinds = ", ".join(sorted({type(output).__name__ for output in outputs}))
        raise MisconfigurationException(
            f"the parts of one batch returned different things ({kinds}): a step under "
            "accelerator='dp' has to return the same kind for every part, and None for all or none"
        )
    if isinstance(first, Tensor):
        moved = [output.to(device) for output in outputs]
        return torch.stack(moved) if first.dim() == 0 else torch.cat(moved)
    if isinstance(first, (bool, int, float)):
        return torch.tensor([float(output) for output in outputs], device=device)
    if isinstance(first, Mapping):
        return {name: gathered([output[name] for output in outputs], device) for name in first}
    if isinstance(first, (list, tuple)) and not isinstance(first, str):
        return type(first)(
            [gathered(list(values), device) for values in zip(*outputs, strict=True)]
        )
    return first


def reduced(output: Any, count: int) -> Any:
    """Average what holds one value for each of ``count`` replicas; the rest stays as it is.

    Source: Lightning 1.1, where no ``training_step_end`` does it.
    """
    if isinstance(output, Tensor):
        single = output.dim() == 1 and output.numel() == count
        return output.mean() if single and output.is_floating_point() else output
    if isinstance(output, Mapping):
        return {name: reduced(value, count) for name, value in output.items()}
    return output


class _SeveralDevices:
    """What a strategy does that cuts each batch among devices of its process."""

    def _use(self, devices: Sequence[torch.device | str], replicas: Any) -> None:
        self.devices = [torch.device(device) for device in devices]
        self.replicas = Replicas(self.devices) if replicas is None else replicas

    def step_of(self, model: nn.Module, name: str, *, ends: bool) -> Callable[..., Any]:
        return _Parallel(self.replicas, model, name, reduce=not ends)


class DataParallelStrategy(_SeveralDevices, Strategy):
    """One process, several devices: each batch is cut, its parts are computed at the same time.

    ``training_step`` sees a part of the batch, ``training_step_end`` what all parts returned; where
    there is none, losses and other single numbers are averaged. What parts log is averaged, too.

    Args:
        devices: at least two.
        replicas: does a step on them; None: torch's ``DataParallel``.

    Raises:
        MisconfigurationException: there are fewer than two devices.

    Source: Lightning 1.1.
    """

    name: ClassVar[str] = "dp"

    def __init__(
        self,
        devices: Sequence[torch.device | str],
        environment: Environment | None = None,
        *,
        replicas: Any = None,
    ) -> None:
        if len(devices) < 2:
            raise MisconfigurationException(
                f"accelerator='dp' cuts each batch among devices, and there is {len(devices)}: pass"
                " gpus=2 or more, or leave accelerator out"
            )
        super().__init__(devices[0], environment)
        self._use(devices, replicas)


class DDP2Strategy(_SeveralDevices, DDPStrategy):
    """One process a machine, which drives all its devices; the machines average their gradients.

    Args:
        devices: of this machine.
        environment: which machine this is.
        replicas: does a step on the devices; None: torch's ``DataParallel``.
        options: of :class:`DDPStrategy`.

    Source: Lightning 1.1.
    """

    name: ClassVar[str] = "ddp2"

    def __init__(
        self,
        devices: Sequence[torch.device | str],
        environment: Environment | None = None,
        *,
        replicas: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(devices[0], environment, **options)
        self._use(devices, replicas)

    def device_ids(self) -> list[torch.device] | None:
        return None  # the model of a machine is on several

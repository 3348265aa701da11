"""The plain functions behind methods of LightningModule."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from leyden.backends.gathering import gathered
from leyden.engine.notice import warn
from leyden.exceptions import MisconfiguredValue
from leyden.handlers.gradient_clipping import clip_gradients as clip
from leyden.handlers.gradient_norm import gradient_norms
from leyden.transfer import apply_to_tensors

__all__ = [
    "Toggles",
    "all_gather",
    "clip_gradients",
    "grad_norm",
    "progress_items",
    "warn_tbptt_reduction",
]


class Toggles:
    """Which parameters are frozen while one optimizer trains, and what they were before.

    Toggles nest: each keeps what it found, and undoing it brings that back.
    """

    def __init__(self) -> None:
        # (the optimizer, {parameter: requires_grad before}) for each toggle not undone yet.
        self._stack: list[tuple[Any, dict[nn.Parameter, bool]]] = []

    def push(self, optimizer: Any, optimizers: Iterable[Any]) -> None:
        """Leave only the parameters of ``optimizer`` training.

        Args:
            optimizer: The one to train.
            optimizers: All optimizers of the module.
        """
        mine = set(_parameters(optimizer))
        before = {p: p.requires_grad for other in optimizers for p in _parameters(other)}
        before.update({p: p.requires_grad for p in mine})
        original = {**before, **self._original()} if self._stack else before
        for parameter, required in before.items():
            wanted = original[parameter] and parameter in mine
            if wanted is not required:
                parameter.requires_grad = wanted
        self._stack.append((optimizer, before))

    def pop(self, optimizer: Any = None) -> None:
        """Undo toggles back to and with that of ``optimizer``; the last one for None.

        An optimizer that is not toggled changes nothing.
        """
        if optimizer is None:
            depth = len(self._stack) - 1
        else:
            mine = set(_parameters(optimizer))
            depths = [i for i, (one, _) in enumerate(self._stack) if set(_parameters(one)) == mine]
            depth = depths[-1] if depths else len(self._stack)
        while len(self._stack) > max(depth, 0):
            for parameter, required in self._stack.pop()[1].items():
                parameter.requires_grad = required

    def clear(self) -> None:
        """Undo all; the run does this when a step ends, by an exception too."""
        while self._stack:
            self.pop()

    def _original(self) -> dict[nn.Parameter, bool]:
        original: dict[nn.Parameter, bool] = {}
        for _, before in reversed(self._stack):
            original.update(before)
        return original


def _parameters(optimizer: Any) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def clip_gradients(parameters: Iterable[Tensor], value: float, algorithm: str) -> None:
    """Clip gradients in place.

    Args:
        parameters: Whose gradients; those without one are passed over.
        value: The largest norm of all together, or the largest absolute value; 0 for no clipping.
        algorithm: ``"norm"`` (Euclidean) or ``"value"``.
    """
    if algorithm not in ("norm", "value"):
        raise MisconfiguredValue(
            f"gradient_clip_algorithm={algorithm!r} is unknown: use 'norm' or 'value'"
        )
    if value < 0:
        raise MisconfiguredValue(
            f"gradient_clip_val={value} is negative: pass a number above 0, or 0 for no clipping"
        )
    if value != 0:
        clip(parameters, value, algorithm)


def grad_norm(named: Iterable[tuple[str, Tensor]], norm_type: float) -> dict[str, float]:
    """Return the norms of gradients by name, and of all, rounded to 4 digits.

    Waits for the device once, whatever the number of parameters.

    Args:
        named: Names and parameters.
        norm_type: The p of the norm; infinity for the largest value.
    """
    if not norm_type > 0:
        raise MisconfiguredValue(
            f"norm_type={norm_type} is no norm: pass a number above 0 or 'inf'"
        )
    norms = gradient_norms(named, norm_type)
    if not norms:
        return {f"grad_{norm_type}_norm_total": 0.0}
    values = torch.stack([norm.float() for norm in norms.values()]).tolist()
    return {name: round(value, 4) for name, value in zip(norms, values, strict=True)}


def all_gather(data: Any, group: Any, sync_grads: bool) -> Any:
    """Gather tensors from all processes; see ``LightningModule.all_gather``."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return data

    def gather(tensor: Tensor) -> Tensor:
        return gathered(tensor, group, gradients=sync_grads)

    return apply_to_tensors(data, gather)


def warn_tbptt_reduction(name: str) -> None:
    """Say that a reduction of its own for the splits of a batch is not built."""
    warn(
        f"self.log({name!r}): tbptt_reduce_fx and tbptt_pad_token have no effect, the splits of a "
        "batch are reduced by reduce_fx: leave both out",
    )


def progress_items(trainer: Any) -> dict[str, Any]:
    """Return what the progress bar shows; see ``LightningModule.get_progress_bar_dict``."""
    if trainer is None:
        return {}
    loss = trainer.running_loss
    items: dict[str, Any] = {"loss": f"{float('nan' if loss is None else loss):.3g}"}
    if trainer.truncated_bptt_steps is not None:
        items["split_idx"] = trainer.split_idx
    version = getattr(trainer.logger, "version", None)
    if version is not None:
        items["v_num"] = version[-4:] if isinstance(version, str) else version
    return items

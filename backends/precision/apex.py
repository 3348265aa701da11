"""NVIDIA's own ``apex.amp``, where it is installed and asked for: as Lightning 1.1 ran it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.backends.precision.base import Precision, refuse_reevaluation
from leyden.backends.precision.levels import LEVELS
from leyden.engine.errors import MisconfigurationException, MisconfiguredValue, NotBuilt

__all__ = ["ApexPrecision", "apex_amp"]


def apex_amp() -> Any:
    """Return the module ``apex.amp``; None where there is none.

    A package of another project is called apex, too: what counts is what is inside.
    """
    try:
        amp = import_module("apex.amp")
    except Exception:  # whatever an installation that does not fit this torch raises
        return None
    return amp if callable(getattr(amp, "initialize", None)) else None


class ApexPrecision(Precision):
    """Computes by the real apex, which patches torch, the model and its optimizers.

    What it patches stays patched: apex knows no way back. Models are called as ``self(x)`` in a
    step, since apex converts the inputs of ``forward`` alone. Under O2 the float32 weights are
    saved beside the scale, so that a resumed run is exact, which apex alone is not.

    Args:
        level: "O0" to "O3".
        device: the type of device that computes.
        amp: stands in for the module ``apex.amp``.

    State: apex's, under the key of Lightning 1.1, and the float32 weights of O2.

    Raises:
        NotBuilt: where there is no apex, or no CUDA device for it.

    Source: PyTorch Lightning 1.1. It clipped the scaled gradients of the model; here those of the
    float32 weights are clipped, and gradients of the model are shown as they step.
    """

    active: ClassVar[bool] = True
    checkpoint_key: str | None = "amp_scaling_state"

    def __init__(self, level: str = "O2", *, device: str = "cuda", amp: Any = None) -> None:
        if level not in LEVELS:
            raise MisconfiguredValue(
                f"amp_level={level!r} is unknown: pass one of {', '.join(LEVELS)}"
            )
        super().__init__("16")
        self.level = level
        self._amp = apex_amp() if amp is None else amp
        if self._amp is None:
            raise NotBuilt(
                "plugins='apex' asks for NVIDIA's apex, and there is no apex.amp.initialize to "
                "import here: build apex 25.05 or older from its source, or pass "
                "amp_backend='apex', which has the same levels without it"
            )
        if amp is None and device != "cuda":
            raise NotBuilt(
                f"plugins='apex' computes on CUDA devices, and this run is on {device}: pass "
                "gpus=1, or amp_backend='apex', whose levels run on any device"
            )
        self.optimizers: list[Optimizer] = []
        self._model: nn.Module | None = None

    def prepare(
        self, model: nn.Module, optimizers: Sequence[Optimizer] = (), *, fresh: bool = True
    ) -> None:
        refuse_reevaluation(f"16, amp_level={self.level!r}", optimizers)
        if not optimizers or (not fresh and model is self._model):
            return
        self.optimizers, self._model = list(optimizers), model
        self.count_from(0)
        try:
            self._amp.initialize(model, self.optimizers, opt_level=self.level)
        except RuntimeError as error:
            raise MisconfigurationException(
                f"plugins='apex': apex refuses {type(model).__name__} ({error}). It patches a "
                "model once, for good: make it anew for each Trainer, with float32 weights"
            ) from error
        for optimizer in self.optimizers:
            untyped: Any = optimizer
            # By itself apex makes float32 weights at the first backward pass: too late to load
            # into them what a checkpoint holds.
            if not untyped._amp_stash.lazy_init_called:
                untyped._lazy_init_maybe_master_weights()
                untyped._amp_stash.lazy_init_called = True

    def backward(
        self, run: Callable[[Tensor], Any], loss: Tensor, optimizer: Optimizer | None
    ) -> None:
        turns = self.optimizers if optimizer is None else [optimizer]
        with self._amp.scale_loss(loss, turns) as scaled:
            run(scaled)

    def stepped(self, model: nn.Module) -> Iterable[Tensor]:
        full = {id(half): full for o in self.optimizers for half, full in self._pairs(o)}
        return [full.get(id(parameter), parameter) for parameter in model.parameters()]

    def gradients_ready(self, optimizer: Optimizer) -> None:
        for half, full in self._pairs(optimizer):
            # apex leaves it scaled there, and looks at it no more.
            half.grad = None if full.grad is None else full.grad.to(half.dtype)

    def step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        result = None if closure is None else closure()
        stash = getattr(optimizer, "_amp_stash", None)
        # Where a gradient overflowed apex has put a step there that does nothing, once.
        self._skipped += bool(getattr(stash, "already_patched", False))
        optimizer.step(**(arguments or {}))
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return result

    def state_dict(self) -> dict[str, Any]:
        state = dict(self._amp.state_dict())
        full = [weight.detach().cpu() for o in self.optimizers for _, weight in self._pairs(o)]
        return {**state, "master_weights": full} if full else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = dict(state)
        full = kept.pop("master_weights", None)
        self._amp.load_state_dict(kept)
        if full is None:
            return  # 1.1's: the float32 weights are those of the model, rounded
        pairs = [pair for optimizer in self.optimizers for pair in self._pairs(optimizer)]
        with torch.no_grad():
            for (_, weight), saved in zip(pairs, full, strict=True):
                weight.copy_(saved)

    def _pairs(self, optimizer: Optimizer) -> list[tuple[Any, Any]]:
        """Each float16 weight with its float32 one; none but under O2."""
        stash: Any = getattr(optimizer, "_amp_stash", None)
        full = getattr(stash, "all_fp32_from_fp16_params", None)
        return [] if full is None else list(zip(stash.all_fp16_params, full, strict=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.level!r})"

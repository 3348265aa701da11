"""``Trainer(compile=...)``, modules that are compiled already, and ``Trainer(cuda_graph=True)``."""

from collections.abc import Callable
from typing import Any

import torch

from leyden.backends.compile import Compilation, compile_options, unwrapped
from leyden.backends.cuda_graph import GraphedStep
from leyden.backends.precision import MixedPrecision
from leyden.engine.errors import NotBuilt
from leyden.engine.step import TrainingStep, needs_closure
from leyden.module import LightningModule
from leyden.overrides import overrides
from leyden.transfer import apply_to_tensors

__all__ = ["Compiling", "capture"]


class Compiling:
    """What compiles the steps of a Trainer's runs, if anything does.

    Args:
        settings: with ``compile`` and ``cuda_graph``.
        device: that computes.

    Raises:
        NotBuilt: for what this machine or this device cannot do.
    """

    def __init__(self, settings: Any, device: torch.device) -> None:
        if settings.cuda_graph:
            if device.type != "cuda":
                raise NotBuilt(
                    f"cuda_graph=True captures what a CUDA device is given, and this run is on "
                    f"{device}: pass gpus=1 where there is one, or leave cuda_graph out"
                )
            if settings.compile:
                raise NotBuilt(
                    "cuda_graph=True and compile both capture the step: pass "
                    "compile={'mode': 'reduce-overhead'}, which makes graphs of its own, or "
                    "cuda_graph=True alone"
                )
        options = compile_options(settings.compile)
        self._own = None if options is None else Compilation.with_options(options, device)
        self._used = self._own

    def take_out(self, model: Any) -> Any:
        """Return the module that ``torch.compile(module)`` holds; its steps are compiled so."""
        if model is None:
            return None
        module, make = unwrapped(model)
        self._used = self._own if make is None else Compilation(make)
        return module

    def step(self, model: Any, step: Callable[..., Any], *, manual: bool) -> Callable[..., Any]:
        """Return a step as it is to run."""
        if self._used is None or step is None:  # a module may take a step away by None
            return step
        own: bool = getattr(step, "__self__", None) is model
        if not own:
            raise NotBuilt(
                "compile does not go with a strategy that runs the step on copies of the module: "
                "pass accelerator='ddp', a process for each device"
            )
        if not manual:
            return self._used.step(model, step)
        self._used.forward(model)
        return step

    def release(self) -> None:
        """The run is over: the module is as it was."""
        if self._used is not None:
            self._used.release()


def capture(run: Any, step: TrainingStep) -> None:
    """Let a training step be captured as a CUDA graph.

    Raises:
        NotBuilt: for a module or arguments that do more than a graph can hold; with the reason.
    """
    settings, model, precision = run.settings, run.model, run.precision
    own = [
        name
        for name in ("training_step_end", "backward", "optimizer_step")
        if overrides(model, name, LightningModule)
    ]
    reasons = {
        "manual optimization": step.manual,
        f"{len(step.optimizers)} optimizers": len(step.optimizers) != 1,
        "an optimizer that evaluates the loss itself": any(map(needs_closure, step.optimizers)),
        f"truncated_bptt_steps={settings.truncated_bptt_steps}": step.split is not None,
        f"accumulate_grad_batches={settings.accumulate_grad_batches}": (
            settings.accumulate_grad_batches not in (1, {0: 1})
        ),
        f"an own {' and '.join(own)}": bool(own),
        f"precision={precision.name!r}, which scales the loss or exchanges weights": (
            precision.active
            and not (isinstance(precision, MixedPrecision) and precision.scaler is None)
        ),
        f"{type(run.strategy).__name__}, which talks to others in a step": run.strategy.active,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise NotBuilt(
            f"cuda_graph=True does not go with {'; '.join(found)}: a graph holds one forward and "
            "one backward pass of one optimizer. Leave it out, or what it does not go with"
        )
    graphed = GraphedStep(model, step.forward, run.strategy.root_device, apply_to_tensors)
    step.forward, step.backward = graphed.forward, graphed.backward

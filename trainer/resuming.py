"""Keep all of a run that its next process needs, and put it back at the right moment."""

from typing import Any

import torch

from leyden.engine import Engine, Events
from leyden.handlers.base import Handler
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.checkpoint_plain import plain

__all__ = ["Resume", "resume_state"]


def resume_state(run: Any) -> dict[str, Any]:
    """The position, the loader, the random numbers and the handlers' states of a run, as plain data."""
    state, engine = run.state, run.engine
    over = run.epoch_done()
    kept: dict[str, Any] = {
        "position": {
            "iteration": state.iteration,
            "epoch": state.epoch - (0 if over else 1),
            "batch": 0 if over else state.iteration - state.epoch_start,
            "optimizer_steps": state.optimizer_steps,
            "epoch_done": over,
            "closed": state.closed_at == state.iteration,
        },
        "handlers": handler_states(run),
        "metrics": run.recorder.state_dict(),
        "gradients": _gradients(run),
    }
    if run.feed is not None and engine.state.iteration:
        kept["loader"] = run.feed.state_dict(state.iteration - state.epoch_start, ended=over)
    if not over and run.module_handler is not None:
        kept["outputs"] = plain(run.module_handler.kept_outputs, name="outputs")
    return kept


def handler_states(run: Any) -> dict[str, dict[str, Any]]:
    """The declared state of every handler that is no callback (those have their own place), by name."""
    states: dict[str, dict[str, Any]] = {}
    for handler in run.handlers:
        if isinstance(handler, Handler) and not isinstance(handler, CallbackBase) and handler.state_keys:
            states[_key(handler, states)] = handler.state_dict()
    return states


def _key(handler: Any, taken: Any) -> str:
    name, number = type(handler).__name__, 0
    while (key := f"{name}{number or ''}") in taken:
        number += 1
    return key


def _gradients(run: Any) -> dict[str, torch.Tensor]:
    """What an open accumulation group has added up so far, by parameter name."""
    return {
        name: parameter.grad.detach().clone()
        for name, parameter in run.model.named_parameters()
        if parameter.grad is not None
    }


class Resume(Handler):
    """Puts a run back in place at the start of its first epoch, then is gone.

    What depends on the epoch's beginning (hooks reset their own things there) is restored after all handlers of
    EPOCH_STARTED; the streams of random numbers go on where they were, whatever was drawn meanwhile.

    Runs on: EPOCH_STARTED, first and last, once.
    """

    order = 98.0
    order_reason = "after the epoch's start hooks, which begin with empty accumulators"

    def __init__(self, run: Any, kept: dict[str, Any]) -> None:
        super().__init__()
        self.run = run
        self.kept = kept

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.EPOCH_STARTED, self.restore_streams, order=0)
        self.listen(engine, Events.EPOCH_STARTED, self.restore)

    def restore_streams(self, engine: Engine) -> None:
        """At the beginning of an epoch the hooks draw from the streams as they were saved."""
        loader = self.kept.get("loader")
        if loader is not None:
            self.run.feed.load_state_dict(loader)
            if loader["ended"]:
                self.run.feed.restore_streams()

    def restore(self, engine: Engine) -> None:
        """Inside an epoch: accumulators, outputs and gradients of its first part."""
        run, kept = self.run, self.kept
        loader = kept.get("loader")
        if loader is not None and loader["ended"]:
            run.feed.keep_streams()
        if not kept["position"]["epoch_done"]:
            run.recorder.load_state_dict(kept["metrics"])
            run.module_handler.kept_outputs.extend(kept.get("outputs", []))
            named = dict(run.model.named_parameters())
            for name, gradient in kept["gradients"].items():
                named[name].grad = gradient.clone().to(named[name].device)
        seen: dict[str, None] = {}
        for handler in run.handlers:
            if isinstance(handler, Handler) and not isinstance(handler, CallbackBase) and handler.state_keys:
                key = _key(handler, seen)
                seen[key] = None
                if key in kept["handlers"]:
                    handler.load_state_dict(kept["handlers"][key])
        if not kept["position"]["epoch_done"]:
            state: Any = engine.state
            state.epoch_start = state.iteration - engine.epoch_iteration
            if run.schedulers is not None:
                run.schedulers.catch_up(engine, closed=kept["position"]["closed"])
        run.resumed = None
        run.handlers.remove(self)

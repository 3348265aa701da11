"""What happens to one batch: forward, backward, and an update where a group of batches is complete.

:class:`TrainingStep` is the process function of a training engine. ``prepare`` looks once at what
the run needs and picks the way: *straight* for one optimizer with no splits and nothing overridden,
*general* for everything else, *manual* where the user's step does its own updates.
"""

import dis
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.engine.engine import Engine
from leyden.engine.errors import MisconfigurationException, ReportedRuntime
from leyden.engine.events import TrainerEvents
from leyden.engine.optimizer_proxy import OptimizerProxy
from leyden.engine.state import TrainState, give_state

__all__ = ["Scope", "TrainingStep", "register_training_events"]


class Scope:
    """Who runs now: the name of the user's function, for whoever needs to know (metrics do)."""

    __slots__ = ("hook",)

    def __init__(self) -> None:
        self.hook: str | None = None


class TrainingStep:
    """The process function of a training run.

    Args:
        forward: called as ``forward(batch, batch_idx, *extra)`` with ``batch_idx`` 0-based in the
            epoch and, in this order, the optimizer's index where it takes one, ``hiddens`` if
            ``split`` is given. Returns the loss (a tensor of one element), a dict with ``"loss"``,
            or None to skip the update for this batch.
        optimizers: the optimizers to step; may be empty.
        manual: the forward function does its own backward and steps, through ``OptimizerProxy``.
        takes_batch_idx: False where ``forward`` takes the batch alone.
        takes_optimizer_idx: whether ``forward`` takes the optimizer's index.
        frequencies: batches in a row for each optimizer; empty: all on every batch.
        split: cuts a batch along time; ``hiddens`` of one part are handed to the next.
        step_end: called with what ``forward`` returned, gives what counts instead.
        backward: called instead of ``loss.backward()``, with ``(loss, optimizer, optimizer_idx)``.
        optimizer_step: called instead of ``optimizer.step(closure)``, with ``(optimizer, index,
            closure)``.
        zero_grad: called instead of ``optimizer.zero_grad()``, with ``(optimizer, index)``.
        stepper: does the very step, where a precision may leave it out; called with ``(optimizer,
            closure or None, keyword arguments)`` instead of ``optimizer.step``.
        toggle, untoggle: called around each optimizer's turn, with ``(optimizer, index)``.
        keep_outputs: whether ``state.outputs`` is filled.
        on_none: called where a step returned None.
        scope: told that ``training_step`` runs.

    Source: PyTorch Lightning 1.1's training loop; the events in between are this package's.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        optimizers: Sequence[Optimizer],
        *,
        manual: bool = False,
        takes_batch_idx: bool = True,
        takes_optimizer_idx: bool = False,
        frequencies: Sequence[int] = (),
        split: Callable[[Any], Sequence[Any]] | None = None,
        step_end: Callable[[Any], Any] | None = None,
        backward: Callable[[Tensor, Any, int], Any] | None = None,
        optimizer_step: Callable[[Any, int, Callable[[], Any]], Any] | None = None,
        zero_grad: Callable[[Any, int], Any] | None = None,
        stepper: Callable[[Any, Callable[[], Any] | None, dict[str, Any]], Any] | None = None,
        toggle: Callable[[Any, int], Any] | None = None,
        untoggle: Callable[[Any, int], Any] | None = None,
        keep_outputs: bool = False,
        on_none: Callable[[], Any] | None = None,
        scope: Scope | Any | None = None,
    ) -> None:
        self.forward = forward
        self.optimizers = list(optimizers)
        self.manual = manual
        self.takes_batch_idx = takes_batch_idx
        self.takes_optimizer_idx = takes_optimizer_idx
        self.frequencies = list(frequencies)
        self.split = split
        self.step_end = step_end
        self.backward = backward
        self.optimizer_step = optimizer_step
        self.zero_grad = zero_grad
        self.stepper = stepper
        self.toggle = toggle
        self.untoggle = untoggle
        self.keep_outputs = keep_outputs
        self.on_none = on_none
        self.scope = Scope() if scope is None else scope
        self.hiddens: Any = None
        self.run: Callable[[Engine, Any], Any] = self._unprepared

    def __call__(self, engine: Engine, batch: Any) -> Any:
        return self.run(engine, batch)

    def prepare(self, engine: Engine) -> None:
        """Choose the way for this run and look up its events; call it before ``engine.run``."""
        if not isinstance(engine.state, TrainState):
            give_state(engine, TrainState)
        register_training_events(engine)
        state: Any = engine.state
        self.forwarded = engine.channel(TrainerEvents.FORWARD_COMPLETED)
        self.backward_started = engine.channel(TrainerEvents.BACKWARD_STARTED)
        self.backward_completed = engine.channel(TrainerEvents.BACKWARD_COMPLETED)
        self.gradients_ready = engine.channel(TrainerEvents.GRADIENTS_READY)
        self.step_started = engine.channel(TrainerEvents.OPTIMIZER_STEP_STARTED)
        self.step_completed = engine.channel(TrainerEvents.OPTIMIZER_STEP_COMPLETED)
        self.zero_grad_started = engine.channel(TrainerEvents.ZERO_GRAD_STARTED)
        self._closing, self._state = True, state
        self.proxies = [OptimizerProxy.wrap(o, i, self) for i, o in enumerate(self.optimizers)]
        self._turns = [(i, o) for i, o in enumerate(self.optimizers)]
        # Without frequencies there is no cycle: every optimizer has its turn on every batch.
        pairs = zip(self._turns, self.frequencies, strict=bool(self.frequencies))
        self._cycle = [turn for turn, n in pairs for _ in range(n)]
        if self.manual:
            self.run = self._manual
        elif self._is_straight():
            state.optimizer, state.optimizer_idx = self.optimizers[0], 0
            self.run = self._straight
        else:
            self.run = self._general

    def _is_straight(self) -> bool:
        steps = (self.split, self.step_end, self.optimizer_step)
        around = (self.backward, self.zero_grad, self.toggle, self.stepper)
        return (
            len(self.optimizers) == 1
            and self.proxies[0].accumulate_grad_batches is None
            and not self.frequencies
            and not any((*steps, *around))
            and not takes_closure(self.optimizers[0])
            and not self.takes_optimizer_idx
        )

    def closes_group(self, state: TrainState) -> bool:
        """Whether gradients are complete with this batch: every k-th of the epoch, and its last."""
        position = state.iteration - state.epoch_start
        return position % state.accumulate_grad_batches == 0 or position == state.num_batches

    # ------------------------------------------------------------------ the three ways

    def _unprepared(self, engine: Engine, batch: Any) -> Any:
        self.prepare(engine)
        return self.run(engine, batch)

    def _straight(self, engine: Engine, batch: Any) -> Any:
        state: Any = engine.state
        if batch is None:
            return self._skip(state)
        position = state.iteration - state.epoch_start
        self.scope.hook = "training_step"
        output = self.forward(batch, position - 1) if self.takes_batch_idx else self.forward(batch)
        loss = output if isinstance(output, Tensor) else self._loss_of(output)
        k = state.accumulate_grad_batches
        closes = k == 1 or position % k == 0 or position == state.num_batches
        if loss is not None:
            if k != 1:
                loss = loss / k
            state.loss = loss
            if self.forwarded.live:
                self.forwarded.fire()
            if self.backward_started.live:
                self.backward_started.fire()
            try:
                loss.backward()
            except RuntimeError as error:
                _explain(loss, error)
                raise
            if self.backward_completed.live:
                self.backward_completed.fire()
        if self.keep_outputs:
            state.outputs = [[] if output is None else [self._kept(output)]]
        if closes:
            # Without a loss there is a step all the same, of what the group's other batches left:
            # nothing, if it is the only one. Source: Lightning 1.1.
            optimizer = self.optimizers[0]
            if self.gradients_ready.live and (loss is not None or k != 1):
                self.gradients_ready.fire()
            if self.step_started.live:
                self.step_started.fire()
            optimizer.step()
            state.optimizer_steps += 1
            state.closed_at = state.iteration
            if self.step_completed.live:
                self.step_completed.fire()
            if self.zero_grad_started.live:
                self.zero_grad_started.fire()
            optimizer.zero_grad()
        return output

    def _general(self, engine: Engine, batch: Any) -> Any:
        state: Any = engine.state
        if batch is None:
            return self._skip(state)
        closes = self.closes_group(state)
        self.hiddens = None
        self._closing, self._state = closes, state
        last: Any = None
        turns = self._turns
        if self._cycle:
            turns = [self._cycle[(state.iteration - 1) % len(self._cycle)]]
        state.outputs = [[] for _ in turns]
        parts = (batch,) if self.split is None else self.split(batch)
        for split_idx, part in enumerate(parts):
            state.split_idx = split_idx if self.split is not None else None
            for index, optimizer in turns:
                state.optimizer, state.optimizer_idx = optimizer, index
                output = self._turn(state, part, index, optimizer, closes)
                if output is not None:
                    last = output
        if closes:
            state.close_group()
        return last

    def _turn(self, state: Any, part: Any, index: int, optimizer: Optimizer, closes: bool) -> Any:
        """One optimizer's turn on one part of a batch."""
        result: list[Any] = []
        outputs = state.outputs[0 if self._cycle else index]
        kept = len(outputs)
        if self.toggle is not None:
            self.toggle(optimizer, index)
        try:
            every = self.proxies[index].accumulate_grad_batches
            waits = every is not None and self.optimizer_step is None and self.accumulates(every)
            if not closes or waits:
                result.append(self._forward_backward(state, part, index, optimizer, closes=False))
            elif self.optimizer_step is None and not takes_closure(optimizer):
                output = self._forward_backward(state, part, index, optimizer, closes=True)
                result.append(output)
                self.apply(optimizer, index)
            else:
                # Under Lightning 1.1's name: an own optimizer_step may look at it.
                def train_step_and_backward_closure() -> Any:
                    if result:
                        # Evaluated again within one step (LBFGS): only the last output is kept,
                        # and the gradient is a fresh one, not a sum.
                        del outputs[kept:]
                        if state.accumulate_grad_batches == 1:
                            optimizer.zero_grad()
                    with torch.enable_grad():  # a step may be decorated with no_grad
                        output = self._forward_backward(state, part, index, optimizer, closes=True)
                    result[:] = [output]
                    return None if output is None else self._last_loss.detach()

                if self.optimizer_step is None:
                    self.proxies[index].step(closure=train_step_and_backward_closure)
                else:
                    self.optimizer_step(self.proxies[index], index, train_step_and_backward_closure)
        finally:
            if self.untoggle is not None:
                self.untoggle(optimizer, index)
        return result[0] if result else None

    def _manual(self, engine: Engine, batch: Any) -> Any:
        state: Any = engine.state
        if batch is None:
            return self._skip(state)
        closes = self.closes_group(state)
        self._closing, self._state = closes, state
        self.hiddens = None
        state.outputs = [[]]
        output: Any = None
        for part in (batch,) if self.split is None else self.split(batch):
            output = self._call(part, state, 0)
            if isinstance(output, Tensor) and output.grad_fn is None:
                raise MisconfigurationException(
                    "training_step optimizes by hand (automatic_optimization=False) and returned a "
                    "tensor without a graph: return None, a dict, or the loss as it was "
                    "differentiated"
                )
            if self.keep_outputs and output is not None:
                state.outputs[0].append(self._kept(output))
        if closes:
            state.close_group()
        return output

    # ------------------------------------------------------------------ parts of a step

    def _call(self, part: Any, state: Any, index: int) -> Any:
        arguments: list[Any] = [part]
        if self.takes_batch_idx:
            arguments.append(state.iteration - state.epoch_start - 1)
        if self.takes_optimizer_idx:
            arguments.append(index)
        if self.split is not None:
            arguments.append(self.hiddens)
        self.scope.hook = "training_step"
        output = self.forward(*arguments)
        if self.step_end is not None:
            self.scope.hook = "training_step_end"
            output = self.step_end(output)
        if self.split is not None and isinstance(output, dict) and "hiddens" in output:
            self.hiddens = _detached(output["hiddens"])
        return output

    def _forward_backward(
        self, state: Any, part: Any, index: int, optimizer: Optimizer, *, closes: bool
    ) -> Any:
        output = self._call(part, state, index)
        loss = output if isinstance(output, Tensor) else self._loss_of(output)
        k = state.accumulate_grad_batches
        if loss is None:
            if closes and k != 1 and self.gradients_ready.live:
                self.gradients_ready.fire()
            return None
        state.loss = self._last_loss = loss = loss / k if k != 1 else loss
        if self.forwarded.live:
            self.forwarded.fire()
        if self.backward_started.live:
            self.backward_started.fire()
        try:
            if self.backward is None:
                loss.backward()
            else:
                self.scope.hook = "backward"
                self.backward(loss, optimizer, index)
        except RuntimeError as error:
            _explain(loss, error)
            raise
        if self.backward_completed.live:
            self.backward_completed.fire()
        if closes and self.gradients_ready.live:
            self.gradients_ready.fire()
        if self.keep_outputs:
            state.outputs[0 if self._cycle else index].append(self._kept(output))
        return output

    def apply(
        self,
        optimizer: Optimizer,
        index: int,
        closure: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Step one optimizer with its events, then clear its gradients."""
        self._state.optimizer, self._state.optimizer_idx = optimizer, index
        caller = self.scope.hook
        if closure is None:
            if self.step_started.live:
                self.step_started.fire()
            if self.stepper is None:
                result = optimizer.step(**kwargs)
            else:
                result = self.stepper(optimizer, None, kwargs)
        else:

            def evaluated() -> Any:
                loss = closure()
                # Here the gradients are there; before `step` they are not.
                if self.step_started.live:
                    self.step_started.fire()
                return loss

            if self.stepper is None:
                result = optimizer.step(closure=evaluated, **kwargs)
            else:
                result = self.stepper(optimizer, evaluated, kwargs)
        if self._closing:
            self._state.close_group()
        if self.step_completed.live:
            self.step_completed.fire()
        if self.zero_grad_started.live:
            self.zero_grad_started.fire()
        if self.zero_grad is None:
            optimizer.zero_grad()
        else:
            self.scope.hook = "optimizer_zero_grad"
            self.zero_grad(optimizer, index)
        self.scope.hook = caller  # a step by hand is made inside training_step, which may go on
        return result

    def accumulates(self, every: int | None) -> bool:
        """Whether the batch of now only adds to the gradients, by the Trainer's number or this."""
        if every is None:
            return not self._closing
        position = self._state.iteration - self._state.epoch_start
        return bool(position % every and position != self._state.num_batches)

    def _skip(self, state: Any) -> None:
        # A loader may give None for a batch: no forward, but its place is counted.
        # Source: Lightning 1.1.
        state.outputs = []
        if self.closes_group(state):
            state.close_group()

    def _loss_of(self, output: Any) -> Tensor | None:
        if output is None:
            if self.on_none is not None:
                self.on_none()
            return None
        if isinstance(output, dict) and "loss" in output:
            loss = output["loss"]
            if loss is None or isinstance(loss, Tensor):
                return loss
        raise MisconfigurationException(
            f"training_step returned {_described(output)}: return the loss as a tensor, a dict "
            "with the tensor under 'loss', or None to skip the update for this batch"
        )

    def _kept(self, output: Any) -> Any:
        if isinstance(output, dict):
            # Hidden states are for the next split: an epoch's worth of them nobody reads.
            return {key: _detached(value) for key, value in output.items() if key != "hiddens"}
        return {"loss": _detached(output)}


def register_training_events(engine: Engine) -> None:
    """Let ``engine`` fire :class:`TrainerEvents`; optimizer steps count its optimizer events."""
    missing = [event for event in TrainerEvents if not engine.has_registered_events(event)]
    if missing:
        counters = {
            TrainerEvents.GRADIENTS_READY: "coming_step",
            TrainerEvents.OPTIMIZER_STEP_STARTED: "coming_step",
            TrainerEvents.OPTIMIZER_STEP_COMPLETED: "optimizer_steps",
            TrainerEvents.ZERO_GRAD_STARTED: "optimizer_steps",
        }
        engine.register_events(*missing, event_to_attr=counters)


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``step`` evaluates the loss itself, so that it cannot be called without a closure."""
    return isinstance(optimizer, torch.optim.LBFGS)


def _explain(loss: Tensor, error: RuntimeError) -> None:
    """Say what is wrong with a loss that has no backward pass; torch's own words name no step."""
    if loss.numel() != 1:
        what = f"a loss of shape {tuple(loss.shape)}: return one number, such as loss.mean()"
    elif not loss.requires_grad:
        what = (
            "a loss without a graph, no parameter that is trained took part in it: look for "
            "detach(), item() or no_grad() on its way, and for parameters that are all frozen"
        )
    else:
        return
    raise ReportedRuntime(f"training_step returned {what} ({error})") from error


def takes_closure(optimizer: Optimizer) -> bool:
    """Whether ``step`` is given the closure: LBFGS, and what is not torch's own and looks at it.

    An optimizer of the user's own may evaluate the loss twice, or need it. Source: Lightning 1.1,
    which gives the closure to every optimizer; those of torch only call it first.
    """
    if needs_closure(optimizer):
        return True
    step: Any = inspect.unwrap(type(optimizer).step)
    if str(getattr(step, "__module__", "")).startswith(("torch.optim.", "leyden.")):
        return False
    code = getattr(step, "__code__", None)
    if code is None:  # a test's stand-in, or compiled
        return True
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if "closure" not in names:
        return bool(code.co_flags & inspect.CO_VARARGS or code.co_flags & inspect.CO_VARKEYWORDS)
    read = (part.argval for part in dis.get_instructions(code) if "LOAD" in part.opname)
    return any("closure" in (name if isinstance(name, tuple) else (name,)) for name in read)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_detached(item) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_detached(item) for item in value)
    return value


def _described(output: Any) -> str:
    if isinstance(output, dict):
        keys, loss = sorted(map(str, output)), type(output.get("loss")).__name__
        return f"a dict with the keys {keys} and 'loss' is {loss}"
    return f"{output!r} ({type(output).__name__})"

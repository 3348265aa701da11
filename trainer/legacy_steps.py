"""One batch by hand, and steps that somebody replaced: as the loops of Lightning 1.1's Trainer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from leyden.engine import Engine, TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.engine.step import TrainingStep
from leyden.handlers.base import Handler
from leyden.handlers.hooks import accepted
from leyden.handlers.metric_legacy import logs_by_return
from leyden.hparams import AttributeDict
from leyden.module import LightningModule
from leyden.overrides import overrides

__all__ = [
    "Replaceable",
    "ReplacedSteps",
    "evaluation_step",
    "run_training_batch",
    "training_step_and_backward",
]

#: where ``run.features`` keeps the handler, once somebody replaced a step.
KEY = "replaced steps"
TRAINING, EVALUATION = "training_step_and_backward", "evaluation_step"


class Replaceable:
    """A function of a loop that can be replaced, by a test's mock: the run then calls that.

    Args:
        function: what is called, with the Trainer first.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, view: Any, owner: type | None = None) -> Any:
        if view is None:
            return self
        handler = view.trainer._run.features.get(KEY)
        found = None if handler is None else handler.functions.get(self.name)
        return partial(self.function, view.trainer) if found is None else found

    def __set__(self, view: Any, function: Callable[..., Any]) -> None:
        run = view.trainer._run
        handler = run.features.get(KEY)
        if handler is None:
            handler = run.features[KEY] = ReplacedSteps(run)
            run.handlers.add(handler, origin=f"{type(view).__name__}.{self.name} = ...")
        handler.functions[self.name] = function
        if run.stage is not None:
            handler.put(run.engine)

    def __delete__(self, view: Any) -> None:
        handler = view.trainer._run.features.get(KEY)
        if handler is None or handler.functions.pop(self.name, None) is None:
            raise AttributeError(self.name)


class ReplacedSteps(Handler):
    """Puts what somebody assigned to the loops of 1.1's Trainer in the place of the steps.

    Runs on: FIT_STARTED, where the steps of the run are made.

    Args:
        run: the parts of the Trainer.
    """

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run
        self.functions: dict[str, Callable[..., Any]] = {}
        self.output: Any = None
        self.closes: bool | None = None  # whether gradients are complete with the step that runs

    def attach(self, engine: Engine) -> None:
        self.listen(engine, TrainerEvents.FIT_STARTED, self.put)

    def put(self, engine: Engine) -> None:
        """Let the steps of this run ask here."""
        if EVALUATION in self.functions:
            for stage in ("validate", "test"):
                self._put_evaluation(self.run.steps[stage])
        step = self.run.step
        if TRAINING in self.functions and step is not None and not step.manual:
            self._put_training(step)

    def _put_evaluation(self, step: Any) -> None:
        if hasattr(step, "own"):
            return
        step.own = own = (step.forward, step.takes)

        def forward(batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            function = self.functions.get(EVALUATION)
            if function is not None:
                return function(batch, batch_idx, dataloader_idx)
            return own[0](*(batch, batch_idx, dataloader_idx)[: own[1]])

        step.forward, step.takes = forward, None

    def _put_training(self, step: Any) -> None:
        if "_forward_backward" in vars(step):
            return
        own = step._forward_backward

        def forward_backward(
            state: Any, part: Any, index: int, optimizer: Any, *, closes: bool
        ) -> Any:
            function = self.functions.get(TRAINING)
            if function is None:
                return own(state, part, index, optimizer, closes=closes)
            self.output, self.closes = None, closes
            try:
                result = function(part, state.batch_idx, index, optimizer, step.hiddens)
            finally:
                self.closes = None
            return None if result is None else self.output

        step._forward_backward = forward_backward
        step._is_straight = lambda: False
        step.prepare(self.run.engine)


def run_training_batch(
    trainer: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
) -> AttributeDict:
    """Train on one batch: its hooks, its steps; the counters are afterwards what they were.

    Returns:
        ``signal`` (-1: a hook ended the epoch), ``grad_norm_dic``, and what the steps returned for
        the end of the epoch, ``training_step_output_for_epoch_end``, by optimizer and split.
    """
    run = trainer._run
    step = _step_of(run)
    if batch is None:
        return AttributeDict(signal=0, grad_norm_dic={})
    with _as_in_fit(run, batch_idx):
        state = run.state
        state.batch = batch
        hooks = {"on_batch_start": (), "on_train_batch_start": (batch, batch_idx, dataloader_idx)}
        for hook, arguments in hooks.items():
            run.call(hook, *arguments, module=False)
            if overrides(run.model, hook, LightningModule):
                own = getattr(run.model, hook)
                if own(*arguments[: accepted(own, 0)]) == -1:
                    return AttributeDict(signal=-1, grad_norm_dic={})
        kept, step.keep_outputs = step.keep_outputs, True
        try:
            output = step.run(run.engine, batch)
        finally:
            step.keep_outputs = kept
        if logs_by_return(output):
            run.recorder.train_step_output(output)
        norms = dict(run.recorder._grad_norms)
        outputs = [[_with_minimize(one) for one in of_one] for of_one in state.outputs]
    return AttributeDict(signal=0, grad_norm_dic=norms, training_step_output_for_epoch_end=outputs)


def training_step_and_backward(
    trainer: Any, split_batch: Any, batch_idx: int, opt_idx: int, optimizer: Any, hiddens: Any
) -> AttributeDict | None:
    """Run the training step and its backward pass, and step nothing.

    Returns:
        ``loss``, ``training_step_output`` and ``hiddens``; None where the step returned None.
    """
    run = trainer._run
    step = _step_of(run)
    if not run.in_batch:
        with _as_in_fit(run, batch_idx):
            run.state.outputs = [[] for _ in step.optimizers]
            return _forward_backward(run, step, split_batch, opt_idx, optimizer, hiddens)
    return _forward_backward(run, step, split_batch, opt_idx, optimizer, hiddens)


def evaluation_step(trainer: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
    """Run ``validation_step``, or ``test_step`` while test runs, and give what it returns."""
    run = trainer._run
    step = run.steps.get("test" if trainer.testing else "validate")
    if step is None:
        raise _too_early("evaluation_step")
    forward, takes = getattr(step, "own", (step.forward, step.takes))
    several = run.evaluators["test" if trainer.testing else "validate"].state.num_loaders > 1
    arguments = (batch, batch_idx, dataloader_idx) if several else (batch, batch_idx)
    return forward(*arguments[:takes])


def _forward_backward(
    run: Any, step: Any, part: Any, index: int, optimizer: Any, hiddens: Any
) -> AttributeDict | None:
    state = run.state
    step.hiddens = hiddens
    raw = getattr(optimizer, "optimizer", optimizer)
    if step.manual:
        output, loss = step._call(part, state, index), None
    else:
        handler = run.features.get(KEY)
        closes = step.closes_group(state)
        if handler is not None and handler.closes is not None:
            closes = handler.closes
        output = TrainingStep._forward_backward(step, state, part, index, raw, closes=closes)
        loss = None if output is None else step._last_loss
    if KEY in run.features:
        run.features[KEY].output = output
    if output is None:
        return None
    return AttributeDict(
        loss=None if loss is None else loss.detach(),
        closure_loss=loss,
        training_step_output=output,
        hiddens=step.hiddens,
    )


@contextmanager
def _as_in_fit(run: Any, batch_idx: int) -> Iterator[None]:
    """Let a module train on one batch outside of fit, at a place of its last epoch."""
    state, model = run.state, run.model
    names = ("iteration", "optimizer_steps", "closed_at", "batch", "outputs", "split_idx")
    before = {name: getattr(state, name) for name in names}
    recorder, model._recorder = model._recorder, run.recorder
    state.iteration = state.epoch_start + batch_idx + 1
    try:
        with torch.enable_grad():
            yield
    finally:
        for name, value in before.items():
            setattr(state, name, value)
        model._recorder = recorder
        run.recorder._grad_norms.clear()


def _step_of(run: Any) -> Any:
    if run.step is None:
        raise _too_early("run_training_batch and training_step_and_backward")
    return run.step


def _too_early(what: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"{what} has no steps to run: call trainer.fit(model) first, fit(model) with max_epochs=0 "
        "makes them too"
    )


def _with_minimize(output: Any) -> Any:
    """The output of a step, its loss by the name that it had in Lightning 1.1, too."""
    if isinstance(output, dict) and "loss" in output:
        return {"minimize": output["loss"], **output}
    return output

"""The hooks of a LightningModule on the events of the engines."""

from collections.abc import Mapping
from typing import Any

from leyden.engine import Engine, Events
from leyden.engine.notice import warn
from leyden.handlers.base import Handler, Order
from leyden.handlers.callback_base import CallbackBase
from leyden.handlers.deprecation import deprecated
from leyden.handlers.evaluation import Outputs
from leyden.handlers.hooks import WORDS, accepted, bind_module, hooks_of
from leyden.handlers.metric_legacy import logs_by_return
from leyden.module import LightningModule
from leyden.overrides import overrides

__all__ = ["ModuleHandler"]


class ModuleHandler(Handler):
    """Binds what a module overrides; after the callbacks' hooks of the same name, as in Lightning.

    Its epoch ends (``training_epoch_end`` and the like) get the outputs that were kept for them.
    """

    def __init__(self, model: Any, recorder: Any) -> None:
        super().__init__()
        self.model = model
        self.recorder = recorder
        self.kept_outputs: list[list[Any]] = []
        self._outputs: list[Outputs] = []
        self._told = False
        self._told_of_return: set[str] = set()

    def attach(self, engine: Engine) -> None:
        state: Any = engine.state
        for hook in hooks_of(state.stage):
            if hook.module and self.defines(hook.name):
                bind_module(
                    engine,
                    hook,
                    getattr(self.model, hook.name),
                    listen=self.listen,
                    scope=self.recorder,
                )
        if state.stage == "train":
            self._attach_training(engine)
        else:
            self._attach_evaluation(engine, state.stage)

    def detach(self) -> None:
        super().detach()
        for outputs in self._outputs:
            outputs.detach()
        self._outputs = []

    def defines(self, name: str) -> bool:
        """Whether the module overrides ``name``."""
        return overrides(self.model, name, LightningModule)

    def _attach_training(self, engine: Engine) -> None:
        self.listen(engine, Events.EPOCH_STARTED, self._begin_epoch, order=1)
        self.listen(engine, Events.EPOCH_COMPLETED, self._end_epoch, order=20)
        self.listen(engine, Events.ITERATION_COMPLETED, self._end_batch, order=Order.METRICS)
        if self._epoch_is_read(engine):
            self.listen(engine, Events.ITERATION_COMPLETED, self._keep, order=4)

        # Source: Lightning 1.1, where these hooks see the values of the epoch that ends, and what
        # the ones before logged.
        ends = {"on_epoch_end": 9.5, "on_train_epoch_end": 11.5, "training_epoch_end": 19.5}
        for hook, order in ends.items():
            self._show_before(engine, hook, order)

    def _show_before(self, engine: Engine, hook: str, order: float) -> None:
        """Show the epoch's values before a hook, if anybody has it."""
        if self.defines(hook):
            self.listen(engine, Events.EPOCH_COMPLETED, self._show, order=order)
        elif any(one.defines(hook) for one in self._callbacks(engine)):
            # Another process may have other callbacks, and must not be waited for.
            self.listen(engine, Events.EPOCH_COMPLETED, self._show_alone, order=order)

    def _show(self, engine: Engine) -> None:
        self.recorder.show_epoch()

    def _show_alone(self, engine: Engine) -> None:
        self.recorder.show_epoch(alone=True)

    @staticmethod
    def _callbacks(engine: Engine) -> list[CallbackBase]:
        state: Any = engine.state
        listed = getattr(state.trainer, "handlers", ())
        return [handler for handler in listed if isinstance(handler, CallbackBase)]

    def _epoch_is_read(self, engine: Engine) -> bool:
        """Whether somebody takes what all steps of an epoch returned."""
        hook = "on_train_epoch_end"
        if self.defines("training_epoch_end"):
            return True
        if self.defines(hook) and accepted(getattr(self.model, hook), 0) != 0:
            return True
        callbacks = self._callbacks(engine)
        return any(
            callback.defines(hook) and accepted(getattr(callback, hook), 2) != 0
            for callback in callbacks
        )

    def _begin_epoch(self, engine: Engine) -> None:
        self.kept_outputs = []
        state: Any = engine.state
        state.epoch_outputs = self.kept_outputs
        self.recorder.train_epoch_started()

    def _keep(self, engine: Engine) -> None:
        state: Any = engine.state
        if any(state.outputs):
            self.kept_outputs.append(state.outputs)

    def _end_batch(self, engine: Engine) -> None:
        state: Any = engine.state
        output = state.output
        # A dict of any kind: 1.1's own examples return an OrderedDict.
        if isinstance(output, dict) and ("log" in output or "progress_bar" in output):
            self._tell_of_dict("training_step", output)
            self.recorder.train_step_output(output)
        recorder = self.recorder
        if recorder.busy:
            # What recorder.row_due() asks, written out: this runs at every batch. Where the batch
            # has closed its group, global_step + 1 is optimizer_steps.
            every = recorder.log_every_n_steps
            due = state.closed_at == state.iteration and (
                (every > 0 and state.optimizer_steps % every == 0)
                or state.should_stop
                or recorder.fast_dev_run
            )
            recorder.train_batch_ended(write=due, force=due)

    def _tell_of_dict(self, method: str, result: Any) -> None:
        """Warn, once a run, of the older way to log."""
        if not self._told and logs_by_return(result):
            self._told = True
            kind = type(self.model).__name__
            deprecated(
                f"logging by the 'log' and 'progress_bar' of what {kind}.{method} returns",
                since="0.9.1",
                then="will be removed in 1.0.0",
                instead="call self.log(name, value, prog_bar=...)",
            )

    def _tell_of_return(self, method: str, result: Any) -> None:
        """Warn, once a run, of what an evaluation's end returns without logging it by that."""
        if result is not None and method not in self._told_of_return and not logs_by_return(result):
            self._told_of_return.add(method)
            warn(
                f"The {method} should not return anything as of 9.1, and "
                f"{type(self.model).__name__}'s returned {type(result).__name__}: call "
                "self.log(name, value) for what is to be logged",
                UserWarning,
            )

    def _end_epoch(self, engine: Engine) -> None:
        result = None
        if self.defines("training_epoch_end"):
            self.recorder.hook = "training_epoch_end"
            state: Any = engine.state
            kept = self.kept_outputs or [state.outputs or [[]]]
            if not self.kept_outputs and not self.model.automatic_optimization:
                # Source: Lightning 1.1, a list for each optimizer where no step returned anything.
                kept = [[[] for _ in state.optimizers]]
            result = self.model.training_epoch_end(_epoch_outputs(kept))
            self._tell_of_dict("training_epoch_end", result)
        self.recorder.train_epoch_ended(result)
        self.kept_outputs = []

    def _attach_evaluation(self, engine: Engine, stage: str) -> None:
        end = f"{WORDS[stage]}_epoch_end"
        wanted = stage == "predict" or self.defines(end)
        if wanted:
            outputs = Outputs()
            outputs.attach(engine)
            self._outputs.append(outputs)
        if stage == "predict":
            self.listen(engine, Events.EPOCH_COMPLETED, self._predictions, order=30)
            return
        self.listen(
            engine, Events.ITERATION_COMPLETED, self._end_evaluation_batch, order=Order.METRICS
        )

        def end_epoch(engine: Engine) -> None:
            state: Any = engine.state
            state.epoch_end_result = None
            if self.defines(end):
                self.recorder.show_epoch()
                self.recorder.hook = end
                kept = state.loader_outputs
                state.epoch_end_result = getattr(self.model, end)(
                    kept[0] if state.num_loaders == 1 else kept
                )
                self._tell_of_dict(end, state.epoch_end_result)
                self._tell_of_return(end, state.epoch_end_result)
            elif state.num_loaders == 1 and isinstance(state.output, Mapping):
                # Source: Lightning 1.1, where the last batch speaks for all of them.
                state.epoch_end_result = state.output

        def reduce(engine: Engine) -> None:
            state: Any = engine.state
            self.recorder.hook = None
            state.results = self.recorder.eval_epoch_ended(state.epoch_end_result)

        self.listen(engine, Events.EPOCH_COMPLETED, end_epoch, order=5)
        self._show_before(engine, f"on_{end}", 9.5)
        self.listen(engine, Events.EPOCH_COMPLETED, reduce, order=Order.METRICS)

    def _end_evaluation_batch(self, engine: Engine) -> None:
        state: Any = engine.state
        output = state.output
        if isinstance(output, dict):
            self._tell_of_dict(f"{WORDS[state.stage]}_step", output)
        self.recorder.eval_batch_ended()

    def _predictions(self, engine: Engine) -> None:
        state: Any = engine.state
        kept = state.loader_outputs
        state.results = kept[0] if state.num_loaders == 1 else kept


def _epoch_outputs(kept: list[list[Any]]) -> list[Any]:
    """What ``training_epoch_end`` gets: one entry a batch, nested for several splits or optimizers.

    Source: Lightning 1.1: a list of dicts for one optimizer, ``[optimizer][batch]`` for several; a
    batch of several splits is a list of dicts itself.
    """
    per_optimizer: list[list[Any]] = []
    for index in range(max(len(batch) for batch in kept)):
        column = []
        for batch in kept:
            if index < len(batch) and batch[index]:
                column.append(batch[index][0] if len(batch[index]) == 1 else batch[index])
        per_optimizer.append(column)
    return per_optimizer[0] if len(per_optimizer) == 1 else per_optimizer

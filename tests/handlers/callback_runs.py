"""A small real run for callbacks: engines, a linear model, and what callbacks read of a Trainer."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.state import TrainState, give_state
from leyden.handlers import checkpoint_io, checkpoint_state
from leyden.handlers.base import Order
from leyden.handlers.callback_base import CallbackBase

BATCHES = 4


class Run:
    """What a Trainer shows to callbacks, over a training engine and a validation engine.

    ``scores`` are the values of ``score`` that the validation runs log, in turn; without them
    nothing is validated, and ``train_scores`` are logged at the ends of training epochs.
    """

    def __init__(
        self,
        root: Path | str,
        callbacks: Sequence[CallbackBase],
        *,
        scores: Sequence[float] | None = None,
        train_scores: Sequence[float] = (),
        key: str = "score",
        model: torch.nn.Module | None = None,
        validate_at: Iterable[int] = (BATCHES,),
        accumulate: int = 1,
        **attributes: Any,
    ) -> None:
        torch.manual_seed(0)
        self.default_root_dir = self.weights_save_path = str(root)
        self.callbacks = list(callbacks)
        self.callback_metrics: dict[str, Any] = {}
        self.logger: Any = None
        self.should_stop = self.running_sanity_check = False
        self.fast_dev_run = False
        self.is_global_zero = True
        self.model = torch.nn.Linear(2, 1) if model is None else model
        self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)]
        self.lr_schedulers: list[dict[str, Any]] = []
        self.log_every_n_steps = 1
        self.max_steps: int | None = None
        self.max_epochs = 0
        self.saved: list[str] = []
        self.before_save: Callable[[str], Any] = lambda path: None
        self.on_batch: Callable[[Run], Any] = lambda run: None
        self.scores, self.train_scores, self.key = scores, train_scores, key
        self.enable_validation = scores is not None
        self.validate_at = set(validate_at)
        self.validations = 0
        self.__dict__.update(attributes)
        self.engine = Engine(self._step, data_ends_epoch=True, reraise=True)
        self.evaluator = Engine(lambda engine, batch: None)
        for engine, stage in ((self.engine, "train"), (self.evaluator, "validate")):
            engine.register_events(*TrainerEvents)
            state = give_state(engine, TrainState)
            state.stage, state.trainer, state.model = stage, self, self.model
        self.state: Any = self.engine.state
        self.state.num_batches = BATCHES
        self.state.accumulate_grad_batches = accumulate
        listen = self.engine.listen
        listen(Events.EPOCH_STARTED, self._epoch_started, order=0)
        listen(Events.ITERATION_COMPLETED, self._batch_validation, order=Order.VALIDATION)
        listen(Events.EPOCH_COMPLETED, self._train_metrics, order=Order.METRICS)
        listen(Events.EPOCH_COMPLETED, self._epoch_validation, order=Order.VALIDATION)
        listen(Events.EPOCH_COMPLETED, self._epoch_over, order=Order.COUNTERS)
        for callback in self.callbacks:
            callback.attach(self.engine)
            callback.attach(self.evaluator)

    current_epoch = property(lambda self: max(self.state.epoch - 1, 0))
    global_step = property(lambda self: self.state.global_step)
    optimizer_steps = property(lambda self: self.state.optimizer_steps)

    def fit(self, epochs: int) -> "Run":
        """Train to this number of epochs."""
        self.max_epochs = epochs
        fire = lambda event: self.engine.channel(event).fire()  # noqa: E731
        fire(TrainerEvents.FIT_STARTED)
        fire(TrainerEvents.PRETRAIN_STARTED)
        fire(TrainerEvents.PRETRAIN_COMPLETED)
        try:
            self.engine.run(batches(), max_epochs=epochs, epoch_length=BATCHES)
        except Exception as error:
            for callback in self.callbacks:
                if callback.defines("on_exception"):
                    callback.on_exception(self, self.model, error)  # type: ignore[attr-defined]
            raise
        finally:
            self.state.settle()
            fire(TrainerEvents.TRAINING_ENDED)
        return self

    def save_checkpoint(self, path: str, weights_only: bool = False) -> None:
        """Write a checkpoint as the Trainer does."""
        self.before_save(path)
        checkpoint_io.save(checkpoint_state.dump(self, weights_only), path, fsync=False)
        self.saved.append(os.path.basename(path))

    def _step(self, engine: Engine, batch: torch.Tensor) -> None:
        self.on_batch(self)
        loss = self.model(batch).pow(2).mean()
        loss.backward()
        done = self.state.iteration - self.state.epoch_start
        if done % self.state.accumulate_grad_batches == 0 or done == BATCHES:
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.state.optimizer_steps += 1
            self.state.closed_at = self.state.iteration

    def _epoch_started(self, engine: Engine) -> None:
        self.state.epoch_start = self.state.iteration

    def _batch_validation(self, engine: Engine) -> None:
        done = self.state.iteration - self.state.epoch_start
        if self.scores is not None and done in self.validate_at and done != BATCHES:
            self._validate()

    def _epoch_validation(self, engine: Engine) -> None:
        if self.scores is not None and BATCHES in self.validate_at:
            self._validate()

    def _validate(self) -> None:
        assert self.scores is not None
        if self.scores:
            value = self.scores[self.validations % len(self.scores)]
            self.callback_metrics[self.key] = torch.tensor(float(value))
        self.validations += 1
        self.evaluator.run([0], max_epochs=1)

    def _train_metrics(self, engine: Engine) -> None:
        if self.train_scores:
            self.callback_metrics[self.key] = float(self.train_scores[self.current_epoch])

    def _epoch_over(self, engine: Engine) -> None:
        self.state.settle()
        if self.should_stop:
            engine.terminate()


def batches() -> list[torch.Tensor]:
    """The training data: always the same."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 2, generator=generator) for _ in range(BATCHES)]


def names(folder: Path | str) -> list[str]:
    """The checkpoints in a folder."""
    return sorted(name for name in os.listdir(folder) if name.endswith(".ckpt"))

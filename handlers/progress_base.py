"""The base of all progress bars: what Lightning 1.1's is to those who subclass it."""

import math
from collections.abc import Iterable
from typing import Any

from leyden.engine import Engine
from leyden.handlers.callback import Callback

__all__ = ["ProgressBarBase", "finite", "total_of"]


class ProgressBarBase(Callback):
    """Counts batches for progress bars of any kind; a subclass draws.

    A subclass writes ``enable`` and ``disable`` and overrides the hooks it draws in, calling
    ``super()`` in each, as in 1.1.8.

    Example:
        >>> class Dots(ProgressBarBase):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.enable()
        ...     def enable(self):
        ...         self.on = True
        ...     def disable(self):
        ...         self.on = False
        ...     def on_train_batch_end(self, trainer, pl_module, *args):
        ...         super().on_train_batch_end(trainer, pl_module, *args)
        ...         if self.on:
        ...             print(".", end="")
    """

    def __init__(self) -> None:
        super().__init__()
        self._trainer: Any = None
        self._train_batch_idx = 0
        self._val_batch_idx = 0
        self._test_batch_idx = 0
        self._predict_batch_idx = 0

    @property
    def trainer(self) -> Any:
        """The Trainer; None before the first hook."""
        return self._trainer

    @property
    def train_batch_idx(self) -> int:
        """Training batches done in this epoch; 1 after the first."""
        return self._train_batch_idx

    @property
    def val_batch_idx(self) -> int:
        """Validation batches done in this validation, over all its loaders."""
        return self._val_batch_idx

    @property
    def test_batch_idx(self) -> int:
        """Test batches done, over all loaders."""
        return self._test_batch_idx

    @property
    def predict_batch_idx(self) -> int:
        """Batches predicted, over all loaders."""
        return self._predict_batch_idx

    @property
    def total_train_batches(self) -> float:
        """Training batches of an epoch; ``inf`` if the loader has no length."""
        return _number(self.trainer.num_training_batches)

    @property
    def total_val_batches(self) -> float:
        """Validation batches of one validation; 0 in an epoch without.

        As in 1.1.8, ``check_val_every_n_epoch`` is counted from epoch 0 here, so that with a value
        above 1 the epoch looked at is not the one that validates.
        """
        trainer = self.trainer
        if trainer.disable_validation or trainer.current_epoch % trainer.check_val_every_n_epoch:
            return 0
        return total_of(trainer.num_val_batches)

    @property
    def total_test_batches(self) -> float:
        """Test batches, over all loaders."""
        return total_of(self.trainer.num_test_batches)

    @property
    def total_predict_batches(self) -> float:
        """Batches to predict, over all loaders."""
        return total_of(self.trainer.num_predict_batches)

    def enable(self) -> None:
        """Switch drawing on. To be written by the subclass."""
        raise TypeError(
            f"{type(self).__name__} does not say how it is switched on: define enable()"
        )

    def disable(self) -> None:
        """Switch drawing off, as in all processes but rank 0. To be written by the subclass."""
        raise TypeError(
            f"{type(self).__name__} does not say how it is switched off: define disable()"
        )

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print without disturbing the bars."""
        print(*args, **kwargs)

    def attach(self, engine: Engine) -> None:
        """Bind the hooks; see ``leyden.handlers.hooks``."""
        self._trainer = getattr(engine.state, "trainer", None) or self._trainer
        super().attach(engine)

    def on_init_end(self, trainer: Any) -> None:
        """Note the Trainer."""
        self._trainer = trainer

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Note the Trainer."""
        self._trainer = trainer

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin at the batch the Trainer is at."""
        self._trainer = trainer
        self._train_batch_idx = trainer.batch_idx

    def on_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the epoch's count."""
        self._trainer = trainer
        self._train_batch_idx = 0

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a training batch."""
        self._train_batch_idx = batch_idx + 1

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a validation's count."""
        self._trainer = trainer
        self._val_batch_idx = 0

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a validation batch."""
        self._val_batch_idx += 1

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a test's count."""
        self._trainer = trainer
        self._test_batch_idx = 0

    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a test batch."""
        self._test_batch_idx += 1

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a prediction's count."""
        self._trainer = trainer
        self._predict_batch_idx = 0

    def on_predict_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a predicted batch."""
        self._predict_batch_idx += 1


def total_of(batches: Any) -> float:
    """Add up the batches of all loaders: a list of numbers or one number; 0 for None."""
    if batches is None:
        return 0
    return sum(batches) if isinstance(batches, Iterable) else _number(batches)


def _number(value: Any) -> float:
    """Keep whole numbers whole; ``inf`` stays a float."""
    return value if isinstance(value, int) else float(value)


def finite(total: float) -> float | None:
    """Give tqdm's None for an unknown length."""
    return None if math.isinf(total) else total

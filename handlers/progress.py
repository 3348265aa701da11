"""The progress bar on tqdm: sanity check, training, validation, test and prediction."""

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from leyden.engine import Engine, Events
from leyden.handlers.loggers.ranks import is_rank_zero
from leyden.handlers.progress_bars import Bar, begin, expect, make_bar
from leyden.handlers.progress_base import ProgressBarBase, finite, total_of

__all__ = ["ProgressBar", "ProgressBarBase"]


class ProgressBar(ProgressBarBase):
    """Draws bars with tqdm: sanity check, training with validation, validation, test, prediction.

    A bar counts on at each batch and is redrawn by its own clock, ten times a second; only then the
    metrics are formatted. Where output is no terminal, it writes a line now and then.

    Source: as in 1.1.8, which redraws at every ``refresh_rate``-th batch, however fast they come.

    Args:
        refresh_rate: Batches between two looks at the clock; 0 switches the bar off.
        process_position: Lines to leave free above, for the bars of other processes.

    Raises:
        ValueError: If one of them is negative.
    """

    def __init__(self, refresh_rate: int = 1, process_position: int = 0) -> None:
        super().__init__()
        for name, value in (("refresh_rate", refresh_rate), ("process_position", process_position)):
            if value < 0:
                raise ValueError(f"{name}={value!r} is negative: pass 0 or a number above")
        self._refresh_rate = refresh_rate
        self._process_position = process_position
        self._enabled = True
        # When the main bar counts on: from this batch on (0: at the next one, whichever it is), not
        # before that time, but always at the epoch's last batch.
        self._due: float = 0
        self._redraw_at = 0.0
        self._clock: Callable[[], float] = time.time
        self._total: float = math.inf
        self._main_open = False
        self._val_shown = 0  # validation batches that the main bar holds
        self.main_progress_bar: Any = None
        self.val_progress_bar: Any = None
        self.test_progress_bar: Any = None
        self.predict_progress_bar: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Bars hold the terminal and locks, which stay in this process.
        return {**super().__getstate__(), **dict.fromkeys(_BARS), "_trainer": None}

    @property
    def refresh_rate(self) -> int:
        """Batches between two looks at the clock."""
        return self._refresh_rate

    @property
    def process_position(self) -> int:
        """Lines left free above."""
        return self._process_position

    @property
    def is_enabled(self) -> bool:
        """Whether it draws."""
        return self._enabled and self._refresh_rate > 0

    @property
    def is_disabled(self) -> bool:
        """Whether it does not draw."""
        return not self.is_enabled

    def enable(self) -> None:
        """Draw from the next bar on."""
        self._enabled = True

    def disable(self) -> None:
        """Stop drawing; bars that are there are closed."""
        self._enabled = False
        self.close()

    def init_sanity_tqdm(self) -> Any:
        """Make the bar of the sanity check; override it for another look."""
        return self._make("Validation sanity check", leave=False)

    def init_train_tqdm(self) -> Any:
        """Make the bar of training; override it for another look."""
        return self._make("Training", initial=self.train_batch_idx, leave=True)

    def init_validation_tqdm(self) -> Any:
        """Make the bar of a validation, below the one of training; override it for another look."""
        return self._make("Validating", below=self._alive(self.main_progress_bar), leave=False)

    def init_test_tqdm(self) -> Any:
        """Make the bar of a test; override it for another look."""
        return self._make("Testing", leave=True)

    def init_predict_tqdm(self) -> Any:
        """Make the bar of a prediction; override it for another look."""
        return self._make("Predicting", leave=True)

    def _make(self, description: str, *, below: bool = False, **kwargs: Any) -> Any:
        return make_bar(
            desc=description,
            position=2 * self.process_position + below,
            disable=self.is_disabled or not is_rank_zero(),
            dynamic_ncols=True,
            file=sys.stdout,
            # The rate is the mean of the whole epoch: the last batches alone would jump.
            smoothing=0,
            **kwargs,
        )

    def attach(self, engine: Engine) -> None:
        """Bind the hooks; and close the bars when the run breaks off."""
        super().attach(engine)
        if self.is_disabled:
            return
        if getattr(engine.state, "stage", "train") == "train" and self._counts_directly():
            self.listen(
                engine, Events.ITERATION_COMPLETED, self._count, order=12 + self.order / 200
            )
        # On an engine without a Trainer a listener to exceptions would swallow them.
        if self._trainer is not None:
            broken_off: Any = self._broken_off  # this event brings the exception along
            self.listen(engine, Events.EXCEPTION_RAISED, broken_off)
        self.listen(engine, Events.INTERRUPT, self._paused)

    def defines(self, name: str) -> bool:
        """Whether the hook has to be called; the one of each training batch only if overridden."""
        if self.is_disabled and type(self) is ProgressBar:
            return False
        if name == "on_train_batch_end" and self._counts_directly():
            return False
        return super().defines(name)

    def _counts_directly(self) -> bool:
        # Gathering the hook's arguments costs more than all that the bar does in a batch.
        own = type(self).on_train_batch_end is ProgressBar.on_train_batch_end
        return own and "on_train_batch_end" not in self.__dict__

    def _count(self, engine: Engine) -> None:
        self._train_batch_idx = done = self._train_batch_idx + 1
        if done >= self._due and (self._clock() >= self._redraw_at or done >= self._total):
            # The engine knows better than the count above after a start in mid-epoch.
            state: Any = engine.state
            self._train_batch_idx = state.batch_idx + 1
            self._update_main()

    def _update_main(self) -> None:
        done, bar, rate = self._train_batch_idx, self.main_progress_bar, self._refresh_rate
        if not rate:
            return
        first, self._due = not self._due, min(done - done % rate + rate, self._last(done))
        if bar is None or (first and done % rate and done < self._total):
            return
        drawn = bar.update(done + self._val_shown - bar.n)
        if hasattr(bar, "metrics") and not bar.disable:
            self._redraw_at = bar.last_print_t + bar.mininterval
        elif drawn:  # a tqdm of the user's own does not ask for metrics
            bar.set_postfix(self._metrics())

    def _last(self, done: int) -> float:
        """The epoch's last batch, which is always shown, while it is still to come."""
        return self._total if self._total > done else math.inf

    def _metrics(self) -> Any:
        return self.trainer.progress_bar_dict

    @staticmethod
    def _alive(bar: Any) -> bool:
        return bar is not None and not bar.disable

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar of the sanity check."""
        super().on_sanity_check_start(trainer, pl_module)
        self.val_progress_bar = self.init_sanity_tqdm()
        expect(self.val_progress_bar, finite(total_of(trainer.num_sanity_val_batches)))
        self.main_progress_bar = make_bar(disable=True)  # there is always one to ask

    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
        """Close it."""
        self.close()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar of training."""
        super().on_train_start(trainer, pl_module)
        self._open_main()
        # A run that goes on in the middle of an epoch may see no start of that epoch.
        self._begin(trainer)

    def _open_main(self) -> None:
        self.main_progress_bar = bar = self.init_train_tqdm()
        self._main_open = True
        self._redraw_at = 0.0
        if self._refresh_rate > 1 and self._alive(bar):
            # The losses are kept from when they are first asked for: at the first drawing as a
            # rule, which here may be the last.
            getattr(self.trainer, "running_loss", None)
        if hasattr(bar, "metrics") and not bar.disable:
            bar.metrics, self._clock = self._metrics, bar._time

    def on_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the bar again, for training and validation batches together."""
        super().on_epoch_start(trainer, pl_module)
        if not self._main_open:  # closed by an interrupt, after which the run went on
            self._open_main()
        self._begin(trainer)

    def _begin(self, trainer: Any) -> None:
        done = self._train_batch_idx
        self._val_shown, self._due, self._total = 0, 0, self.total_train_batches
        if self._alive(self.main_progress_bar):
            total = self._total + self._validation_batches()
            begin(self.main_progress_bar, total, f"Epoch {trainer.current_epoch}", done)

    def _validation_batches(self) -> float:
        """All validation batches of this epoch."""
        trainer, total = self.trainer, self._total
        every = trainer.check_val_every_n_epoch
        if trainer.disable_validation or (trainer.current_epoch + 1) % every:
            return 0
        interval = getattr(trainer, "val_check_interval", 1.0)
        if not math.isfinite(total):  # nobody knows how often
            return math.inf
        if isinstance(interval, int) and not isinstance(interval, bool):
            times = total // interval if interval else 1
        elif isinstance(interval, float) and interval < 1:
            times = total // max(1, int(total * interval))
        else:
            times = 1
        batches = total_of(trainer.num_val_batches)
        return times * batches if batches else 0

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count on; called only where a subclass overrides it."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        done = self._train_batch_idx
        if done >= self._due and (self._clock() >= self._redraw_at or done >= self._total):
            self._update_main()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar of a validation."""
        super().on_validation_start(trainer, pl_module)
        if not trainer.running_sanity_check:
            self.val_progress_bar = self.init_validation_tqdm()
            expect(self.val_progress_bar, finite(total_of(trainer.num_val_batches)))

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count on, on both bars."""
        super().on_validation_batch_end(
            trainer, pl_module, outputs, batch, batch_idx, dataloader_idx
        )
        bar, done = self.val_progress_bar, self._val_batch_idx
        if bar is not None and self._should_update(done, bar.total):
            step = done - int(bar.n)
            bar.update(step)
            if self._alive(self.main_progress_bar):
                self._val_shown += step
                main = self.main_progress_bar
                main.update(self._train_batch_idx + self._val_shown - main.n)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the bar of the validation; its metrics go to the one of training."""
        if trainer.running_sanity_check:
            return
        self._close("val_progress_bar")
        main = self.main_progress_bar
        if self._alive(main) and not hasattr(main, "metrics"):
            main.set_postfix(self._metrics())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the bar of training, with the last metrics."""
        self._close("main_progress_bar")

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar of a test."""
        super().on_test_start(trainer, pl_module)
        self.test_progress_bar = self.init_test_tqdm()
        expect(self.test_progress_bar, finite(self.total_test_batches))

    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count on."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._update(self.test_progress_bar, self._test_batch_idx)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the bar of the test."""
        self._close("test_progress_bar")

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar of a prediction."""
        super().on_predict_start(trainer, pl_module)
        self.predict_progress_bar = self.init_predict_tqdm()
        expect(self.predict_progress_bar, finite(self.total_predict_batches))

    def on_predict_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count on."""
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        self._update(self.predict_progress_bar, self._predict_batch_idx)

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the bar of the prediction."""
        self._close("predict_progress_bar")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Close all bars."""
        self._broken_off(None, exception)

    def print(
        self,
        *args: Any,
        sep: str = " ",
        end: str = os.linesep,
        file: Any = None,
        nolock: bool = False,
    ) -> None:
        """Print above the bar that is open; without one, as ``print`` does."""
        for name in _BARS:
            bar: Bar | None = getattr(self, name)
            if bar is not None and not bar.disable:
                bar.write(sep.join(map(str, args)), file=file, end=end, nolock=nolock)
                return
        print(*args, sep=sep, end=end, file=file)

    def close(self) -> None:
        """Close every open bar at its last value."""
        for name in ("val_progress_bar", "test_progress_bar", "predict_progress_bar"):
            self._close(name)
        self._close("main_progress_bar")

    def _paused(self, engine: Engine) -> None:
        self.close()

    def _broken_off(self, engine: Engine | None, error: BaseException) -> None:
        # The metrics may be what is broken: reading a tensor after a device error raises again.
        if hasattr(self.main_progress_bar, "metrics"):
            self.main_progress_bar.metrics = None
        self.close()

    def _close(self, name: str) -> None:
        bar = getattr(self, name)
        if bar is None:
            return
        # It stays to be read: bar.n and bar.total, as in Lightning 1.1.
        if name == "main_progress_bar":
            self._main_open = False
            if not bar.disable:
                bar.n = max(bar.n, self._train_batch_idx + self._val_shown)
        bar.close()

    def _should_update(self, done: int, total: float | None) -> bool:
        return self.is_enabled and (done % self._refresh_rate == 0 or done == total)

    def _update(self, bar: Any, done: int) -> None:
        if bar is not None and self._should_update(done, bar.total):
            bar.update(done - bar.n)


_BARS = ("main_progress_bar", "val_progress_bar", "test_progress_bar", "predict_progress_bar")

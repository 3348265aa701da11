"""Callback: Lightning's hooks in a class of their own, apart from the model."""

from typing import Any, ClassVar

from leyden.handlers.callback_base import CallbackBase

__all__ = ["Callback"]


class Callback(CallbackBase):
    """Something that happens during a run; override the hooks that you need.

    Only overridden hooks are bound, each to its event, so the others cost nothing. Callbacks run
    before the same hook of the module; the order in which they are passed changes nothing for
    leyden's own.

    State to keep in checkpoints is either what ``on_save_checkpoint`` returns, as in Lightning 1.1,
    or what ``state_dict`` returns, as in later versions.

    Example:
        >>> class Count(Callback):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.batches = 0
        ...     def on_train_batch_end(self, trainer, pl_module, *args):
        ...         self.batches += 1
        ...     def state_dict(self):
        ...         return {"batches": self.batches}
        ...     def load_state_dict(self, state):
        ...         self.batches = state["batches"]
        >>> Count().state_key
        'Count'
    """

    # On the class: many callbacks do not call super().__init__().
    origin: str = ""
    hook_base: ClassVar[type | None]

    def on_init_start(self, trainer: Any) -> None:
        """Run when the Trainer begins to be made."""

    def on_init_end(self, trainer: Any) -> None:
        """Run when the Trainer is made."""

    def setup(self, trainer: Any, pl_module: Any, stage: str | None = None) -> None:
        """Run before fit, validate, test or predict, which ``stage`` names.

        Args:
            trainer: The Trainer.
            pl_module: The module.
            stage: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        """

    def teardown(self, trainer: Any, pl_module: Any, stage: str | None = None) -> None:
        """Run when what ``setup`` was for is over."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Run when fit begins, the model on its device and the optimizers made; also in test."""

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Run when fit is over; also in test."""

    def on_pretrain_routine_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before a checkpoint is restored."""

    def on_pretrain_routine_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after a checkpoint was restored, before the sanity check."""

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before the sanity check."""

    def on_sanity_check_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after the sanity check."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before the first epoch."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after the last epoch, and after an exception in one."""

    def on_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Run at the start of each training epoch, before ``on_train_epoch_start``."""

    def on_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Run at the end of each training epoch, before ``on_train_epoch_end``."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Run at the start of each training epoch."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: list[Any]) -> None:
        """Run at the end of each training epoch, before validation.

        Args:
            trainer: The Trainer.
            pl_module: The module.
            outputs: What the steps returned, ``[optimizer][batch][split]``, each a dict as in
                ``on_train_batch_end``; kept only for those who take it: an override may leave the
                argument out.
        """

    def on_batch_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before each training batch, before ``on_train_batch_start``."""

    def on_batch_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after each training batch, before ``on_train_batch_end``."""

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Run before each training batch. What it returns has no effect, as in Lightning 1.1."""

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Run after each training batch.

        Args:
            trainer: The Trainer.
            pl_module: The module.
            outputs: A list for each optimizer, with an entry for each split of the batch.
            batch: The batch.
            batch_idx: Its place in the epoch, from 0.
            dataloader_idx: Always 0.
        """

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before validation."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after validation: its metrics are there."""

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before the first validation batch."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after the last validation batch."""

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Run before each validation batch."""

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Run after each validation batch; ``outputs`` is what the step returned."""

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before a test."""

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after a test: its metrics are there."""

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before the first test batch."""

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after the last test batch."""

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Run before each test batch."""

    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Run after each test batch; ``outputs`` is what the step returned."""

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before a prediction."""

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Run after a prediction."""

    def on_predict_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Run before the first batch to predict."""

    def on_predict_epoch_end(self, trainer: Any, pl_module: Any, outputs: list[Any]) -> None:
        """Run after the last batch to predict; an override may leave ``outputs`` out."""

    def on_predict_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Run before each batch to predict."""

    def on_predict_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Run after each batch to predict; ``outputs`` is what the step returned."""

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Run before each backward pass, with the loss as it is divided for accumulation."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Run after the backward pass. Gradients are clipped already, as in Lightning 1.1."""

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: Any, optimizer: Any, opt_idx: int
    ) -> None:
        """Run before each optimizer step."""

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Run after an optimizer step, while the gradients are still there."""

    def on_keyboard_interrupt(self, trainer: Any, pl_module: Any) -> None:
        """Run after Ctrl-C, before the end hooks."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Run after an exception, which reaches the caller afterwards."""

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any = None) -> Any:
        """Run before a checkpoint is written.

        Args:
            trainer: The Trainer.
            pl_module: The module.
            checkpoint: The checkpoint, to change in place (later Lightning). An override in the
                style of 1.1 leaves it out.

        Returns:
            The state of this callback (Lightning 1.1), or None.
        """

    def on_load_checkpoint(self, *args: Any) -> None:
        """Run when a checkpoint is loaded.

        Args:
            args: In the style of Lightning 1.1 the value that ``on_save_checkpoint`` returned; in
                that of later versions ``trainer, pl_module, checkpoint``. The override's signature
                decides.
        """


Callback.hook_base = Callback

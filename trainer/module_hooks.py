"""The hooks of a LightningModule and of a LightningDataModule, with what each is for.

Bodies do nothing unless the docstring says what; the run calls only those that are overridden.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.splitting import split_batch
from leyden.transfer import move_to_device

__all__ = ["DataHooks", "ModuleHooks"]


class DataHooks:
    """Where data comes from; shared by modules and data modules."""

    def prepare_data(self) -> None:
        """Download and write files. Runs in one process only, so assign nothing to ``self``."""

    def setup(self, stage: str | None = None) -> None:
        """Build what depends on the data. Runs in every process.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``; None for all.
        """

    def teardown(self, stage: str | None = None) -> None:
        """Clean up after a stage.

        Args:
            stage: As in ``setup``.
        """

    def train_dataloader(self) -> Any:
        """Return the training batches: a DataLoader or any iterable."""

    def val_dataloader(self) -> Any:
        """Return one loader of validation batches, or a list of them."""

    def test_dataloader(self) -> Any:
        """Return one loader of test batches, or a list of them."""

    def predict_dataloader(self) -> Any:
        """Return one loader of batches to predict, or a list of them."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch before it is moved to the device; the default returns it as it is."""
        return batch

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        """Move a batch; the default moves every tensor and everything that has a ``to`` method.

        Without ``device`` it goes to the module's own. An override may leave ``dataloader_idx``
        out, as in Lightning 1.1. Not called on a CPU.
        """
        here = getattr(self, "device", None) if device is None else device
        return batch if here is None else move_to_device(batch, here)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change a batch on the device; the default returns it as it is."""
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint before it is written."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read what ``on_save_checkpoint`` added; runs before weights are restored."""


class ModuleHooks(DataHooks):
    """What a user defines of a module: its steps, its optimizers, and its hooks.

    Callbacks run before the same hook of the module.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss of one batch.

        Takes, by name, ``batch``, ``batch_idx``, ``optimizer_idx`` (several optimizers) and
        ``hiddens`` (truncated back-propagation).

        Returns:
            The loss, or a dict with the key ``loss`` (and ``hiddens``), or None to skip the batch.
        """

    def training_step_end(self, *args: Any, **kwargs: Any) -> Any:
        """Finish a training step with the outputs of all parts of a batch that was split."""

    def training_epoch_end(self, outputs: list[Any]) -> None:
        """Use what all training steps of an epoch returned. Overriding it keeps them in memory."""

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Look at one validation batch: ``batch, batch_idx`` and, with several loaders,
        ``dataloader_idx``."""

    def validation_step_end(self, *args: Any, **kwargs: Any) -> Any:
        """Finish a validation step with the outputs of all parts of a batch that was split."""

    def validation_epoch_end(self, outputs: list[Any]) -> None:
        """Use what all validation steps returned: a list, or one for each loader."""

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Look at one test batch; takes what ``validation_step`` takes."""

    def test_step_end(self, *args: Any, **kwargs: Any) -> Any:
        """Finish a test step with the outputs of all parts of a batch that was split."""

    def test_epoch_end(self, outputs: list[Any]) -> None:
        """Use what all test steps returned: a list, or one for each loader."""

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int | None = None) -> Any:
        """Return the prediction for one batch; the default is ``self(batch)``."""
        return self(batch)  # type: ignore[operator]  # Every subclass is an nn.Module.

    def configure_optimizers(self) -> Any:
        """Return the optimizers, with or without schedulers.

        One optimizer; a list of them; a list of optimizers and a list of schedulers; a dict with
        ``optimizer`` and, as you like, ``lr_scheduler``, ``monitor``, ``frequency``; a tuple of
        such dicts; None.
        """

    def configure_sharded_model(self) -> None:
        """Make or shard layers, on every process, before optimizers are made; may run again."""

    def configure_model(self) -> None:
        """Do what :meth:`configure_sharded_model` does, under today's name."""

    def configure_callbacks(self) -> Sequence[Any]:
        """Return callbacks that this module brings along; they replace those of the same class."""
        return []

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_idx: int,
        optimizer_closure: Callable[[], Any] | None = None,
        on_tpu: bool = False,
        using_native_amp: bool = False,
        using_lbfgs: bool = False,
    ) -> None:
        """Step an optimizer; the closure runs the training step and the backward pass."""
        optimizer.step(closure=optimizer_closure)

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: Optimizer, optimizer_idx: int
    ) -> None:
        """Clear the gradients of an optimizer, after its step."""
        optimizer.zero_grad()

    def backward(
        self, loss: Tensor, optimizer: Any, optimizer_idx: int | None, *args: Any, **kwargs: Any
    ) -> None:
        """Run the backward pass."""
        loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def lr_scheduler_step(self, scheduler: Any, optimizer_idx: int, metric: Any) -> None:
        """Step a scheduler; ``metric`` is None except for those that watch one."""
        if metric is None:
            scheduler.step()
        else:
            scheduler.step(metric)

    def tbptt_split_batch(self, batch: Any, split_size: int) -> list[Any]:
        """Split a batch along time (dimension 1) for truncated back-propagation.

        Args:
            batch: A sequence of tensors ``(batch, time, ...)`` or of lists of sequences.
            split_size: Time steps in a split; the last one may be shorter.
        """
        return split_batch(batch, split_size)

    def on_fit_start(self) -> None:
        """Run when fit begins, the model on its device and the optimizers made; also in test."""

    def on_fit_end(self) -> None:
        """Run when fit is over; also in test."""

    def on_pretrain_routine_start(self) -> None:
        """Run before a checkpoint is restored."""

    def on_pretrain_routine_end(self) -> None:
        """Run after a checkpoint was restored, before the sanity check."""

    def on_train_start(self) -> None:
        """Run before the first epoch."""

    def on_train_end(self) -> None:
        """Run after the last epoch, and after an exception in one."""

    def on_epoch_start(self) -> None:
        """Run at the start of each training epoch, before ``on_train_epoch_start``."""

    def on_epoch_end(self) -> None:
        """Run at the end of each training epoch, before ``on_train_epoch_end``."""

    def on_train_epoch_start(self) -> None:
        """Run at the start of each training epoch."""

    def on_train_epoch_end(self, outputs: list[Any]) -> None:
        """Run at the end of each training epoch, before ``training_epoch_end``.

        Args:
            outputs: What the steps returned, ``[optimizer][batch][split]``. Kept only if this
                method, or that of a callback, takes it; an override may leave it out.
        """

    def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> int | None:
        """Run before a training step. Return -1 to end the epoch without it."""

    def on_train_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Run after a training step.

        Args:
            outputs: A list for each optimizer, with an entry for each split of the batch.
            batch: The batch.
            batch_idx: Its place in the epoch, from 0.
            dataloader_idx: Always 0.
        """

    def on_validation_model_eval(self) -> None:
        """Put the model into evaluation mode; an override has to do that itself."""
        _mode(self, False)

    def on_validation_model_train(self) -> None:
        """Put the model back into training mode; an override has to do that itself."""
        _mode(self, True)

    def on_validation_start(self) -> None:
        """Run before validation."""

    def on_validation_end(self) -> None:
        """Run after validation."""

    def on_validation_epoch_start(self) -> None:
        """Run before the first validation batch."""

    def on_validation_epoch_end(self) -> None:
        """Run after ``validation_epoch_end``."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """Run before a validation step."""

    def on_validation_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Run after a validation step; ``outputs`` is what it returned."""

    def on_test_model_eval(self) -> None:
        """Put the model into evaluation mode; an override has to do that itself."""
        _mode(self, False)

    def on_test_model_train(self) -> None:
        """Put the model back into training mode; an override has to do that itself."""
        _mode(self, True)

    def on_test_start(self) -> None:
        """Run before a test."""

    def on_test_end(self) -> None:
        """Run after a test."""

    def on_test_epoch_start(self) -> None:
        """Run before the first test batch."""

    def on_test_epoch_end(self) -> None:
        """Run after ``test_epoch_end``."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """Run before a test step."""

    def on_test_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Run after a test step; ``outputs`` is what it returned."""

    def on_predict_model_eval(self) -> None:
        """Put the model into evaluation mode; an override has to do that itself."""
        _mode(self, False)

    def on_predict_model_train(self) -> None:
        """Put the model back into training mode; an override has to do that itself."""
        _mode(self, True)

    def on_predict_start(self) -> None:
        """Run before a prediction."""

    def on_predict_end(self) -> None:
        """Run after a prediction."""

    def on_predict_epoch_start(self) -> None:
        """Run before the first batch to predict."""

    def on_predict_epoch_end(self, results: list[Any]) -> None:
        """Run after the last batch to predict; ``results`` holds a list for each loader."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        """Run before a predict step."""

    def on_predict_batch_end(
        self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Run after a predict step; ``outputs`` is what it returned."""

    def on_before_backward(self, loss: Tensor) -> None:
        """Run before the backward pass, with the loss as it is divided for accumulation."""

    def on_after_backward(self) -> None:
        """Run after the backward pass. Gradients are clipped already, as in Lightning 1.1."""

    def on_before_optimizer_step(self, optimizer: Optimizer, optimizer_idx: int) -> None:
        """Run before each optimizer step, only where the accumulated gradients are complete."""

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Run after an optimizer step, while the gradients are still there."""

    def on_hpc_save(self, checkpoint: dict[str, Any]) -> None:
        """Add to the checkpoint that is written when a cluster takes the machine away."""

    def on_hpc_load(self, checkpoint: dict[str, Any]) -> None:
        """Read what ``on_hpc_save`` added."""


def _mode(module: ModuleHooks, training: bool) -> None:
    """Switch modes where there is an ``nn.Module``: every subclass is one, this class is not."""
    if isinstance(module, nn.Module):
        module.train(training)

"""Views of the connectors and loops of Lightning 1.1's Trainer: thin, and made when asked for.

See :mod:`leyden.legacy_trainer` for the names they have on a Trainer.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from leyden import legacy_distributed
from leyden.accumulators import TensorRunningAccum
from leyden.handlers import checkpoint_io, checkpoint_state
from leyden.handlers.checkpoint_names import is_remote, join
from leyden.legacy_steps import (
    Replaceable,
    evaluation_step,
    run_training_batch,
    training_step_and_backward,
)
from leyden.optimizers import configured
from leyden.requeueing import next_name
from leyden.transfer import move_to_device

__all__ = [
    "AcceleratorBackend",
    "CheckpointConnector",
    "DataConnector",
    "EvaluationLoop",
    "LoggerConnector",
    "OptimizerConnector",
    "TrainLoop",
]


class _Part:
    """One part of 1.1's Trainer; what it does not have says what replaced it."""

    #: where to look instead, for everything that is not here.
    instead = "print(trainer.plan()) shows the handlers that do its work"

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"{name!r} is not in what leyden has of Lightning 1.1's {type(self).__name__}: "
            f"{self.instead}"
        )


class TrainLoop(_Part):
    """``trainer.train_loop``."""

    instead = "the loop is trainer.engine, its position trainer.engine.state"
    training_step_and_backward = Replaceable(training_step_and_backward)

    def run_training_batch(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Train on one batch by hand, after fit."""
        return run_training_batch(self.trainer, batch, batch_idx, dataloader_idx)

    @property
    def running_loss(self) -> TensorRunningAccum:
        """The losses of the last 20 optimizer steps, from the first time somebody asks."""
        self.trainer.running_loss  # noqa: B018  # from now on they are kept
        kept = TensorRunningAccum(20)
        for loss in self.trainer.handlers["RunningLoss"].losses:
            kept.append(loss)
        return kept

    @property
    def batch_idx(self) -> int:
        """The number of the batch in its epoch."""
        return int(self.trainer.batch_idx)

    @property
    def total_batch_idx(self) -> int:
        """The number of the batch in the run."""
        return int(self.trainer.total_batch_idx)

    @property
    def split_idx(self) -> int | None:
        """The number of the part of a batch, in truncated back-propagation."""
        found: int | None = self.trainer.split_idx
        return found

    @property
    def global_step(self) -> int:
        """Optimizer steps."""
        return int(self.trainer.global_step)

    @property
    def current_epoch(self) -> int:
        """The epoch."""
        return int(self.trainer.current_epoch)

    @property
    def num_optimizers(self) -> int:
        """How many optimizers there are."""
        return len(self.trainer.optimizers)

    def get_optimizers_iterable(self) -> list[tuple[int, Any]]:
        """The optimizers with their numbers."""
        return list(enumerate(self.trainer.optimizers))

    def should_accumulate(self) -> bool:
        """Whether the batch that runs only adds to the gradients."""
        step, state = self.trainer._run.step, self.trainer._run.state
        return step is not None and not step.closes_group(state)


class EvaluationLoop(_Part):
    """``trainer.evaluation_loop``."""

    instead = "validation and test are engines, trainer.evaluators"
    evaluation_step = Replaceable(evaluation_step)

    def _stage(self) -> str:
        return "test" if self.trainer.testing else "validate"

    @property
    def max_batches(self) -> list[float]:
        """Batches of each loader, after the limit."""
        return list(self.trainer._run.loaders.num_batches.get(self._stage(), []))

    @property
    def dataloaders(self) -> list[Any]:
        """The loaders."""
        return list(self.trainer._run.loaders.evaluation.get(self._stage(), []))

    @property
    def num_dataloaders(self) -> int:
        """How many loaders there are."""
        return len(self.dataloaders)


class LoggerConnector(_Part):
    """``trainer.logger_connector``."""

    instead = "values are logged by self.log, and read from trainer.callback_metrics and its like"

    @property
    def should_update_logs(self) -> bool:
        """Whether what this batch logs is written: every ``log_every_n_steps`` steps."""
        trainer = self.trainer
        due = (trainer.global_step + 1) % trainer.log_every_n_steps == 0
        return bool(due or trainer.should_stop)

    @property
    def callback_metrics(self) -> Mapping[str, Any]:
        """The newest value of everything logged."""
        found: Mapping[str, Any] = self.trainer.callback_metrics
        return found

    @callback_metrics.setter
    def callback_metrics(self, metrics: Mapping[str, Any]) -> None:
        self.trainer.callback_metrics = metrics

    @property
    def logged_metrics(self) -> Mapping[str, Any]:
        """What went to the loggers last."""
        found: Mapping[str, Any] = self.trainer.logged_metrics
        return found

    @property
    def progress_bar_metrics(self) -> Mapping[str, Any]:
        """What was logged for the bar."""
        found: Mapping[str, Any] = self.trainer.progress_bar_metrics
        return found

    def log_metrics(
        self, metrics: Mapping[str, Any], grad_norm_dic: Mapping[str, Any], step: int | None = None
    ) -> None:
        """Write a row to the loggers now."""
        self.trainer._run.recorder.log_metrics({**metrics, **grad_norm_dic}, step=step)

    def add_progress_bar_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Show numbers in the progress bar."""
        self.trainer._run.recorder.progress_bar_metrics.store(dict(metrics))


class CheckpointConnector(_Part):
    """``trainer.checkpoint_connector``."""

    instead = "trainer.save_checkpoint(path) writes, fit(ckpt_path=path) goes on from a file"

    @property
    def has_trained(self) -> bool:
        """Whether the last fit trained on a batch."""
        run = self.trainer._run
        return run.step is not None and not run.nothing_left and run.state.iteration > 0

    def dump_checkpoint(self, weights_only: bool = False) -> dict[str, Any]:
        """What a checkpoint of this moment holds."""
        return checkpoint_state.dump(self.trainer, weights_only)

    def save_checkpoint(self, filepath: Any, weights_only: bool = False) -> None:
        """Write a checkpoint."""
        self.trainer.save_checkpoint(filepath, weights_only)

    def restore(self, checkpoint_path: Any, on_gpu: bool = False) -> bool:
        """Put the run that is on back to a checkpoint; False where there is no such file."""
        path = os.fspath(checkpoint_path)
        if not is_remote(path) and not os.path.isfile(path):
            return False
        checkpoint_state.restore(self.trainer, checkpoint_io.load(path, map_location="cpu"))
        return True

    def restore_training_state(self, checkpoint: dict[str, Any]) -> None:
        """Put the run that is on back to what a checkpoint holds, the weights too.

        Raises:
            KeyError: it holds weights only.
        """
        checkpoint_state.restore(self.trainer, checkpoint)

    def hpc_save(self, folderpath: Any, logger: Any = None) -> str:
        """Write ``hpc_ckpt_<n>.ckpt``, with what ``on_hpc_save`` of the module adds."""
        folder = str(folderpath)
        path = join(folder, next_name(folder))
        run = self.trainer._run
        run.requeueing = True
        try:
            self.trainer.save_checkpoint(path)
        finally:
            run.requeueing = False
        return path

    def hpc_load(self, checkpoint_path: Any, on_gpu: bool = False) -> None:
        """Put the run back to such a checkpoint; the module's ``on_hpc_load`` reads its part."""
        checkpoint = checkpoint_io.load(checkpoint_path, map_location="cpu")
        checkpoint_state.restore(self.trainer, checkpoint)
        self.trainer.model.on_hpc_load(checkpoint)

    def max_ckpt_in_folder(self, dir_path: Any, name_key: str = "ckpt_") -> int | None:
        """The highest number behind ``name_key`` in the names of a folder; None without one."""
        if not os.path.isdir(dir_path):
            return None
        found = [re.search(rf"{re.escape(name_key)}(\d+)", name) for name in os.listdir(dir_path)]
        return max((int(match[1]) for match in found if match), default=None)

    def get_max_ckpt_path_from_folder(self, folder_path: Any) -> str:
        """The path of the newest ``hpc_ckpt_<n>.ckpt`` of a folder; number 0 without one."""
        number = self.max_ckpt_in_folder(folder_path) or 0
        return join(str(folder_path), f"hpc_ckpt_{number}.ckpt")


class DataConnector(_Part):
    """``trainer.data_connector``."""

    instead = "fit, test and their like take the loaders, or a data module"

    def can_prepare_data(self) -> bool:
        """Whether this process is one that prepares data."""
        return bool(self.trainer._run._prepares_here())

    def attach_dataloaders(
        self,
        model: Any,
        train_dataloader: Any = None,
        val_dataloaders: Any = None,
        test_dataloaders: Any = None,
    ) -> None:
        """Say where loaders come from, for ``reset_train_dataloader`` and its like."""
        self.trainer._run.loaders.provide(
            model,
            None,
            train_dataloader=train_dataloader,
            val_dataloader=val_dataloaders,
            test_dataloader=test_dataloaders,
        )

    def attach_datamodule(self, model: Any, datamodule: Any = None, stage: str = "fit") -> None:
        """Take the loaders from a data module, for ``reset_train_dataloader`` and its like."""
        found = self.trainer._connect(model, datamodule, ())
        self.trainer._run.loaders.provide(model, found)
        self.trainer._run.datamodule = found


class AcceleratorBackend(_Part):
    """``trainer.accelerator_backend``, also ``trainer.accelerator`` of later versions."""

    instead = "devices and processes are in leyden.backends, and are chosen by arguments"
    rpc_enabled = False
    ddp_plugin = None

    def barrier(self, name: str | None = None) -> None:
        """Wait for all processes."""
        if legacy_distributed._running():
            torch.distributed.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """What the process ``src`` has, in all of them."""
        if not legacy_distributed._running():
            return obj
        held = [obj]
        torch.distributed.broadcast_object_list(held, src=src)
        return held[0]

    def all_gather(self, tensor: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """The tensors of all processes, stacked."""
        return legacy_distributed.all_gather_ddp_if_available(tensor, group, sync_grads)

    def sync_tensor(self, tensor: Any, group: Any = None, reduce_op: Any = None) -> Any:
        """Reduce a tensor over all processes."""
        return legacy_distributed.sync_ddp_if_available(tensor, group, reduce_op)

    def to_device(self, batch: Any) -> Any:
        """Move a batch to where the module is."""
        return move_to_device(batch, self.trainer.model.device)

    def batch_to_device(self, batch: Any, device: Any) -> Any:
        """Move a batch, the way that the module has for it."""
        model = self.trainer.model
        if model is None:
            return move_to_device(batch, torch.device(device))
        return model.transfer_batch_to_device(batch, torch.device(device))

    def setup_optimizers(self, model: Any) -> None:
        """Ask the module for its optimizers again, and step those from now on."""
        parts = configured(model.configure_optimizers())
        self.trainer.optimizers, self.trainer.lr_schedulers = parts.optimizers, parts.schedulers


class OptimizerConnector(_Part):
    """``trainer.optimizer_connector``."""

    instead = "schedulers are stepped by the handler LRSchedulers, or by the module's own code"

    def update_learning_rates(self, interval: str, monitor_metrics: Any = None) -> None:
        """Step the schedulers of an interval, ``"epoch"`` or ``"step"``, whose turn it is."""
        handler = self.trainer._run.schedulers
        if handler is not None:
            epoch = interval == "epoch"
            handler.step(interval, self.trainer.current_epoch if epoch else self.trainer.batch_idx)

"""LightningModule: a model that says itself how it is trained."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from leyden.exceptions import MisconfiguredValue
from leyden.export import to_onnx, to_torchscript
from leyden.handlers.metric_objects import note_attribute
from leyden.handlers.summary import ModelSummary
from leyden.hparams import HyperParameters
from leyden.loading import load_module
from leyden.module_hooks import ModuleHooks
from leyden.module_tools import (
    Toggles,
    all_gather,
    clip_gradients,
    grad_norm,
    progress_items,
    warn_tbptt_reduction,
)
from leyden.predictions import Predictions

__all__ = ["LightningModule"]

_MEAN = torch.mean
_Self = TypeVar("_Self", bound="LightningModule")


class LightningModule(ModuleHooks, HyperParameters, nn.Module):
    """A ``torch.nn.Module`` with the steps, the optimizers and the data of its training.

    Attributes:
        trainer: The Trainer that runs this module; None before. Left out of pickles and copies.
        datamodule: A data module to take the loaders from, if the user set one.
        example_input_array: An input of ``forward``, for summaries and export.
        precision: That of the run; written by the Trainer.

    Example:
        >>> class Model(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.layer(batch).mean()
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> Model().device, Model().automatic_optimization
        (device(type='cpu'), True)
    """

    CHECKPOINT_HYPER_PARAMS_KEY: ClassVar[str] = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME: ClassVar[str] = "hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE: ClassVar[str] = "hparams_type"
    # Read only while a run is on, or unknown to the compiler; torch.jit.script would compile them.
    __jit_unused_properties__: ClassVar[list[str]] = [
        "_current_dataloader_idx",
        "automatic_optimization",
        "current_epoch",
        "device",
        "dtype",
        "global_rank",
        "global_step",
        "hparams",
        "hparams_initial",
        "local_rank",
        "logger",
        "on_gpu",
    ]

    # On the class: none of them costs a module anything, and they are there before __init__ ran.
    trainer: Any = None
    datamodule: Any = None
    example_input_array: Any = None
    precision: int | str = 32
    use_amp: bool = False
    use_dp: bool = False
    use_ddp: bool = False
    use_ddp2: bool = False
    use_tpu: bool = False
    _automatic_optimization: bool = True
    _recorder: Any = None  # Set by the run: what takes the values of self.log.
    _predictions: Predictions | None = None
    _toggles: Toggles | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._device = torch.get_default_device()
        self._dtype = torch.get_default_dtype()

    # ---------------------------------------------------------------- logging

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool = True,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Callable[..., Any] | str = torch.mean,
        tbptt_reduce_fx: Callable[..., Any] = torch.mean,
        tbptt_pad_token: int = 0,
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_op: Any = "mean",
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log a value under a name. Does nothing outside a run.

        Args:
            name: The key in the metrics and in the logger.
            value: A number, a tensor of one element, or a metric object.
            prog_bar: Show it in the progress bar.
            logger: Send it to the logger.
            on_step: Log the value of each step; None: what suits the hook it is called from.
            on_epoch: Log the mean of the epoch; None: what suits the hook.
            reduce_fx: What makes one value of the epoch's.
            tbptt_reduce_fx: Taken for code written against Lightning 1.1; splits of a batch are
                always reduced by ``reduce_fx``, and another value than the default warns.
            tbptt_pad_token: As ``tbptt_reduce_fx``.
            enable_graph: Keep the graph of the value.
            sync_dist: Reduce over all processes.
            sync_dist_op: How.
            sync_dist_group: Over which group.
            add_dataloader_idx: Add ``/dataloader_idx_n`` where there are several loaders.
            batch_size: The weight of the value in the mean; None: found in the batch.
            metric_attribute: Where a metric object hangs that is in a list, a dict or an object
                of another kind, such as ``"scores.train"`` for ``self.scores["train"]``: its state
                is saved by this path. Attributes of the module or its parts are found without.
            rank_zero_only: Log in the process of rank 0 only.
        """
        recorder = self._recorder
        if recorder is None:
            return
        if tbptt_pad_token or tbptt_reduce_fx is not _MEAN:
            warn_tbptt_reduction(name)
        if metric_attribute is not None:
            note_attribute(self, name, value, metric_attribute)
        recorder.log(
            self,
            name,
            value,
            prog_bar,
            logger,
            on_step,
            on_epoch,
            reduce_fx,
            enable_graph,
            sync_dist,
            sync_dist_op,
            sync_dist_group,
            add_dataloader_idx,
            batch_size,
            rank_zero_only,
        )

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Log each value of a dict; the other arguments are those of :meth:`log`."""
        for name, value in dictionary.items():
            self.log(name, value, *args, **kwargs)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print from the process of rank 0 only, above the progress bar."""
        trainer = self.trainer
        if trainer is not None and not trainer.is_global_zero:
            return
        bar = getattr(trainer, "progress_bar_callback", None)
        above = getattr(bar, "print", None)
        (above or print)(*args, **kwargs)

    def get_progress_bar_dict(self) -> dict[str, Any]:
        """Return what the progress bar shows beside the logged values: the loss and the version.

        Override it to add or remove items.
        """
        return progress_items(self.trainer)

    def write_prediction(
        self, name: str, value: Any, filename: str | Path = "predictions.pt"
    ) -> None:
        """Keep a prediction of a test step; the file is written when the test is over.

        Args:
            name: The key in each record of the file.
            value: A tensor or a list with an item for each sample.
            filename: The file, relative to the current directory.
        """
        if self._predictions is None:
            self._predictions = Predictions()
        self._predictions.add(str(filename), {name: value})

    def write_prediction_dict(
        self, predictions_dict: Mapping[str, Any], filename: str | Path = "predictions.pt"
    ) -> None:
        """Keep several predictions of a test step; see :meth:`write_prediction`."""
        for name, value in predictions_dict.items():
            self.write_prediction(name, value, filename)

    # ---------------------------------------------------------------- optimization

    @property
    def automatic_optimization(self) -> bool:
        """Whether the run does backward pass and optimizer step; False: ``training_step`` does."""
        return self._automatic_optimization

    @automatic_optimization.setter
    def automatic_optimization(self, value: bool) -> None:
        self._automatic_optimization = value

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Return the optimizer, or the list of them where there are several.

        Args:
            use_pl_optimizer: Return those whose ``step`` does what the run needs around it
                (precision, accumulation); False for the user's own objects.
        """
        trainer = self._running("optimizers")
        wrapped = getattr(trainer, "lightning_optimizers", None) if use_pl_optimizer else None
        if isinstance(wrapped, Mapping):
            wrapped = list(wrapped.values())
        found = list(wrapped or trainer.optimizers)
        return found[0] if len(found) == 1 else found

    def lr_schedulers(self) -> Any:
        """Return the scheduler, the list of them where there are several, or None."""
        entries = self._running("lr_schedulers").lr_schedulers
        found = [entry["scheduler"] for entry in entries or []]
        if not found:
            return None
        return found[0] if len(found) == 1 else found

    def manual_backward(
        self, loss: Tensor, optimizer: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Run the backward pass in manual optimization, scaled as the precision of the run asks.

        Raises:
            MisconfigurationException: Optimization is automatic.
        """
        if self.automatic_optimization and (self.trainer is None or not self.trainer._run.by_hand):
            raise MisconfiguredValue(
                "manual_backward was called, but automatic_optimization=True runs backward "
                "itself: set self.automatic_optimization = False in __init__, or return the loss"
            )
        if self.trainer is None:
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]
        else:
            self.trainer.manual_backward(loss, *args, optimizer=optimizer, **kwargs)

    def toggle_optimizer(self, optimizer: Any, optimizer_idx: int | None = None) -> None:
        """Freeze the parameters of all other optimizers; what was frozen before stays frozen.

        Args:
            optimizer: The one whose parameters go on training.
            optimizer_idx: Its place among the optimizers; not needed.
        """
        if self._toggles is None:
            self._toggles = Toggles()
        self._toggles.push(optimizer, [] if self.trainer is None else self.trainer.optimizers)

    def untoggle_optimizer(self, optimizer: Any = None, optimizer_idx: int | None = None) -> None:
        """Undo the last :meth:`toggle_optimizer`, or that of ``optimizer`` and all since.

        Args:
            optimizer: The optimizer or its place among them. None: the last one toggled.
            optimizer_idx: Its place, where it is not said by ``optimizer``.
        """
        if self._toggles is not None:
            if optimizer is None:
                optimizer = optimizer_idx
            if isinstance(optimizer, int):
                optimizer = self._running("untoggle_optimizer").optimizers[optimizer]
            self._toggles.pop(optimizer)

    def _untoggle_all(self) -> None:
        """Undo every toggle; the run does this when it ends, also by an exception."""
        if self._toggles is not None:
            self._toggles.clear()

    @contextmanager
    def toggled_optimizer(self, optimizer: Any) -> Iterator[None]:
        """Toggle an optimizer for the length of a ``with`` block, however it is left."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        optimizer_idx: int = 0,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients before a step. The default clips all parameters of the module."""
        value, algorithm = self._clipping(gradient_clip_val, gradient_clip_algorithm)
        clip_gradients(self.parameters(), value, algorithm)

    def clip_gradients(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of one optimizer's parameters.

        Args:
            optimizer: Whose parameters.
            gradient_clip_val: The largest norm or value; None: that of the Trainer; 0: no clipping.
            gradient_clip_algorithm: ``"norm"`` or ``"value"``; None: that of the Trainer.
        """
        value, algorithm = self._clipping(gradient_clip_val, gradient_clip_algorithm)
        held = (p for group in optimizer.param_groups for p in group["params"])
        clip_gradients(held, value, algorithm)

    def _clipping(self, value: float | None, algorithm: str | None) -> tuple[float, str]:
        if value is None:
            value = getattr(self.trainer, "gradient_clip_val", None)
        if algorithm is None:
            algorithm = getattr(self.trainer, "gradient_clip_algorithm", None)
        return float(value or 0.0), algorithm or "norm"

    def grad_norm(self, norm_type: float | int | str) -> dict[str, float]:
        """Return the norm of each gradient and of all, rounded to 4 digits.

        Args:
            norm_type: The p of the norm, or ``"inf"``.
        """
        return grad_norm(self.named_parameters(), float(norm_type))

    # ---------------------------------------------------------------- state of the run

    @property
    def current_epoch(self) -> int:
        """The epoch, from 0; 0 without a Trainer."""
        return self.trainer.current_epoch if self.trainer is not None else 0

    @property
    def global_step(self) -> int:
        """Optimizer steps done in total; 0 without a Trainer."""
        return self.trainer.global_step if self.trainer is not None else 0

    @property
    def _current_dataloader_idx(self) -> int | None:
        # By this name callbacks for Lightning 1.1 ask in the hooks of evaluation batches.
        return None if self._recorder is None else self.trainer._run.loader_of_batch()

    @property
    def global_rank(self) -> int:
        """The number of this process among all; 0 without a Trainer."""
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def local_rank(self) -> int:
        """The number of this process on its machine; 0 without a Trainer."""
        return self.trainer.local_rank if self.trainer is not None else 0

    @property
    def logger(self) -> Any:
        """The logger of the Trainer; None without one."""
        return self.trainer.logger if self.trainer is not None else None

    @property
    def device(self) -> torch.device:
        """The device the module was last moved to."""
        return self._device

    @property
    def dtype(self) -> torch.dtype | str:
        """The type of floating point number the module was last converted to."""
        return self._dtype

    @property
    def on_gpu(self) -> bool:
        """Whether the module is on a CUDA device."""
        return self._device.type == "cuda"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LightningModule":
        """Follow every ``to``, ``cuda``, ``half``, ...: torch leads all of them through here."""
        moved = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # An own, empty tensor: the module need not have parameters, or these may be of mixed types.
        probe = fn(torch.empty(0, device=self._device, dtype=self._dtype))
        self._device = probe.device
        if probe.is_floating_point():
            self._dtype = probe.dtype
        return cast("LightningModule", moved)

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Return the tensors of all processes, stacked in a new first dimension.

        Args:
            data: A tensor, or containers of tensors. A single process gets it back as it is.
            group: The process group; None for all.
            sync_grads: Let gradients flow back to the process a tensor came from.
        """
        return all_gather(data, group, sync_grads)

    def _running(self, what: str) -> Any:
        if self.trainer is None:
            raise RuntimeError(
                f"{what} was used on a {type(self).__name__} without a Trainer: "
                "it is there from the moment trainer.fit(model) begins"
            )
        return self.trainer

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model, or one in a file or another process, must not drag the run along.
        state = self.__dict__.copy()
        for name in ("trainer", "_recorder", "_toggles"):
            state.pop(name, None)
        return state

    # ---------------------------------------------------------------- hyper-parameters and files

    @classmethod
    def load_from_checkpoint(
        cls: type[_Self],
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool = True,
        trust_checkpoint: bool = False,
        **kwargs: Any,
    ) -> _Self:
        """Build the module with the hyper-parameters of a checkpoint, and load its weights.

        Args:
            checkpoint_path: The file, or one that is open.
            map_location: Where its tensors go, as in ``torch.load``; None: to the CPU.
            hparams_file: A ``.yaml``, ``.yml`` or ``.csv`` file; its hyper-parameters replace those
                saved.
            strict: The names of the weights must be exactly those of the module.
            trust_checkpoint: Read the file even if that runs code from it.
            kwargs: Arguments of the constructor; they win over the saved ones.

        Returns:
            The module, in training mode and without a Trainer.

        Raises:
            TypeError: The constructor needs arguments that are neither saved nor given.
            ValueError: ``hparams_file`` is of an unknown kind.
        """
        return load_module(
            cls, checkpoint_path, map_location, hparams_file, strict, trust_checkpoint, kwargs
        )

    to_torchscript = to_torchscript
    to_onnx = to_onnx

    def freeze(self) -> None:
        """Stop all parameters from training and switch to evaluation mode."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        self.eval()

    def unfreeze(self) -> None:
        """Let all parameters train and switch to training mode."""
        for parameter in self.parameters():
            parameter.requires_grad = True
        self.train()

    def summarize(
        self, mode: str | None = "top", max_depth: int | None = None, flops: bool = False
    ) -> ModelSummary | None:
        """Return the table of layers and their parameters; None for ``mode=None``.

        Args:
            mode: ``"top"``, ``"full"`` or None.
            max_depth: How deep to look instead: 1 is ``"top"``, -1 is ``"full"``.
            flops: Count the operations of a forward pass; needs ``example_input_array``.
        """
        if max_depth is not None and mode == "top":
            mode = None  # Only the default; any other mode beside a depth is refused.
        elif mode is None and max_depth is None:
            return None
        return ModelSummary(self, mode=mode, max_depth=max_depth, flops=flops)

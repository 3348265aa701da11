"""Averages the weights of a model while it trains, and validates and saves with the average."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from leyden.engine import rng
from leyden.engine.errors import MisconfiguredType, MisconfiguredValue
from leyden.handlers.callback import Callback

__all__ = ["EMAWeightAveraging", "StochasticWeightAveraging", "WeightAveraging", "annealed"]

Average = Callable[[Tensor, Tensor, int], Tensor]


class WeightAveraging(Callback):
    """Keep an average of the weights beside them; a subclass says when it is updated, and how.

    The module holds the average during each validation run and after the training, and its own
    weights at
    all other times: they are put back bit for bit. Checkpoints hold the average as the model's
    weights, and the module's own in this callback's state. A further ``fit`` goes on from the
    module's own.

    Runs on: the starts and ends of training and validation, and what the subclass adds.

    State: the average, the module's own weights, the number of updates.

    Args:
        device: where the average is kept; None: beside the weights.
        use_buffers: average buffers of floating point too (running statistics); otherwise the
            module's stay.
    """

    order: ClassVar[float] = 2
    order_reason: ClassVar[str] = (
        "first: whoever looks at the module in validation sees the average"
    )

    def __init__(self, device: torch.device | str | None = None, use_buffers: bool = True) -> None:
        super().__init__()
        self.device = device
        self.use_buffers = use_buffers
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        # Not empty: the module holds the average, and its own weights are here.
        self._own: dict[str, Tensor] = {}
        # From a checkpoint, for the module once training begins.
        self._to_load: dict[str, Tensor] = {}
        self._module: Any = None
        self._found: tuple[Any, dict[str, Tensor], set[str]] | None = None

    def combine(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        """Bring ``weights`` into ``averages`` in place; here, each update has the same share."""
        torch._foreach_lerp_(averages, weights, 1.0 / (self.updates + 1))

    @torch.no_grad()
    def update(self, module: Any) -> None:
        """Take the weights of now into the average; the first time they are the average."""
        tensors = self._tensors(module)
        if not self.average:
            self.average = {
                name: tensor.detach().to(self.device or tensor.device, copy=True)
                for name, tensor in tensors.items()
            }
        else:
            weights = list(tensors.values())
            if self.device is not None:
                weights = [tensor.to(self.device) for tensor in weights]
            self.combine([self.average[name] for name in tensors], weights)
        self.updates += 1

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Know the module, whose weights a checkpoint keeps."""
        self._module, self._found = pl_module, None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the module its own weights, of the checkpoint or of the run before."""
        self._module, self._found = pl_module, None
        if self._to_load:
            _copy(self._to_load, self._tensors(pl_module))
            self._to_load = {}
        elif self._own:
            if _equal(self.average, self._tensors(pl_module)):
                self._put_back(pl_module)
            else:  # somebody loaded other weights since: they count
                self._own, self.average, self.updates = {}, {}, 0

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the module the average."""
        self._put_in(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the module its own weights back."""
        self._put_back(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the module its own weights back where validation failed."""
        self._put_back(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the average in the module."""
        self._put_in(pl_module)

    def weights_to_save(self, module: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``module.state_dict()`` with the average in place of the averaged weights."""
        if not self.average:
            return dict(state)
        names = self._names(module)
        return {key: self.average[names[key]] if key in names else state[key] for key in state}

    def state_dict(self) -> dict[str, Any]:
        """The average, the module's own weights, and the number of updates."""
        own: Mapping[str, Tensor] = self._own
        if not own and self.average and self._module is not None:
            own = {name: tensor.detach() for name, tensor in self._tensors(self._module).items()}
        return {"updates": self.updates, "average": dict(self.average), "own": dict(own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.updates = state["updates"]
        # Copies: the caller's checkpoint may be loaded twice.
        self.average = {
            name: tensor.detach().to(self.device or tensor.device, copy=True)
            for name, tensor in state["average"].items()
        }
        self._to_load = dict(state["own"])
        self._own = {}

    def _put_in(self, module: Any) -> None:
        if self.average and not self._own:
            tensors = self._tensors(module)
            self._own = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            _copy(self.average, tensors)

    def _put_back(self, module: Any) -> None:
        if self._own:
            _copy(self._own, self._tensors(module))
            self._own = {}

    def _tensors(self, module: Any) -> dict[str, Tensor]:
        """The tensors that are averaged, by name; shared ones once."""
        if self._found is None or self._found[0] is not module:
            # Looked up once, as it is asked after every step. Buffers may be replaced; parameters
            # are
            # what the optimizer holds.
            parameters = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
            saved = set(module.state_dict()) if self.use_buffers else set()
            self._found = (module, parameters, saved - set(parameters))
        _, parameters, saved = self._found
        if not saved:
            return parameters
        buffers = {n: b for n, b in module.named_buffers() if n in saved and b.is_floating_point()}
        return {**parameters, **buffers}

    def _names(self, module: Any) -> dict[str, str]:
        """The name under which each entry of ``state_dict`` is averaged."""
        first = {id(tensor): name for name, tensor in self._tensors(module).items()}
        entries = module.state_dict(keep_vars=True)
        return {key: first[id(value)] for key, value in entries.items() if id(value) in first}


class EMAWeightAveraging(WeightAveraging):
    """Average the weights with exponentially falling shares: ``average += (1 - decay) * (weights -
    average)``.

    Runs on: the end of a batch that completed an optimizer step, before a validation at the same
    step.

    Source: Lightning 2, with :class:`torch.optim.swa_utils.AveragedModel`.

    Args:
        device: where the average is kept; None: beside the weights.
        use_buffers: average buffers of floating point too.
        decay: between 0 and 1; nearer to 1 forgets more slowly.
        update_every_n_steps: optimizer steps from one update to the next.
        update_starting_at_step: no update before this step (0-based).
        update_starting_at_epoch: no update before this epoch (0-based).
    """

    def __init__(
        self,
        device: torch.device | str | None = None,
        use_buffers: bool = True,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
    ) -> None:
        super().__init__(device, use_buffers)
        if not 0 <= decay <= 1:
            raise MisconfiguredValue(
                f"EMAWeightAveraging(decay={decay}) is outside 0 to 1: pass, for example, 0.999"
            )
        if update_every_n_steps < 1:
            raise MisconfiguredValue(
                f"EMAWeightAveraging(update_every_n_steps={update_every_n_steps}) is below 1: "
                "pass a number of optimizer steps"
            )
        self.decay = decay
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch
        self._last_step = 0

    def combine(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        """Move the averages towards the weights."""
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay)

    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Update the average if this batch completed a step."""
        steps = getattr(trainer, "optimizer_steps", None)
        steps = trainer.global_step + 1 if steps is None else steps
        if steps == self._last_step:
            return
        self._last_step = steps
        begun = steps > (self.update_starting_at_step or 0)
        begun = begun and trainer.current_epoch >= (self.update_starting_at_epoch or 0)
        if begun and steps % self.update_every_n_steps == 0:
            self.update(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The average, and the step it was last looked at."""
        return {**super().state_dict(), "last_step": self._last_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        super().load_state_dict(state)
        self._last_step = state["last_step"]


class StochasticWeightAveraging(WeightAveraging):
    """Average the weights at the ends of the last epochs, trained with a constant, larger rate.

    From the first averaged epoch on the learning rate goes from its value then to ``swa_lrs``
    within ``annealing_epochs`` and stays there, whatever the run's schedulers say. When the
    training ends, the statistics of batch normalisation are measured again with the average, in one
    pass over the training data whose random numbers leave the run's untouched.

    Runs on: the start of each batch and the end of each training epoch, from the first averaged one
    on.

    Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better
    generalization"; the arguments are those of Lightning 2, which averages at the starts of epochs
    and trains one epoch longer.

    Args:
        swa_lrs: the rate, or one a parameter group.
        swa_epoch_start: the first averaged epoch (1-based), or a share of ``max_epochs``.
        annealing_epochs: epochs until the rate is reached; 0: at once.
        annealing_strategy: "cos" or "linear".
        avg_fn: ``avg_fn(average, weights, number of updates)`` returns the new average; None: equal
            shares.
        device: where the average is kept; None: beside the weights.
    """

    def __init__(
        self,
        swa_lrs: float | Sequence[float],
        swa_epoch_start: int | float = 0.8,
        annealing_epochs: int = 10,
        annealing_strategy: Literal["cos", "linear"] = "cos",
        avg_fn: Average | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(device, use_buffers=False)
        name = "StochasticWeightAveraging"
        rates = [swa_lrs] if isinstance(swa_lrs, (int, float)) else list(swa_lrs)
        if not rates or not all(isinstance(r, (int, float)) and r > 0 for r in rates):
            raise MisconfiguredValue(
                f"{name}(swa_lrs={swa_lrs!r}) is no rate above 0: pass a float, or one a "
                "parameter group"
            )
        if isinstance(swa_epoch_start, bool) or not isinstance(swa_epoch_start, (int, float)):
            raise MisconfiguredType(
                f"{name}(swa_epoch_start={swa_epoch_start!r}) is no number: pass an epoch from 1 "
                "on, "
                "or a share between 0.0 and 1.0"
            )
        whole = isinstance(swa_epoch_start, int)
        if (whole and swa_epoch_start < 1) or (not whole and not 0 <= swa_epoch_start <= 1):
            raise MisconfiguredValue(
                f"{name}(swa_epoch_start={swa_epoch_start}) is outside its range: pass an epoch "
                "from 1 "
                "on, or a share between 0.0 and 1.0"
            )
        if annealing_epochs < 0:
            raise MisconfiguredValue(
                f"{name}(annealing_epochs={annealing_epochs}) is negative: pass 0 or more"
            )
        if annealing_strategy not in ("cos", "linear"):
            raise MisconfiguredValue(
                f"{name}(annealing_strategy={annealing_strategy!r}) is unknown: pass 'cos' or "
                "'linear'"
            )
        self.swa_lrs = swa_lrs
        self.swa_epoch_start = swa_epoch_start
        self.annealing_epochs = annealing_epochs
        self.annealing_strategy = annealing_strategy
        self.avg_fn = avg_fn
        self.first_rates: list[float] = []

    def combine(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        """Bring the weights in with equal shares, or as ``avg_fn`` says."""
        if self.avg_fn is None:
            super().combine(averages, weights)
            return
        for average, weight in zip(averages, weights, strict=True):
            average.copy_(self.avg_fn(average, weight, self.updates))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the optimizer."""
        super().on_train_start(trainer, pl_module)
        if len(trainer.optimizers) != 1:
            raise MisconfiguredValue(
                f"StochasticWeightAveraging sets the rate of one optimizer, this run has "
                f"{len(trainer.optimizers)}: return one from configure_optimizers"
            )
        groups = len(trainer.optimizers[0].param_groups)
        if not isinstance(self.swa_lrs, (int, float)) and len(self.swa_lrs) != groups:
            raise MisconfiguredValue(
                f"StochasticWeightAveraging(swa_lrs={self.swa_lrs!r}) has {len(self.swa_lrs)} "
                "rates, the "
                f"optimizer has {groups} parameter groups: pass one a group, or a single float"
            )

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Set the rate; a scheduler may have changed it since the last batch."""
        since = trainer.current_epoch - self.first_epoch(trainer)
        if since < 0:
            return
        groups = trainer.optimizers[0].param_groups
        if not self.first_rates:
            self.first_rates = [float(group["lr"]) for group in groups]
        share = annealed(since, self.annealing_epochs, self.annealing_strategy)
        for index, group in enumerate(groups):
            last = self.swa_lrs if isinstance(self.swa_lrs, (int, float)) else self.swa_lrs[index]
            group["lr"] = self.first_rates[index] + share * (last - self.first_rates[index])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # type: ignore[override]
        """Take the weights of the epoch's end into the average."""
        if trainer.current_epoch >= self.first_epoch(trainer):
            self.update(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the average in the module, with statistics of its own."""
        super().on_train_end(trainer, pl_module)
        loader = getattr(trainer, "train_dataloader", None)
        if self.average and loader is not None and _has_batch_norm(pl_module):
            with rng.isolate():
                torch.optim.swa_utils.update_bn(loader, pl_module)

    def first_epoch(self, trainer: Any) -> int:
        """The first averaged epoch, 0-based."""
        if isinstance(self.swa_epoch_start, int):
            return self.swa_epoch_start - 1
        return int(self.swa_epoch_start * trainer.max_epochs)

    def state_dict(self) -> dict[str, Any]:
        """The average, and the rates it began with."""
        return {**super().state_dict(), "first_rates": list(self.first_rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        super().load_state_dict(state)
        self.first_rates = list(state["first_rates"])


def annealed(since: int, epochs: int, strategy: str) -> float:
    """Return the share of the way to the last rate, ``since`` epochs after the first.

    Example:
        >>> [annealed(t, 2, "linear") for t in (0, 1, 2, 3)]
        [0.0, 0.5, 1.0, 1.0]
    """
    t = 1.0 if epochs == 0 else min(since / epochs, 1.0)
    return t if strategy == "linear" else (1.0 - math.cos(math.pi * t)) / 2


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


def _equal(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> bool:
    return source.keys() == target.keys() and all(
        torch.equal(source[name].to(tensor.device), tensor) for name, tensor in target.items()
    )


def _has_batch_norm(module: Any) -> bool:
    kind = torch.nn.modules.batchnorm._BatchNorm
    return any(isinstance(part, kind) for part in module.modules())

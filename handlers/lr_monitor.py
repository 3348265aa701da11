"""Logs the learning rates of the schedulers."""

from typing import Any, ClassVar

from leyden.engine.errors import MisconfiguredValue
from leyden.engine.notice import warn
from leyden.handlers.callback import Callback
from leyden.handlers.loggers.guard import safe_logger

__all__ = ["LearningRateMonitor"]


class LearningRateMonitor(Callback):
    """Log the learning rate of each scheduler's optimizer, before it is used.

    Names are those of the schedulers' ``name``, else ``lr-SGD``, ``lr-SGD-1`` and so on by the
    optimizer's class, with ``/pg1``, ``/pg2`` for parameter groups.

    Runs on: the start of training, of its epochs and of its batches.

    State: none; ``lrs`` begins anew with each fit.

    Source: Lightning 1.1; ``log_weight_decay`` is from Lightning 2.

    Args:
        logging_interval: "step": every ``log_every_n_steps`` steps; "epoch": at each epoch's start;
            None: as each scheduler steps.
        log_momentum: also log momentum, or the first beta.
        log_weight_decay: also log weight decay.

    Attributes:
        lrs: the rates logged, by name.
        lr_sch_names: names of the schedulers.
    """

    state_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        logging_interval: str | None = None,
        log_momentum: bool = False,
        *,
        log_weight_decay: bool = False,
    ) -> None:
        super().__init__()
        if logging_interval not in (None, "step", "epoch"):
            raise MisconfiguredValue(
                f"LearningRateMonitor(logging_interval={logging_interval!r}) is unknown: "
                "pass 'step', 'epoch' or None"
            )
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay
        self.lrs: dict[str, list[float]] = {}
        self.lr_sch_names: list[str] = []
        self.last_momentum_values: dict[str, float | None] = {}
        self.last_weight_decay_values: dict[str, float] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Name the schedulers."""
        if not trainer.logger:
            raise MisconfiguredValue(
                "LearningRateMonitor cannot be used with a `Trainer` that has no logger: pass "
                "Trainer(logger=True) or a logger, or remove the callback"
            )
        schedulers = trainer.lr_schedulers
        if not schedulers:
            warn(
                "LearningRateMonitor: the models have no learning rate schedulers, nothing is "
                "logged: "
                "return some from configure_optimizers, or remove the callback",
                RuntimeWarning,
            )
        defaults = [entry["scheduler"].optimizer.defaults for entry in schedulers]
        if self.log_momentum and not all("momentum" in d or "betas" in d for d in defaults):
            warn(
                "LearningRateMonitor(log_momentum=True): some optimizers do not have momentum, "
                "0 is logged for them: leave log_momentum out to log rates alone",
                RuntimeWarning,
            )
        self.lr_sch_names = scheduler_names(schedulers)
        self.lrs = {name: [] for name, _ in self._groups(schedulers, None)}
        self.last_momentum_values = {_beside(name, "momentum"): None for name in self.lrs}

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        """Log at a step whose other values are logged too."""
        if self.logging_interval == "epoch":
            return
        due = (trainer.global_step + 1) % getattr(trainer, "log_every_n_steps", 1) == 0
        if due or trainer.should_stop:
            self._log(trainer, "step" if self.logging_interval is None else None)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Log at the start of an epoch."""
        if self.logging_interval != "step":
            self._log(trainer, "epoch" if self.logging_interval is None else None)

    def _log(self, trainer: Any, interval: str | None) -> None:
        values: dict[str, float] = {}
        for name, (group, betas) in self._groups(trainer.lr_schedulers, interval):
            rate = float(group["lr"])
            self.lrs[name].append(rate)
            values[name] = rate
            if self.log_momentum:
                key = _beside(name, "momentum")
                momentum = group["betas"][0] if betas else group.get("momentum", 0)
                values[key] = float(momentum)
                self.last_momentum_values[key] = values[key]
            if self.log_weight_decay:
                key = _beside(name, "weight_decay")
                decay = float(group.get("weight_decay", 0))
                values[key] = self.last_weight_decay_values[key] = decay
        if values:
            safe_logger(trainer).log_metrics(values, step=trainer.global_step)

    def _groups(
        self, schedulers: list[dict[str, Any]], interval: str | None
    ) -> list[tuple[str, tuple[dict[str, Any], bool]]]:
        """Name, parameter group, and whether it has betas; of the schedulers with this interval."""
        found = []
        for name, entry in zip(self.lr_sch_names, schedulers, strict=False):
            if interval is not None and entry.get("interval", "epoch") != interval:
                continue
            optimizer = entry["scheduler"].optimizer
            groups = optimizer.param_groups
            for number, group in enumerate(groups, 1):
                suffix = f"/pg{number}" if len(groups) > 1 else ""
                found.append((name + suffix, (group, "betas" in optimizer.defaults)))
        return found


def _beside(name: str, what: str) -> str:
    """Name a number that goes with the rate ``name``, before the group's suffix."""
    base, slash, number = name.partition("/pg")
    return f"{base}-{what}{slash}{number}"


def scheduler_names(schedulers: list[dict[str, Any]]) -> list[str]:
    """Return a name for each scheduler: its own, or its optimizer's class and a number."""
    names: list[str] = []
    for entry in schedulers:
        name = entry.get("name")
        if name is None:
            base = f"lr-{type(entry['scheduler'].optimizer).__name__}"
            name, number = base, 0
            while name in names:
                number += 1
                name = f"{base}-{number}"
        names.append(name)
    return names

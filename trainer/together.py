"""What is attached where several processes train as one; never imported where one does the work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from leyden.backends.strategies.processes import ProcessStrategy
from leyden.handlers.agreement import Agreement
from leyden.handlers.filler_batches import FillerBatches
from leyden.handlers.loggers import LoggerCollection
from leyden.handlers.loggers.folder import FolderLogger
from leyden.loaders import INFINITE, batches_of
from leyden.uneven import evened

__all__ = ["join", "monitored"]

#: The arguments that say when a loop does what: all processes need the same.
_ALIKE = (
    "max_epochs",
    "max_steps",
    "min_epochs",
    "min_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "precision",
    "val_check_interval",
    "check_val_every_n_epoch",
    "limit_val_batches",
    "num_sanity_val_steps",
    "log_every_n_steps",
    "reload_dataloaders_every_epoch",
    "truncated_bptt_steps",
)


def join(run: Any) -> None:
    """Attach what lets the processes of a run decide together, once."""
    strategy, settings = run.strategy, run.settings
    if strategy.world_size == 1 or not isinstance(strategy, ProcessStrategy):
        return
    strategy.sync_batchnorm = settings.sync_batchnorm
    strategy.replaces_samplers = settings.replace_sampler_ddp
    run.interruption.together = run.stopping().together = True
    _say_monitored(run)
    if strategy.connected:
        _share_versions(run)
    if "Agreement" in run.handlers:
        return
    origin = f"{strategy.name}, {strategy.world_size} processes"
    run.handlers.add(
        Agreement(
            strategy,
            stopping=run.stopping,
            interruption=run.interruption,
            evaluators=run.evaluators,
            facts=lambda: list(_facts(run)),
            monitored=lambda: monitored(run),
            metrics=lambda: run.recorder.callback_metrics,
            loader=lambda: run.loaders.train,
            counted=lambda: (
                strategy.join_uneven_inputs or batches_of(run.loaders.train) != INFINITE
            ),
            prepare=lambda: _say_monitored(run),
            ask_every=strategy.ask_every,
        ),
        origin=origin,
    )
    if strategy.join_uneven_inputs:
        run.handlers.add(evened(run), origin=f"{type(strategy).__name__}(join_uneven_inputs=True)")
    run.handlers.add(
        FillerBatches(run.evaluators.values(), lambda: run.recorder._stage, lambda: run.model),
        origin=origin,
    )


def _share_versions(run: Any) -> None:
    """Have all processes name the same folder: the next free number is another for a late one."""
    loggers = [one for one in _loggers(run.logger) if isinstance(one, FolderLogger)]
    if loggers:
        first = run.strategy.global_rank == 0
        versions = [one.version for one in loggers] if first else None
        for one, version in zip(loggers, run.strategy.broadcast(versions), strict=True):
            one._version = version


def _loggers(logger: Any) -> list[Any]:
    if isinstance(logger, LoggerCollection):
        return list(logger)
    return [] if logger is None else [logger]


def _say_monitored(run: Any) -> None:
    run.recorder.monitored = frozenset(monitored(run))


def monitored(run: Any) -> Iterator[str]:
    """The names of the metrics that callbacks and schedulers decide by."""
    for owner in run.callbacks():
        name = getattr(owner, "monitor", None)
        if isinstance(name, str):
            yield name
    for entry in run.parts.schedulers:
        name = entry.get("monitor") if isinstance(entry, dict) else None
        if isinstance(name, str):
            yield name


def _facts(run: Any) -> Iterator[str]:
    for name in _ALIKE:
        yield f"{name}={getattr(run.settings, name, None)!r}"
    for index, optimizer in enumerate(run.parts.optimizers):
        shapes = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
        yield f"optimizer {index}: {type(optimizer).__name__} of {len(shapes)} parameters"
    loader = run.loaders.train
    for name in ("sampler", "batch_sampler"):
        seed = getattr(getattr(loader, name, None), "seed", None)
        if isinstance(seed, int):
            yield f"seed of the training loader's {name}: {seed}"
    yield f"validation: {'on' if run.validates else 'off'}"

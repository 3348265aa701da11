"""From arguments to handlers: one table, one entry a feature, in the order they are attached.

An entry reads some arguments and gives a handler, or None where they switch the feature off:
nothing that is switched off is attached. Which handler runs first on an event is declared on the
handlers, not here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leyden.handlers.accumulation import GradientAccumulation, factor_at
from leyden.handlers.checkpoint_names import is_remote
from leyden.handlers.gradient_averaging import GradientAveraging
from leyden.handlers.gradient_clipping import GradientClipping, clip_gradients
from leyden.handlers.gradient_norm import GradientNorm, gradient_norms
from leyden.handlers.loader_reload import LoaderReload
from leyden.handlers.logger_flush import LoggerFlush
from leyden.handlers.logger_lifecycle import LoggerLifecycle
from leyden.handlers.nan_termination import NanTermination
from leyden.handlers.position import Position
from leyden.handlers.precision import PrecisionHandler
from leyden.handlers.profilers import PassThroughProfiler
from leyden.handlers.profiling import Profiling
from leyden.handlers.sampler_epoch import SamplerEpoch
from leyden.handlers.step_mark import StepMark
from leyden.handlers.stopping import Stopping
from leyden.handlers.summary_printer import SummaryPrinter
from leyden.handlers.torch_flags import TorchFlags
from leyden.handlers.validation import Validation
from leyden.module import LightningModule
from leyden.overrides import overrides
from leyden.requeueing import slurm_requeue
from leyden.run import Run

__all__ = ["ASSEMBLY", "Feature", "assemble", "origin_of"]


@dataclass(frozen=True)
class Feature:
    """One feature: the arguments it reads, and how its handler is made of them.

    Attributes:
        arguments: names; the first one that was given is shown as the origin in the plan.
        build: ``build(settings, run)`` gives the handler or None.
    """

    arguments: tuple[str, ...]
    build: Callable[[Any, Run], Any]


def _accumulation(settings: Any, run: Run) -> Any:
    factor = settings.accumulate_grad_batches
    if factor in (1, {0: 1}):
        run.state.accumulate_grad_batches = 1
        return None
    handler = GradientAccumulation(factor)
    # In force at once: it may have been changed in a hook of the epoch that begins.
    run.state.accumulate_grad_batches = factor_at(handler.schedule, max(run.state.epoch - 1, 0))
    return handler


def _grad_norm(settings: Any, run: Run) -> Any:
    p = settings.track_grad_norm
    if p <= 0:
        return None

    def report(norms: dict[str, Any]) -> None:
        run.recorder.log_metrics({}, grad_norms=norms)

    def measure(p: Any) -> dict[str, Any]:
        if overrides(run.model, "grad_norm", LightningModule):
            own: dict[str, Any] = run.model.grad_norm(p)
            return own
        # Not the module's own: that gives numbers, and waits for the device to have them.
        norms = gradient_norms(run.model.named_parameters(), p)
        return {name: norm.round(decimals=4) for name, norm in norms.items()}

    return GradientNorm(
        "inf" if p == float("inf") else p,
        report,
        due=lambda: run.recorder.row_due(run.state.should_stop),
        measure=measure,
    )


def _clipping(settings: Any, run: Run) -> Any:
    if not settings.gradient_clip_val:
        return None
    handler = GradientClipping(
        settings.gradient_clip_val, algorithm=settings.gradient_clip_algorithm
    )

    def own(optimizer: Any, index: int, limit: float, algorithm: str) -> None:
        if overrides(run.model, "configure_gradient_clipping", LightningModule):
            run.model.configure_gradient_clipping(optimizer, index, limit, algorithm)
        else:
            clip_gradients(run.precision.stepped(run.model), limit, algorithm)

    handler.clip_by = own
    return handler


def _stopping(settings: Any, run: Run) -> Any:
    return Stopping(
        max_steps=settings.max_steps,
        min_epochs=settings.min_epochs,
        min_steps=settings.min_steps,
        say=run.say,
    )


def _validation(settings: Any, run: Run) -> Any:
    if not settings.limit_val_batches:
        return None
    return Validation(
        run.validate_in_training,
        every_n_epochs=settings.check_val_every_n_epoch,
        stopping=lambda: run.stopping().should_stop,
        wanted=lambda: run.validates,
    )


def _reload(settings: Any, run: Run) -> Any:
    every = settings.reload_dataloaders_every_epoch
    return LoaderReload(run.reload_training, every_n_epochs=int(every)) if every else None


def _flush(settings: Any, run: Run) -> Any:
    if settings.logger is False or settings.logger is None:
        return None
    return LoggerFlush(run.save_logger, every_n_steps=settings.flush_logs_every_n_steps)


def _nan(settings: Any, run: Run) -> Any:
    if not settings.terminate_on_nan:
        return None
    return NanTermination(run.strategy.any if run.strategy.world_size > 1 else None)


def _lifecycle(settings: Any, run: Run) -> Any:
    if settings.logger is False and not settings.needs_dummy_logger:
        return None
    return LoggerLifecycle(lambda: run.guard if run.trainer.is_global_zero else None)


def _marks(settings: Any, run: Run) -> Any:
    strategy = run.strategy
    if not strategy.lazy:
        return None
    return StepMark(strategy.mark, run.evaluators.values(), strategy.flush)


def _averaging(settings: Any, run: Run) -> Any:
    if not run.strategy.averages_gradients:
        return None
    return GradientAveraging(run.strategy.average_gradients)


def _flags(settings: Any, run: Run) -> Any:
    if not (settings.deterministic or settings.benchmark):
        return None
    return TorchFlags(deterministic=settings.deterministic, benchmark=settings.benchmark)


def _precision(settings: Any, run: Run) -> Any:
    return PrecisionHandler(run.precision) if run.precision.active else None


def _profiling(settings: Any, run: Run) -> Any:
    if type(settings.profiler) is PassThroughProfiler:
        return None
    return Profiling(
        settings.profiler,
        evaluators=run.evaluators.values(),
        log_dir=lambda: _report_folder(run.trainer),
    )


def _report_folder(trainer: Any) -> str | None:
    """Where the logs are; or where everything else is: reports are written to local files."""
    for found in (trainer.log_dir, trainer.default_root_dir):
        if found and not is_remote(found):
            return str(found)
    return None


def _summary(settings: Any, run: Run) -> Any:
    return None if settings.weights_summary is None else SummaryPrinter(settings.weights_summary)


def _sampler_epoch(settings: Any, run: Run) -> Any:
    return SamplerEpoch(lambda: run.loaders.train)


ASSEMBLY: tuple[Feature, ...] = (
    Feature((), lambda settings, run: Position()),
    Feature(("tpu_cores", "plugins"), _marks),
    Feature(("accelerator", "plugins"), _averaging),
    Feature(("deterministic", "benchmark"), _flags),
    Feature((), slurm_requeue),
    Feature(("profiler",), _profiling),
    Feature(("precision", "amp_level", "amp_backend", "plugins"), _precision),
    Feature(("weights_summary",), _summary),
    Feature(("max_steps", "min_steps", "min_epochs"), _stopping),
    Feature(("reload_dataloaders_every_epoch",), _reload),
    Feature((), _sampler_epoch),
    Feature(("accumulate_grad_batches",), _accumulation),
    Feature(("track_grad_norm",), _grad_norm),
    Feature(("gradient_clip_val", "gradient_clip_algorithm"), _clipping),
    Feature(("terminate_on_nan",), _nan),
    Feature(("val_check_interval", "check_val_every_n_epoch", "limit_val_batches"), _validation),
    Feature(("logger",), _lifecycle),
    Feature(("flush_logs_every_n_steps", "logger"), _flush),
)


def assemble(settings: Any, run: Run) -> None:
    """Attach the handlers that the arguments ask for."""
    for feature in ASSEMBLY:
        handler = feature.build(settings, run)
        if handler is not None:
            run.handlers.add(handler, origin=origin_of(feature.arguments, settings))
            run.features[feature] = handler
    if run.strategy.world_size > 1:
        from leyden.together import join

        join(run)


def reassemble(argument: str, settings: Any, run: Run) -> None:
    """Make anew what reads ``argument``, after it was changed on the Trainer."""
    for feature in ASSEMBLY:
        if argument not in feature.arguments:
            continue
        old, new = run.features.pop(feature, None), feature.build(settings, run)
        origin = origin_of((argument, *feature.arguments), settings)
        if old is not None and old in run.handlers:
            run.handlers.remove(old)
        if new is not None:
            run.features[feature] = run.handlers.add(new, origin=origin)


def origin_of(arguments: tuple[str, ...], settings: Any) -> str:
    """What the plan shows: the argument that was given, or the default that is in force."""
    for name in arguments:
        if name in settings.given:
            return f"{name}={_short(getattr(settings, name))}"
    return (
        f"{arguments[0]}={_short(getattr(settings, arguments[0]))} (default)"
        if arguments
        else "always"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else type(value).__name__

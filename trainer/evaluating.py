"""Test, validation and prediction on their own, outside of fit."""

import pprint
from itertools import zip_longest
from typing import Any

import torch

from leyden.engine import TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.engine.notice import warn
from leyden.loaders import LOADERS
from leyden.module import LightningModule
from leyden.overrides import overrides
from leyden.placing import place
from leyden.run import Run
from leyden.states import TrainerState
from leyden.stepping import verify
from leyden.transfer import move_to_device

__all__ = ["evaluate_alone", "merged"]

_NOTHING = object()


def evaluate_alone(
    run: Run, stage: str, model: Any, loaders: Any, ckpt_path: Any, verbose: bool, datamodule: Any
) -> Any:
    """Run one evaluation and give its results; see :meth:`leyden.Trainer.test`."""
    given = model is not None
    model = run.compiling.take_out(model) if given else run.model
    if model is None:
        raise MisconfigurationException(f"{stage} has no model: pass one, or call fit(model) first")
    verify(model, stage)
    if datamodule is None and loaders is None and not given:
        datamodule = run.datamodule
    run.loaders.provide(model, datamodule, **{LOADERS[stage]: loaders})
    run.datamodule = datamodule
    with run.running(model, stage):
        has_data = run.loaders.source(LOADERS[stage], LightningModule) is not None
        idle = stage == "test" and _is_idle(model, has_data)
        if not has_data and not idle:
            raise MisconfigurationException(
                f"{stage} has no data: pass a loader, or define {LOADERS[stage]}() on "
                f"{type(model).__name__} or on a data module"
            )
        if not given and ckpt_path is None:
            run.tested_path = None
        elif not given:
            _load_weights(run, model, ckpt_path)
        run.prepare_data()
        run.setup(stage)
        place(run)
        run.prepare_precision()
        run.bind()
        run.engine.fire_event(TrainerEvents.FIT_STARTED)
        if not idle:
            run.loaders.request_evaluation(stage, LightningModule, run.settings)
        results: Any = [] if stage == "predict" else 1
        if not idle and any(run.loaders.num_batches[stage]):
            results = run.evaluate(stage, stage)
        if stage == "predict" and run.strategy.world_size > 1:
            results = merged(run, results)
        run.engine.fire_event(TrainerEvents.FIT_COMPLETED)
        run.call("teardown", "fit")
        run.call("teardown", stage, reverse=True)
        if run.datamodule is not None:
            run.datamodule.teardown(stage)
        if run.status == TrainerState.RUNNING:
            run.status = TrainerState.FINISHED
    shows = verbose and stage != "predict" and run.trainer.is_global_zero
    if shows and isinstance(results, list):
        _show(stage, results)
    return results


def _is_idle(model: Any, has_data: bool) -> bool:
    """Whether a test has nothing to run or nothing to run on; Lightning 1.1 lets it pass."""
    has_step = overrides(model, "test_step", LightningModule)
    if has_step and has_data:
        return False
    missing = ["test_step"] * (not has_step) + ["test data"] * (not has_data)
    warn(
        f"{type(model).__name__} has no {' and no '.join(missing)}: nothing is tested",
        UserWarning,
    )
    return True


def merged(run: Run, results: list[Any]) -> list[Any]:
    """The predictions of all processes, in the order of the batches, on the CPU.

    A loader whose batches leyden did not deal out has the predictions of this process alone.
    """
    from leyden.backends.samplers import deals_batches

    loaders = run.loaders.evaluation["predict"]
    found = run.strategy.gather_objects(move_to_device(results, torch.device("cpu")))
    if len(loaders) == 1:
        return _woven(found) if deals_batches(loaders[0]) else results
    return [
        _woven([one[i] for one in found]) if deals_batches(loader) else results[i]
        for i, loader in enumerate(loaders)
    ]


def _woven(parts: list[list[Any]]) -> list[Any]:
    """One of each in turn, as the batches were dealt out."""
    rows = zip_longest(*parts, fillvalue=_NOTHING)
    return [one for row in rows for one in row if one is not _NOTHING]


def _load_weights(run: Run, model: Any, ckpt_path: Any) -> None:
    from leyden.handlers.checkpoint_io import load

    if ckpt_path == "best":
        saver = run.trainer.checkpoint_callback
        if saver is None:
            raise MisconfigurationException(
                "ckpt_path='best' needs a ModelCheckpoint, and there is none: pass ckpt_path=None "
                "for the weights as they are, a file, or the model"
            )
        ckpt_path = saver.best_model_path
        if not ckpt_path:
            raise MisconfigurationException(
                "ckpt_path='best' needs a checkpoint, and none was saved (its ModelCheckpoint may "
                "be one that is not configured to save the best): pass ckpt_path=None for the "
                "weights as they are, or a file"
            )
    checkpoint = load(ckpt_path, map_location="cpu", trust=run.trust_checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    run.tested_path = ckpt_path


def _show(stage: str, results: list[dict[str, Any]]) -> None:
    for index, metrics in enumerate(results):
        print("-" * 80)
        print(f"DATALOADER:{index} {stage.upper()} RESULTS")
        pprint.pprint(metrics)
    print("-" * 80)

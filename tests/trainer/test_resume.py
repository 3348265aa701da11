"""A run goes on from any checkpoint, saved anywhere, as if it had never stopped: bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.engine import Events
from leyden.loggers import CSVLogger
from leyden.resuming import resumable
from tests.trainer.resume_runs import SaveIn, check_each, run
from tests.trainer.tiny import Tiny, data, trainer

HOOKS = (
    "on_pretrain_routine_end",
    "on_sanity_check_end",
    "on_train_start",
    "on_batch_end",
    "on_train_batch_end",
    "on_validation_end",
    "on_validation_epoch_end",
    "on_epoch_end",
    "on_train_epoch_end",
    "on_train_epoch_start",
    "on_train_end",
)


@pytest.mark.slow
@pytest.mark.parametrize("hook", HOOKS)
def test_saved_by_hand_in_a_hook(tmp_path: Path, hook: str) -> None:
    check_each(
        tmp_path,
        saver=lambda: (SaveIn(hook),),
        accumulate_grad_batches=3,
        val_check_interval=0.5,
    )


def _best(**arguments: Any) -> ModelCheckpoint:
    return ModelCheckpoint(monitor="val", mode="min", save_top_k=2, **arguments)


SAVERS: dict[str, Any] = {
    "after validation": lambda: (_best(),),
    "every step": lambda: (ModelCheckpoint(every_n_train_steps=1, save_last=True),),
    "end of epoch": lambda: (ModelCheckpoint(save_on_train_epoch_end=True),),
    "three of them": lambda: (
        _best(filename="best-{epoch}-{step}"),
        ModelCheckpoint(every_n_train_steps=1, save_top_k=-1, filename="{step}"),
        ModelCheckpoint(monitor="loss", filename="low-{epoch}-{step}"),
    ),
    "with a thread": lambda: (ModelCheckpoint(every_n_train_steps=1, asynchronous=True),),
    "early stopping": lambda: (
        EarlyStopping("val", patience=1, min_delta=9.0),
        ModelCheckpoint(monitor="val", save_top_k=-1),
        SaveIn("on_train_batch_end"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_saved_by_model_checkpoint(tmp_path: Path, kind: str, interval: float) -> None:
    check_each(tmp_path, saver=SAVERS[kind], accumulate_grad_batches=2, val_check_interval=interval)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_killed_at_every_batch(tmp_path: Path, accumulate: int) -> None:
    count = check_each(
        tmp_path,
        saver=lambda: (SaveIn("on_train_batch_end"),),
        accumulate_grad_batches=accumulate,
        max_epochs=3,
    )
    assert count == 18


@pytest.mark.slow
def test_killed_at_every_second_batch_with_workers(tmp_path: Path) -> None:
    check_each(
        tmp_path,
        saver=lambda: (SaveIn("on_train_batch_end"),),
        accumulate_grad_batches=3,
        val_check_interval=0.5,
        workers=2,
        every=2,
    )


@pytest.mark.slow
@pytest.mark.parametrize("saver", ["by hand", "every step", "end of epoch"])
def test_the_last_step_was_done_when_it_was_saved(tmp_path: Path, saver: str) -> None:
    by_hand = {"by hand": lambda: (SaveIn("on_train_batch_end"),)}
    check_each(tmp_path, saver={**SAVERS, **by_hand}[saver], max_steps=4, max_epochs=9)


class StopAt(leyden.Callback):
    """Asks for the stop in the middle of an epoch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step == 3:
            trainer.should_stop = True


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_train_end"])
def test_a_stop_that_was_asked_for_is_not_forgotten(tmp_path: Path, hook: str) -> None:
    check_each(tmp_path, saver=lambda: (StopAt(), SaveIn(hook)))


def _with_ignite(trainer: leyden.Trainer) -> None:
    """ignite's handlers run at order 50, behind most of ours, and read the output of the step."""
    engine: Any = trainer.engine

    def save(engine: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "ignite.ckpt")

    def behind(engine: Any) -> None:
        average = next(c for c in trainer.callbacks if hasattr(c, "counts"))
        average.counts["ignite"] = (
            hash((average.counts.get("ignite", 0), float(engine.state.output["loss"].detach())))
            % 2**31
        )

    engine.add_event_handler(Events.ITERATION_COMPLETED(every=2), save)
    engine.add_event_handler(Events.ITERATION_COMPLETED, behind)


@pytest.mark.slow
def test_handlers_of_ignite_behind_the_save(tmp_path: Path) -> None:
    assert check_each(tmp_path, saver=tuple, change=_with_ignite, accumulate_grad_batches=2)


@pytest.mark.slow
def test_five_resumes_within_an_epoch(tmp_path: Path) -> None:
    whole = run(_folder(tmp_path, "whole"), max_epochs=1)
    root = _folder(tmp_path, "often")
    path: Path | None = None
    for batch in range(5):
        with pytest.raises(Killed):
            run(root, resume=path, callbacks=(KillAt(batch),), max_epochs=1)
        path = root / "killed.ckpt"
    again = run(root, resume=path, max_epochs=1)
    assert again.pop("seen") == whole.pop("seen")[5:]
    assert again == whole


class Killed(BaseException):
    """Ends the process, as far as the test is concerned."""


class KillAt(leyden.Callback):
    """Saves at the end of one batch, then is gone."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if trainer.batch_idx == self.batch:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "killed.ckpt")
            raise Killed


def _checkpoints(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*.ckpt"))


def _folder(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


def test_inside_a_step_the_batch_is_done_again(tmp_path: Path) -> None:
    """No file can hold half a step: that is said, and no batch is left out."""
    whole = run(_folder(tmp_path, "whole"), max_epochs=1)
    root = _folder(tmp_path, "half")
    with pytest.warns(UserWarning, match="in the middle of the step of batch 2"):
        run(root, callbacks=(AtBatchStart(),), max_epochs=1)
    again = run(root, resume=root / "half.ckpt", max_epochs=1)
    assert [batch for _, batch, _ in again["seen"]] == [2, 3, 4, 5]
    assert again["position"] == whole["position"]


class AtBatchStart(leyden.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if trainer.batch_idx == 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "half.ckpt")


@pytest.mark.slow
def test_in_bfloat16(tmp_path: Path) -> None:
    check_each(
        tmp_path,
        saver=lambda: (SaveIn("on_train_batch_end"),),
        accumulate_grad_batches=3,
        precision="bf16",
        every=3,
    )


@pytest.mark.slow
def test_clipped_gradients_whose_norms_are_logged(tmp_path: Path) -> None:
    check_each(
        tmp_path,
        saver=lambda: (SaveIn("on_train_batch_end"),),
        accumulate_grad_batches=2,
        gradient_clip_val=0.1,
        track_grad_norm=2,
        every=2,
    )


def test_a_checkpoint_of_lightning_goes_on_at_an_epoch(tmp_path: Path) -> None:
    """It holds no position within an epoch, no loader and no random numbers: what it has counts."""
    whole = run(_folder(tmp_path, "whole"), callbacks=(ModelCheckpoint(),), max_epochs=1)
    path = next(tmp_path.rglob("*.ckpt"))
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["leyden"]
    checkpoint["callbacks"] = {}
    torch.save(checkpoint, path)
    again = run(_folder(tmp_path, "old"), resume=path, max_epochs=2)
    assert {epoch for epoch, _, _ in again["seen"]} == {1}
    assert again["position"][0] == 2 * whole["position"][0]
    assert again["rates"] != whole["rates"]


def test_resumable_says_why_not(tmp_path: Path) -> None:
    found: list[Any] = []
    run(tmp_path, callbacks=(ModelCheckpoint(),), change=found.append, max_epochs=1)
    assert resumable(found[0]._run)[0]
    run(tmp_path, change=found.append, max_epochs=1, logger=False)
    possible, why = resumable(found[1]._run)
    assert not possible and "add a ModelCheckpoint" in why


@pytest.mark.slow
def test_resumed_in_mid_epoch_and_saved_at_its_end_with_workers(tmp_path: Path) -> None:
    """The workers began in the middle of the epoch that the next checkpoint is the end of."""
    whole = run(_folder(tmp_path, "whole"), workers=2, max_epochs=2)
    root = _folder(tmp_path, "often")
    with pytest.raises(Killed):
        run(root, workers=2, callbacks=(KillAt(3),))
    with pytest.raises(Killed):
        run(root, workers=2, resume=root / "killed.ckpt", callbacks=(KillAtEpochEnd(),))
    again = run(root, workers=2, resume=root / "killed.ckpt", max_epochs=2)
    assert again.pop("seen") == whole.pop("seen")[6:]
    assert again == whole


class KillAtEpochEnd(leyden.Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "killed.ckpt")
        raise Killed


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_half_a_step_right_after_a_resume(tmp_path: Path, workers: int) -> None:
    root = _folder(tmp_path, "half")
    with pytest.raises(Killed):
        run(root, workers=workers, callbacks=(KillAt(1),))
    with pytest.raises(ZeroDivisionError):
        saver = ModelCheckpoint(dirpath=root / "failed")
        run(root, workers=workers, resume=root / "killed.ckpt", callbacks=(saver, Fails()))
    (path,) = (root / "failed").glob("*.ckpt")
    saver = ModelCheckpoint(dirpath=root / "failed")
    again = run(root, workers=workers, resume=path, callbacks=(saver,), max_epochs=1)
    assert [batch for _, batch, _ in again["seen"]] == [2, 3, 4, 5]


class Fails(leyden.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        raise ZeroDivisionError


class FailsAfter(leyden.Callback):
    """An error in a hook, once: as of a loader whose worker was killed, which comes anywhere."""

    def __init__(self, hook: str, at: int, order: float) -> None:
        super().__init__()
        self.at, self.calls = at, 0
        self.__class__ = type(
            f"FailsAfter_{hook}", (FailsAfter,), {hook: FailsAfter.fail, "order": order}
        )

    def fail(self, trainer: Any, *rest: Any) -> None:
        if not trainer.sanity_checking:
            self.calls += 1
            if self.calls == self.at:
                raise RuntimeError("a worker was killed")


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 99])
@pytest.mark.parametrize(
    "hook, at",
    [
        ("on_validation_end", 2),
        ("on_validation_epoch_end", 2),
        ("on_train_batch_end", 5),
        ("on_train_batch_end", 6),
        ("on_epoch_end", 1),
    ],
)
def test_an_error_in_a_hook_leaves_what_goes_on_exactly(
    tmp_path: Path, hook: str, at: int, order: float
) -> None:
    def savers() -> tuple[Any, ...]:
        return (_best(), ModelCheckpoint(every_n_train_steps=1, save_last=True))

    options: dict[str, Any] = dict(accumulate_grad_batches=3, val_check_interval=0.5)
    whole = run(_folder(tmp_path, "whole"), callbacks=savers(), **options)
    root = _folder(tmp_path, "failed")
    with pytest.raises(RuntimeError, match="a worker was killed"):
        run(root, callbacks=(*savers(), FailsAfter(hook, at, order)), **options)
    again = run(root, resume="last", callbacks=savers(), **options)
    seen = again.pop("seen")
    assert seen == whole.pop("seen")[-len(seen) :]
    assert {k: (v, whole[k]) for k, v in again.items() if v != whole[k]} == {}
    assert _checkpoints(root) == _checkpoints(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, 7))
def test_an_error_in_a_save_leaves_what_goes_on_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    from leyden.handlers import checkpoint_archive

    real, calls = checkpoint_archive.os.replace, [0]

    def failing(source: Any, target: Any) -> None:
        calls[0] += str(target).endswith(".ckpt")
        fails = str(target).endswith(".ckpt") and calls[0] == number
        if after or not fails:
            real(source, target)
        if fails:
            raise RuntimeError("a worker was killed")

    def savers() -> tuple[Any, ...]:
        return (_best(), ModelCheckpoint(every_n_train_steps=1, save_last=True))

    options: dict[str, Any] = dict(accumulate_grad_batches=3, val_check_interval=0.5)
    whole = run(_folder(tmp_path, "whole"), callbacks=savers(), **options)
    root = _folder(tmp_path, "failed")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_archive.os, "replace", failing)
        with pytest.raises(RuntimeError, match="a worker was killed"):
            run(root, callbacks=savers(), **options)
    again = run(root, resume="last", callbacks=savers(), **options)
    seen = again.pop("seen")
    assert seen == whole.pop("seen")[-len(seen) :]
    assert {k: (v, whole[k]) for k, v in again.items() if v != whole[k]} == {}
    assert _checkpoints(root) == _checkpoints(tmp_path / "whole")


class BreaksOff:
    """A loader that fails after so many batches, once."""

    def __init__(self, good: int) -> None:
        self.good = good

    def __iter__(self) -> Any:
        for batch in list(data()):
            if self.good == 0:
                raise RuntimeError("a worker was killed")
            self.good -= 1
            yield batch
        if self.good == 0:
            raise RuntimeError("a worker was killed")


@pytest.mark.slow
@pytest.mark.parametrize("good", [3, 6, 9])
def test_a_loader_that_fails_leaves_what_goes_on_exactly(tmp_path: Path, good: int) -> None:
    """After the last batch of an epoch, too: its end is still to come, at the same step."""

    def rows(root: Path, loader: Any, **arguments: Any) -> str:
        made = trainer(
            root,
            max_epochs=2,
            logger=CSVLogger(str(root), name="log", version=0),
            log_every_n_steps=1,
            callbacks=[ModelCheckpoint(dirpath=root / "c")],
            checkpoint_callback=True,
            **arguments,
        )
        try:
            made.fit(Tiny(), loader, data(2))
        except RuntimeError as error:
            assert str(error) == "a worker was killed"
        return (root / "log" / "version_0" / "metrics.csv").read_text()

    whole = rows(_folder(tmp_path, "whole"), BreaksOff(99))
    root = _folder(tmp_path, "failed")
    assert rows(root, BreaksOff(good)) != whole
    assert rows(root, BreaksOff(99), resume_from_checkpoint="last") == whole

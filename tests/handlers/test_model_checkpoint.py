"""ModelCheckpoint: which files there are, what they are called, and what it knows of them."""

import copy
import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leyden.engine import TrainerEvents
from leyden.engine.errors import MisconfigurationException
from leyden.handlers import checkpoint_io
from leyden.handlers.checkpoint_async import AsyncWriter
from leyden.handlers.early_stopping import EarlyStopping
from leyden.handlers.model_checkpoint import ModelCheckpoint
from tests.handlers.callback_runs import Run, names

SCORES = [5.0, 3.0, 4.0, 2.0, 2.0, 6.0]


def best(tmp_path: Path, **arguments: Any) -> ModelCheckpoint:
    """A checkpoint callback that watches the score."""
    return ModelCheckpoint(**{"dirpath": tmp_path, "monitor": "score", "mode": "min", **arguments})


# ------------------------------------------------------------------ which files are kept


@pytest.mark.parametrize(
    ("top", "files", "kth"),
    [
        (None, ["epoch=3-step=15.ckpt"], "epoch=3-step=15.ckpt"),
        (2, ["epoch=3-step=15.ckpt", "epoch=4-step=19.ckpt"], "epoch=3-step=15.ckpt"),
        (-1, [f"epoch={e}-step={4 * e + 3}.ckpt" for e in range(6)], "epoch=5-step=23.ckpt"),
        (0, [], ""),
    ],
)
def test_the_best_are_kept_and_a_tie_replaces_nothing(
    tmp_path: Path, top: int | None, files: list[str], kth: str
) -> None:
    checkpoint = best(tmp_path, save_top_k=top)
    Run(tmp_path, [checkpoint], scores=SCORES).fit(6)
    assert names(tmp_path) == files
    assert os.path.basename(checkpoint.kth_best_model_path) == kth
    if files:
        assert checkpoint.best_model_path == str(tmp_path / "epoch=3-step=15.ckpt")
        assert float(checkpoint.best_model_score or 0) == 2.0
        assert sorted(map(os.path.basename, checkpoint.best_k_models)) == files


def test_nan_is_the_worst(tmp_path: Path) -> None:
    checkpoint = best(tmp_path)
    Run(tmp_path, [checkpoint], scores=[float("nan"), 4.0, float("nan")]).fit(3)
    assert names(tmp_path) == ["epoch=1-step=7.ckpt"]
    first = best(tmp_path / "first")
    Run(tmp_path, [first], scores=[float("nan")]).fit(1)
    assert float(first.best_model_score or 0) == float("inf")


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, float("nan")]), min_size=1, max_size=7),
    st.integers(1, 3),
    st.sampled_from(["min", "max"]),
)
def test_any_scores(tmp_path_factory: Any, scores: list[float], k: int, mode: str) -> None:
    folder = tmp_path_factory.mktemp("c")
    checkpoint = best(folder, save_top_k=k, mode=mode)
    Run(folder, [checkpoint], scores=scores).fit(len(scores))
    worst = float("inf") if mode == "min" else float("-inf")
    # A newcomer has to beat one that is kept; the oldest of the worst goes.
    kept: list[tuple[float, int]] = []
    for epoch, score in enumerate(scores):
        value = worst if score != score else score
        if len(kept) == k:
            out = max(kept, key=lambda e: (e[0] if mode == "min" else -e[0], -e[1]))
            if score != score or not (value < out[0] if mode == "min" else value > out[0]):
                continue
            kept.remove(out)
        kept.append((value, epoch))
    assert names(folder) == sorted(f"epoch={e}-step={4 * e + 3}.ckpt" for _, e in kept)


def test_without_a_monitor_the_last_is_kept(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path)
    run = Run(tmp_path, [checkpoint]).fit(3)
    assert names(tmp_path) == ["epoch=2-step=11.ckpt"]
    assert run.saved == ["epoch=0-step=3.ckpt", "epoch=1-step=7.ckpt", "epoch=2-step=11.ckpt"]
    assert (
        checkpoint.best_model_path
        == checkpoint.last_model_path
        == str(tmp_path / names(tmp_path)[0])
    )
    assert checkpoint.save_top_k is None and checkpoint.period == 1


def test_save_last_beside_the_best(tmp_path: Path) -> None:
    checkpoint = best(tmp_path, save_last=True)
    Run(tmp_path, [checkpoint], scores=[3, 1, 2]).fit(3)
    assert names(tmp_path) == ["epoch=1-step=7.ckpt", "last.ckpt"]
    last = checkpoint_io.load(tmp_path / "last.ckpt")
    assert (last["epoch"], last["global_step"]) == (3, 12)


def test_save_last_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelCheckpoint, "CHECKPOINT_NAME_LAST", "{epoch}-last")
    Run(tmp_path, [best(tmp_path, save_last=True)], scores=[3, 1, 2]).fit(3)
    assert names(tmp_path) == ["epoch=1-step=7.ckpt", "epoch=2-last.ckpt"]


def test_the_new_file_is_there_before_the_old_one_goes(tmp_path: Path) -> None:
    checkpoint = best(tmp_path)
    run = Run(tmp_path, [checkpoint], scores=[3, 2, 1])
    seen: list[list[str]] = []
    run.before_save = lambda path: seen.append(names(tmp_path))
    run.fit(3)
    assert seen == [[], ["epoch=0-step=3.ckpt"], ["epoch=1-step=7.ckpt"]]


@pytest.mark.parametrize(
    ("period", "epochs"), [(1, range(5)), (2, (1, 3)), (3, (2,)), (0, ()), (-1, ())]
)
def test_period(tmp_path: Path, period: int, epochs: Any) -> None:
    Run(tmp_path, [best(tmp_path, save_top_k=-1, period=period)], scores=[1.0]).fit(5)
    assert names(tmp_path) == [f"epoch={e}-step={4 * e + 3}.ckpt" for e in epochs]


# ------------------------------------------------------------------ when it saves


def test_after_each_validation_of_an_epoch(tmp_path: Path) -> None:
    Run(tmp_path, [best(tmp_path, save_top_k=-1)], scores=[4, 3, 5, 2], validate_at=(2, 4)).fit(2)
    assert names(tmp_path) == [
        f"epoch={e}-step={s}.ckpt" for e, s in ((0, 1), (0, 3), (1, 5), (1, 7))
    ]
    found = checkpoint_io.load(tmp_path / "epoch=1-step=5.ckpt")
    assert (found["epoch"], found["global_step"]) == (2, 6)


def test_not_in_the_sanity_check_nor_in_a_fast_dev_run(tmp_path: Path) -> None:
    for name in ("running_sanity_check", "fast_dev_run"):
        Run(tmp_path, [ModelCheckpoint(dirpath=tmp_path)], scores=[1.0], **{name: True}).fit(1)
    assert names(tmp_path) == []


def test_a_failing_run_leaves_its_state(tmp_path: Path) -> None:
    def fail(run: Run) -> None:
        if run.state.iteration == 7:
            raise ZeroDivisionError

    for keep in (True, False):
        folder = tmp_path / str(keep)
        run = Run(folder, [ModelCheckpoint(dirpath=folder, save_on_exception=keep)])
        run.on_batch = fail
        with pytest.raises(ZeroDivisionError):
            run.fit(3)
        assert names(folder) == ["epoch=1-step=5.ckpt" if keep else "epoch=0-step=3.ckpt"]


def test_every_n_train_steps_waits_for_the_validation_of_the_step(tmp_path: Path) -> None:
    checkpoint = best(tmp_path, save_top_k=-1, every_n_train_steps=2, filename="{step}-{score}")
    Run(tmp_path, [checkpoint], scores=[9, 8, 7, 6], validate_at=(2, 4)).fit(2)
    expected = ["step=1-score=9.0", "step=3-score=8.0", "step=5-score=7.0", "step=7-score=6.0"]
    assert names(tmp_path) == [f"{name}.ckpt" for name in expected]


def test_every_n_train_steps_counts_optimizer_steps(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_train_steps=3)
    run = Run(tmp_path, [checkpoint], accumulate=2).fit(4)  # 8 steps
    assert run.saved == ["epoch=1-step=2.ckpt", "epoch=2-step=5.ckpt"]


def test_every_n_train_steps_before_the_first_score_saves_the_last_only(tmp_path: Path) -> None:
    checkpoint = best(tmp_path, every_n_train_steps=1, save_last=True)
    run = Run(tmp_path, [checkpoint], scores=[1.0])
    run.callback_metrics["loss"] = 2.0
    with pytest.warns(
        UserWarning, match="monitor='score'.*logged are: 'loss'.*No checkpoint is chosen"
    ):
        run.fit(1)
    assert run.saved[:3] == ["last.ckpt"] * 3 and names(tmp_path) == [
        "epoch=0-step=3.ckpt",
        "last.ckpt",
    ]


def test_train_time_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpoint = ModelCheckpoint(
        dirpath=tmp_path, save_top_k=-1, train_time_interval=timedelta(minutes=1)
    )
    run = Run(tmp_path, [checkpoint])

    def tick(run: Run) -> None:
        now[0] += 25

    run.on_batch = tick
    run.fit(2)
    assert run.saved == ["epoch=0-step=2.ckpt", "epoch=1-step=5.ckpt"]


def test_save_on_train_epoch_end(tmp_path: Path) -> None:
    scores = dict(scores=[4, 3, 2, 1], validate_at=(2, 4))
    at_end = best(tmp_path / "end", save_top_k=-1, save_on_train_epoch_end=True)
    Run(tmp_path, [at_end], **scores).fit(2)
    assert sorted(float(v) for v in at_end.best_k_models.values()) == [1.0, 3.0]
    never = ModelCheckpoint(dirpath=tmp_path / "never", save_on_train_epoch_end=False)
    Run(tmp_path, [never]).fit(2)
    assert names(tmp_path / "never") == []


def test_the_order_of_callbacks_changes_nothing(tmp_path: Path) -> None:
    states = []
    for order in (1, -1):
        folder = tmp_path / str(order)
        pair = [best(folder), EarlyStopping("score", mode="min", patience=2)]
        Run(folder, pair[::order], scores=[3, 4, 5, 6]).fit(4)
        found = checkpoint_io.load(folder / "epoch=0-step=3.ckpt")["callbacks"]
        states.append({k: v["wait_count"] for k, v in found.items() if k.startswith("Early")})
    assert states[0] == states[1] == {"EarlyStopping{'monitor': 'score', 'mode': 'min'}": 0}


# ------------------------------------------------------------------ the monitor


@pytest.mark.parametrize("key", ["val_loss", "checkpoint_on"])
def test_some_names_become_the_monitor_with_a_warning(tmp_path: Path, key: str) -> None:
    checkpoint = ModelCheckpoint(dirpath=tmp_path)
    before = checkpoint.state_key
    with pytest.warns(UserWarning, match=f"'{key}' is logged: it becomes the monitor") as caught:
        Run(tmp_path, [checkpoint], scores=[3, 1, 2], key=key).fit(3)
    assert len(caught) == 1 and names(tmp_path) == ["epoch=1-step=7.ckpt"]
    assert (checkpoint.monitor, checkpoint.save_top_k) == (key, 1)
    assert checkpoint.state_key == before


def test_a_missing_monitor_is_an_error_that_lists_what_is_logged(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="monitor='nope'.*logged are: 'score'"):
        Run(tmp_path, [best(tmp_path, monitor="nope")], scores=[1.0]).fit(1)
    with pytest.warns(UserWarning, match="logged are: nothing"):
        Run(tmp_path, [best(tmp_path, monitor="nope")]).fit(1)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("key", "top"), [("epoch", 2), ("step", 1)])
def test_the_epoch_or_the_step_can_be_the_monitor(tmp_path: Path, key: str, top: int) -> None:
    checkpoint = best(tmp_path, monitor=key, mode="max", save_top_k=top)
    Run(tmp_path, [checkpoint], scores=[3, 1, 2]).fit(3)
    files = ["epoch=1-step=7.ckpt", "epoch=2-step=11.ckpt"]
    assert names(tmp_path) == files[-top:]


# ------------------------------------------------------------------ failures


def test_a_full_disk_ends_the_run_or_not_and_keeps_what_was_there(tmp_path: Path) -> None:
    def full(path: str) -> None:
        if "epoch=1" in path:
            raise OSError(errno.ENOSPC, "No space left on device", path)

    checkpoint = best(tmp_path, on_error="warn", save_last=True)
    run = Run(tmp_path, [checkpoint], scores=[3, 2, 1])
    run.before_save = full
    with pytest.warns(RuntimeWarning, match="not saved.*No space left.*last.ckpt"):
        run.fit(3)
    assert names(tmp_path) == ["epoch=2-step=11.ckpt", "last.ckpt"]

    folder = tmp_path / "raise"
    checkpoint = best(folder)
    run = Run(folder, [checkpoint], scores=[3, 2, 1])
    run.before_save = full
    with pytest.raises(OSError, match="No space left"):
        run.fit(3)
    assert names(folder) == ["epoch=0-step=3.ckpt"]
    assert checkpoint.best_model_path == str(folder / "epoch=0-step=3.ckpt")
    assert float(checkpoint.best_model_score or 0) == 3.0


def test_a_directory_that_cannot_be_made_fails_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = Run(tmp_path, [ModelCheckpoint(dirpath=tmp_path / "file" / "x")])
    with pytest.raises(OSError):
        run.fit(1)
    assert run.state.iteration == 0


def test_only_the_first_process_removes_files(tmp_path: Path) -> None:
    Run(tmp_path, [best(tmp_path)], scores=[3, 2], is_global_zero=False).fit(2)
    assert len(names(tmp_path)) == 2


# ------------------------------------------------------------------ in a thread


def test_asynchronous_files_are_those_of_the_other_way(tmp_path: Path) -> None:
    found = []
    for asynchronous in (False, True):
        folder = tmp_path / str(asynchronous)
        checkpoint = best(folder, asynchronous=asynchronous, save_last=True, save_top_k=2)
        run = Run(folder, [checkpoint], scores=[3, 2, 4, 1])
        seen: list[str] = []
        run.engine.listen(TrainerEvents.CHECKPOINT_SAVED, lambda engine, seen=seen: seen.append(""))
        run.fit(4)
        assert len(seen) == (7 if asynchronous else 0)  # the stand-in's own save fires none
        weights = checkpoint_io.load(folder / "epoch=1-step=7.ckpt")["state_dict"]
        found.append((names(folder), {k: v.tolist() for k, v in weights.items()}))
    assert found[0] == found[1]


def test_an_asynchronous_failure_surfaces_and_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(obj: Any, path: str) -> None:
        if "epoch=1" in path:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        checkpoint_io.save(obj, path, fsync=False)

    for on_error in ("raise", "warn"):
        folder = tmp_path / on_error
        checkpoint = best(folder, asynchronous=True, on_error=on_error)
        checkpoint._writer = AsyncWriter(refuse)
        run = Run(folder, [checkpoint], scores=[3, 2, 1])
        if on_error == "raise":
            with pytest.raises(OSError, match="No space left"):
                run.fit(3)
            assert names(folder) == ["epoch=0-step=3.ckpt"]
            assert checkpoint.best_model_path == str(folder / "epoch=0-step=3.ckpt")
        else:
            with pytest.warns(RuntimeWarning, match="not saved.*No space left"):
                run.fit(3)
            assert names(folder) == ["epoch=2-step=11.ckpt"]


def test_the_name_by_which_derived_classes_fill_a_template() -> None:
    named = ModelCheckpoint._format_checkpoint_name
    assert named("", 3, 2, {}) == "epoch=3-step=2"
    assert named(None, 3, 2, {}, prefix="test") == "test-epoch=3-step=2"
    assert named("{epoch:03d}-{acc}", 3, 2, {"acc": 0.03}) == "epoch=003-acc=0.03"


# ------------------------------------------------------------------ what derived classes replace


class Watched(ModelCheckpoint):
    """Notes what is written and removed, on the way that Lightning 1.1 has for it."""

    CHECKPOINT_JOIN_CHAR = "_"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen: list[str] = []

    def _save_model(self, filepath: str, trainer: Any, pl_module: Any) -> None:
        self.seen.append(f"save {os.path.basename(filepath)}")
        super()._save_model(filepath, trainer, pl_module)

    def _del_model(self, filepath: str) -> None:
        self.seen.append(f"remove {os.path.basename(filepath)}")
        super()._del_model(filepath)


def test_a_derived_class_sees_what_is_written_and_removed(tmp_path: Path) -> None:
    checkpoint = Watched(dirpath=tmp_path, monitor="score", mode="min")
    Run(tmp_path, [checkpoint], scores=[3.0, 2.0]).fit(2)
    first, second = "epoch=0_step=3.ckpt", "epoch=1_step=7.ckpt"
    assert checkpoint.seen == [f"save {first}", f"save {second}", f"remove {first}"]


def test_another_save_function_writes_the_files(tmp_path: Path) -> None:
    written = []

    class Uploads(ModelCheckpoint):
        def on_pretrain_routine_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_pretrain_routine_start(trainer, pl_module)
            write = self.save_function
            assert write == trainer.save_checkpoint

            def save(path: str, weights_only: bool) -> None:
                written.append((os.path.basename(path), weights_only))
                write(path, weights_only)

            self.save_function = save

    checkpoint = Uploads(dirpath=tmp_path, save_weights_only=True)
    assert checkpoint.save_function is None
    Run(tmp_path, [checkpoint]).fit(1)
    assert written == [("epoch=0-step=3.ckpt", True)] and names(tmp_path) == [written[0][0]]
    assert copy.copy(checkpoint).save_function is None  # it would take the run along


def test_a_derived_class_says_which_names_are_taken(tmp_path: Path) -> None:
    class Overwrites(ModelCheckpoint):
        def file_exists(self, filepath: str | os.PathLike[str], trainer: Any) -> bool:
            assert super().file_exists(filepath, trainer) == os.path.exists(filepath)
            return False

    checkpoint = Overwrites(dirpath=tmp_path, monitor="score", save_top_k=-1, filename="m")
    Run(tmp_path, [checkpoint], scores=[3.0, 2.0]).fit(2)
    assert names(tmp_path) == ["m.ckpt"]


@pytest.mark.parametrize("scores", [[3.0, 2.0], None])
def test_a_derived_class_that_saves_elsewhere_is_not_overruled(
    tmp_path: Path, scores: list[float] | None
) -> None:
    calls = []

    class Never(ModelCheckpoint):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            calls.append(trainer.current_epoch)

    run = Run(tmp_path, [Never(dirpath=tmp_path)], scores=scores)
    run.on_batch = lambda run: fail_in_epoch(run, 2)
    with pytest.raises(ValueError, match="on purpose"):
        run.fit(3)
    assert names(tmp_path) == [] and calls == [0, 1, 2]  # the last one because it failed


def test_an_overridden_save_ends_with_the_step_of_the_last_batch(tmp_path: Path) -> None:
    calls = []

    class Saves(ModelCheckpoint):
        def save_checkpoint(self, trainer: Any, pl_module: Any = None) -> None:
            calls.append(trainer.current_epoch)
            if trainer.current_epoch:
                super().save_checkpoint(trainer, pl_module)

    Run(tmp_path, [Saves(dirpath=tmp_path)]).fit(2)
    assert names(tmp_path) == ["epoch=1-step=7.ckpt"] and calls == [0, 1, 1]


def fail_in_epoch(run: Run, epoch: int) -> None:
    """Fail at once when this epoch begins."""
    if run.current_epoch == epoch:
        raise ValueError("on purpose")


def test_what_is_not_said_is_settled_when_it_is_made(tmp_path: Path) -> None:
    assert best(tmp_path).save_top_k == 1 and ModelCheckpoint().save_top_k is None
    empty = ModelCheckpoint(dirpath="", filename="")
    assert empty.dirpath is None and empty.filename is None

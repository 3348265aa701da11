"""On several ranks, too, a run that goes on from a checkpoint is the one that never stopped."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import Callback
from leyden.engine.rng import seed_all
from leyden.handlers import ModelCheckpoint
from tests.ranks import ranks
from tests.trainer.ranks_runs import Bare, Net, everything, loader, numbers, trainer, weights

Outcome = tuple[torch.Tensor, dict[str, float], list[int]]


class Crash(Exception):
    """What ends a run in these tests, on all ranks."""

    on_all_ranks = True


class Short(Net):
    """Raises in the step of a batch, counted over the whole run from 1."""

    stop_at = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.trainer._run.state.iteration == self.stop_at:
            raise Crash
        return super().training_step(batch, batch_idx)


def finish(folder: str, path: str | None, settings: dict[str, Any], stop_at: int = 0) -> Outcome:
    """Run to the end, or to a crash: the weights, the metrics, and what was done."""
    settings = dict(settings)
    data = settings.pop("data", {})
    model = Short(noise=True, norm=True)
    model.stop_at = stop_at
    seed_all(100 + torch.distributed.get_rank())
    saver = ModelCheckpoint(
        dirpath=folder, filename="{epoch}-{step}", every_n_train_steps=1, save_top_k=-1,
        save_on_exception=False,
    )  # fmt: skip
    made = trainer(
        folder,
        max_epochs=3,
        checkpoint_callback=True,
        callbacks=[saver],
        resume_from_checkpoint=path,
        options=settings.pop("options", None),
        **settings,
    )
    world = torch.distributed.get_world_size()
    train = loader(10 * world - 1, 2 * world, shuffle=True, noise=True, **data)
    try:
        made.fit(model, train, loader(7, 2 * world))
    except Crash:
        pass
    return everything(model), numbers(made.callback_metrics), [made.global_step]


def equal(one: list[Outcome], other: list[Outcome]) -> None:
    for rank, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(mine[0], theirs[0]), f"weights of rank {rank}"
        assert mine[1:] == theirs[1:], f"metrics of rank {rank}"


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "unused": {"options": {"find_unused_parameters": True}},
    "accumulating": {"accumulate_grad_batches": 3},
    "workers": {"data": {"num_workers": 2}},
    "validating inside": {"val_check_interval": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "stops"),
    [
        *((name, 2, (5, 9)) for name in sorted(CASES)),
        # Of three and more the sum of gradients depends on how torch put them together.
        ("plain", 3, (2, 3, 9)),
        ("workers", 3, (9,)),
        ("accumulating", 4, (9,)),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    name: str, count: int, stops: tuple[int, ...], tmp_path: Path
) -> None:
    settings = CASES[name]
    whole = ranks(count).run(finish, str(tmp_path / "whole"), None, settings)
    for stop_at in stops:
        folder = tmp_path / f"stopped{stop_at}"
        ranks(count).run(finish, str(folder), None, settings, stop_at)
        newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        resumed = ranks(count).run(finish, str(tmp_path / "rest"), str(newest), settings)
        equal(resumed, whole)


@pytest.mark.slow
def test_a_static_graph_is_told_of_where_bits_may_differ(tmp_path: Path) -> None:
    settings = {"options": {"static_graph": True}}

    def go_on(path: str) -> bool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            finish(str(tmp_path / "rest"), path, settings)
        return any("static_graph=True: the last bits" in str(one.message) for one in caught)

    for count, told in ((2, [False, False]), (3, [True, False, False])):
        folder = tmp_path / str(count)
        ranks(count).run(finish, str(folder), None, settings, 5)
        newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        assert ranks(count).run(go_on, str(newest)) == told


def halves(folder: str, path: str | None) -> Outcome:
    """Accumulate over 4 batches and save in the middle of a group."""

    class Saving(Bare):
        def on_train_batch_end(self, *args: Any) -> None:
            if path is None and self.trainer._run.state.iteration == 3:
                self.trainer.save_checkpoint(f"{folder}/middle.ckpt")

    seed_all(100 + torch.distributed.get_rank())
    model = Saving(noise=True)
    made = trainer(folder, max_epochs=2, accumulate_grad_batches=4, resume_from_checkpoint=path)
    made.fit(model, loader(24, 4, shuffle=True, noise=True))
    return everything(model), numbers(made.callback_metrics), [made.global_step]


def test_the_gradients_of_each_rank_are_kept_in_the_middle_of_a_group(tmp_path: Path) -> None:
    whole = ranks(2).run(halves, str(tmp_path), None)
    saved = torch.load(tmp_path / "middle.ckpt")
    mine, other = saved["leyden"], saved["leyden"]["ranks"][0]["own"]
    assert not mine["position"]["closed"]
    assert mine["gradients"].keys() == other["gradients"].keys()
    assert not torch.equal(mine["gradients"]["net.0.weight"], other["gradients"]["net.0.weight"])
    equal(ranks(2).run(halves, str(tmp_path), str(tmp_path / "middle.ckpt")), whole)


def part(folder: str, path: str | None, epochs: int, shuffle: bool = False) -> Outcome:
    """Train without random numbers, and save in the middle of the second epoch."""

    class Saving(Bare):
        def on_train_batch_end(self, *args: Any) -> None:
            state = self.trainer._run.state
            half = state.num_batches // 2
            if path is None and state.epoch == 2 and state.iteration - state.epoch_start == half:
                self.trainer.save_checkpoint(f"{folder}/middle.ckpt")

    model = Saving()
    made = trainer(folder, max_epochs=epochs, resume_from_checkpoint=path)
    made.fit(model, loader(32, 4, shuffle=shuffle))
    return weights(model), numbers(made.callback_metrics), [made.global_step]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_another_number_of_ranks_goes_on_at_the_same_number_of_samples(
    before: int, after: int, tmp_path: Path
) -> None:
    whole = ranks(before).run(part, str(tmp_path), None, 3)

    def go_on(folder: str) -> Outcome:
        if torch.distributed.get_rank():
            return part(folder, f"{folder}/middle.ckpt", 3)
        with pytest.warns(UserWarning, match=f"saved by {before} processes and goes on with"):
            return part(folder, f"{folder}/middle.ckpt", 3)

    rest = ranks(after).run(go_on, str(tmp_path))
    # The global batch is the same, so the steps are: but for the order of additions.
    assert all(torch.allclose(one[0], whole[0][0], atol=1e-6) for one in rest)
    assert rest[0][2] == whole[0][2]


def test_averages_of_an_epoch_whose_last_batch_was_the_last_thing_are_those_of_all(
    tmp_path: Path,
) -> None:
    """No step logs anything any more: the checkpoint says that the values are averaged."""
    path = str(tmp_path / "run.ckpt")

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer._run.state.iteration == 3:
                trainer.save_checkpoint(path)

    def run(resumed: bool) -> dict[str, float]:
        made = trainer(
            tmp_path,
            max_epochs=1,
            callbacks=[] if resumed else [Save()],
            resume_from_checkpoint=path if resumed else None,
        )
        made.fit(Bare(), loader(12, 4))
        return numbers(made.callback_metrics)

    whole = ranks(2).run(run, False)
    assert whole[0] == whole[1] and "loss" in whole[0]
    assert ranks(2).run(run, True) == whole

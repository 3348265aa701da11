"""Several ranks train, validate, test and predict like one process with the whole batch."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

import leyden
from tests.ranks import ranks
from tests.trainer.ranks_runs import Bare, Net, Rows, loader, numbers, trainer, weights

Outcome = tuple[torch.Tensor, dict[str, float], int, int]


class Manual(Bare):
    """Does its own backward passes, two optimizers in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()[batch_idx % 2]
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        return two_optimizers(self)


class Several(Bare):
    """Two optimizers, each for a part of the network."""

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> torch.Tensor:
        return (optimizer_idx + 1) * super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return two_optimizers(self)


def two_optimizers(model: Any) -> list[torch.optim.Optimizer]:
    return [
        torch.optim.SGD(model.net[0].parameters(), lr=0.1),
        torch.optim.SGD(model.net[4].parameters(), lr=0.05),
    ]


class Unused(Net):
    """A layer that no step uses."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = torch.nn.Linear(2, 2)


class Skips(Net):
    """No loss in some batches, on all ranks."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class Plateau(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.3)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val"}


FIND: dict[str, Any] = {"options": {"find_unused_parameters": True}}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (Net, {}),
    "without validation": (Bare, {}),
    "accumulating": (Net, {"accumulate_grad_batches": 3}),
    "a schedule of it": (Net, {"accumulate_grad_batches": {0: 1, 1: 2}}),
    "clipped": (Net, {"gradient_clip_val": 0.05, "track_grad_norm": 2}),
    "validating inside": (Net, {"val_check_interval": 2}),
    "few batches": (Net, {"limit_train_batches": 4, "limit_val_batches": 1}),
    "max steps": (Net, {"max_steps": 7, "max_epochs": 9}),
    "sanity check": (Net, {"num_sanity_val_steps": 2}),
    "NaN check": (Net, {"terminate_on_nan": True}),
    "reloading": (Net, {"reload_dataloaders_every_epoch": True}),
    "overfitting": (Bare, {"overfit_batches": 2}),
    "two optimizers": (Several, FIND),
    "by hand": (Manual, FIND),
    "unused layer": (Unused, FIND),
    "batches without loss": (Skips, FIND),
    "static graph": (Net, {"options": {"static_graph": True}}),
    "static graph, accumulating": (
        Net,
        {"options": {"static_graph": True}, "accumulate_grad_batches": 3},
    ),
    "a view of buckets": (Net, {"options": {"gradient_as_bucket_view": True}}),
    "small buckets": (Net, {"options": {"bucket_cap_mb": 0.0001}}),
    "plateau": (Plateau, {}),
    "stopping early": (Net, {"early": True, "max_epochs": 6}),
    "bf16": (Net, {"precision": "bf16"}),
    "averaged weights": (Net, {"average": True, "max_epochs": 3}),
}


def run(name: str) -> Outcome:
    """Train, and say what came of it."""
    kind, settings = CASES[name]
    settings = dict(settings)
    model = kind()
    callbacks: list[Any] = []
    if settings.pop("early", False):
        callbacks.append(leyden.callbacks.EarlyStopping("val", patience=1, min_delta=0.05))
    if settings.pop("average", False):
        callbacks.append(leyden.callbacks.StochasticWeightAveraging(0.05, 1))
    made = trainer(callbacks=callbacks, **{"max_epochs": 2, **settings})
    warnings.filterwarnings("ignore", "training_step returned None")
    # 24 rows are whole batches; the validation set is not.
    val = None if issubclass(kind, Bare) else loader(13, 4)
    made.fit(model, loader(24, 4), val)
    metrics = {k: v for k, v in numbers(made.callback_metrics).items() if "norm" not in k}
    return weights(model), metrics, made.global_step, made.current_epoch


@pytest.mark.parametrize("name", sorted(CASES))
def test_two_ranks_are_one_process_with_the_whole_batch(name: str) -> None:
    one = ranks(1).run(run, name)[0]
    # In bfloat16 8 bits of the gradients are left: sums of other parts round differently.
    tolerance = 1e-2 if name == "bf16" else 1e-6
    for found in ranks(2).run(run, name):
        assert torch.allclose(found[0], one[0], atol=tolerance)
        assert found[1] == pytest.approx(one[1], rel=10 * tolerance)
        assert found[2:] == one[2:]


@pytest.mark.parametrize("seed", range(4))
def test_so_are_arguments_drawn_at_random(seed: int) -> None:
    """On 2 and 3 ranks; the seed names what was drawn."""
    draw = random.Random(seed)
    settings: dict[str, Any] = {
        "max_epochs": draw.randint(1, 3),
        "accumulate_grad_batches": draw.choice([1, 2, 3]),
        "gradient_clip_val": draw.choice([0.0, 0.1]),
        "check_val_every_n_epoch": draw.choice([1, 2]),
        "limit_train_batches": draw.choice([1.0, 0.5, 3]),
        "val_check_interval": draw.choice([1.0, 0.5]),
        "num_sanity_val_steps": draw.choice([0, 1]),
        "options": {"find_unused_parameters": draw.random() < 0.5},
    }
    rows = draw.randint(1, 30)

    def run() -> Outcome:
        model = Net()
        made = trainer(**settings)
        made.fit(model, loader(36, 6), loader(rows, 6))
        return weights(model), numbers(made.callback_metrics), made.global_step, 0

    one = ranks(1).run(run)[0]
    for count in (2, 3):
        for found in ranks(count).run(run):
            assert torch.allclose(found[0], one[0], atol=1e-5), settings
            assert found[1] == pytest.approx(one[1], rel=1e-4), settings


def test_a_gradient_that_overflows_on_one_rank_is_left_out_by_all() -> None:
    class Overflows(Bare):
        bad_batch = -1

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            bad = dist.get_rank() == 1 and batch_idx == self.bad_batch
            return loss * (float("inf") if bad else 1.0)

    def work(bad_batch: int) -> tuple[int, float, torch.Tensor]:
        model = Overflows(log=False)
        model.bad_batch = bad_batch
        made = trainer(max_epochs=1, precision="16-mixed")
        made.fit(model, loader(24, 4))
        return made.skipped_steps, made.scaler.get_scale(), weights(model)

    # Some are left out in any case, until the scale fits.
    (usual, *_), _ = ranks(2).run(work, -1)
    first, second = ranks(2).run(work, 4)
    assert first[:2] == second[:2] and first[0] == usual + 1
    assert torch.equal(first[2], second[2]) and bool(torch.isfinite(first[2]).all())


class TestEvaluation:
    @pytest.mark.parametrize("rows", [1, 2, 7, 12, 13])
    def test_a_test_counts_each_sample_once(self, rows: int) -> None:
        def work() -> list[dict[str, float]]:
            return trainer().test(Net(), loader(rows, 6, num_workers=0), verbose=False)

        one = ranks(1).run(work)[0]
        for count in (2, 3):
            for found in ranks(count).run(work):
                assert found[0] == pytest.approx(one[0], rel=1e-6)

    def test_outputs_and_metric_objects_leave_out_what_only_fills_up(self) -> None:
        torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is missing")

        class Counting(Net):
            def __init__(self) -> None:
                super().__init__()
                self.mean = torchmetrics.MeanMetric()
                self.seen: list[int] = []

            def validation_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
                self.mean.update(batch[1])
                self.log("mean", self.mean, on_epoch=True)
                self.log(
                    "count",
                    float(len(batch[1])),
                    reduce_fx="sum",
                    sync_dist=True,
                    sync_dist_op="sum",
                )
                return len(batch[1])

            def validation_epoch_end(self, outputs: list[int]) -> None:
                self.seen = outputs

        def work() -> tuple[dict[str, float], int]:
            model = Counting()
            made = trainer()
            found = made.validate(model, loader(9, 4), verbose=False)[0]
            return found, sum(model.seen)

        data = Rows(9).y
        first, second = ranks(2).run(work)
        assert first[0] == second[0] == pytest.approx({"mean": data.mean().item(), "count": 9.0})
        assert (first[1], second[1]) == (5, 4)

    def test_predictions_of_all_are_there_once_and_in_order(self) -> None:
        class Predicting(Net):
            def predict_step(self, batch: Any, batch_idx: int, loader_idx: int = 0) -> Any:
                return batch[0][:, 0]

        def work() -> list[float]:
            found = trainer().predict(Predicting(), loader(5, 2))
            return torch.cat(found).tolist()

        whole = Rows(5).x[:, 0].tolist()
        assert ranks(2).run(work) == [whole, whole]

    def test_replace_sampler_ddp_off_leaves_loaders_alone(self) -> None:
        def work() -> tuple[int, float]:
            made = trainer(max_epochs=1, replace_sampler_ddp=False)
            data = DataLoader(Rows(8), 4)
            made.fit(Net(), data, data)
            return made.global_step, float(made.callback_metrics["val"])

        assert [steps for steps, _ in ranks(2).run(work)] == [2, 2]


class TestMessages:
    def test_only_the_last_batch_of_an_accumulation_sends_gradients(self) -> None:
        def work() -> int:
            sent: list[int] = []

            def count(state: Any, bucket: Any) -> Any:
                sent.append(bucket.index())
                return (
                    dist.all_reduce(bucket.buffer(), async_op=True)
                    .get_future()
                    .then(lambda done: done.value()[0] / 2)
                )

            # torch looks at the types themselves, not at their names.
            returned = torch.futures.Future[torch.Tensor]
            count.__annotations__ = {"bucket": dist.GradBucket, "return": returned}

            class Counted(Bare):
                def on_train_start(self) -> None:
                    self.trainer.strategy.ddp.register_comm_hook(None, count)

            made = trainer(max_epochs=2, accumulate_grad_batches=3)
            made.fit(Counted(), loader(28, 4))  # 7 batches: groups of 3, 3 and 1
            return len(sent)

        assert ranks(2).run(work) == [6, 6]

    def test_the_metrics_of_an_epoch_are_one_message(self) -> None:
        class Many(Bare):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                loss = self.loss(batch)
                for i in range(9):
                    self.log(f"m{i}", loss * i, on_step=False, on_epoch=True, sync_dist=True)
                return loss

        def work() -> tuple[int, float]:
            sent = []
            real = dist.all_reduce

            def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
                if tensor.dtype is torch.float64:
                    sent.append(tensor.numel())
                return real(tensor, *args, **kwargs)

            dist.all_reduce = counted
            try:
                made = trainer(max_epochs=2)
                made.fit(Many(), loader(24, 4))
            finally:
                dist.all_reduce = real
            return len(sent), float(made.callback_metrics["m8"])

        found = ranks(2).run(work)
        assert found[0] == found[1]
        assert found[0][0] == 2

    def test_tensors_of_all_ranks_are_gathered_with_their_gradients(self) -> None:
        def work() -> tuple[list[float], float]:
            mine = torch.tensor([1.0 + dist.get_rank()], requires_grad=True)
            module = Net()
            found = module.all_gather(mine, sync_grads=True)
            (found.flatten() * torch.tensor([2.0, 3.0])).sum().backward()
            assert mine.grad is not None
            return found.flatten().tolist(), mine.grad.item()

        assert ranks(2).run(work) == [([1.0, 2.0], 4.0), ([1.0, 2.0], 6.0)]


class TestFirstRankOnly:
    def test_rows_files_and_prints_come_from_the_first(self, tmp_path: Path) -> None:
        def work() -> tuple[list[str], str, int, bool]:
            logger = leyden.loggers.CSVLogger(str(tmp_path))
            if dist.get_rank():  # one that looks later finds another number free
                logger._version = 3
            printed = io.StringIO()
            made = trainer(
                tmp_path, max_epochs=2, logger=logger, checkpoint_callback=True, log_every_n_steps=1
            )
            made.fit(Net(), loader(24, 4), loader(8, 4))
            with contextlib.redirect_stdout(printed):
                made.test(test_dataloaders=loader(8, 4), ckpt_path=None)
            path = made.checkpoint_callback.best_model_path
            said = "TEST RESULTS" in printed.getvalue()
            return sorted(made.callback_metrics), path, logger.version, said

        first, second = ranks(2).run(work)
        assert first[:3] == second[:3]
        assert (first[3], second[3]) == (True, False)
        files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
        assert len([name for name in files if name.endswith(".csv")]) == 1
        assert [name for name in files if name.endswith(".ckpt")] == [
            os.path.relpath(first[1], tmp_path)
        ]

    @pytest.mark.parametrize("per_node", [True, False])
    def test_data_are_prepared_by_the_first_before_the_others_go_on(
        self, per_node: bool, tmp_path: Path
    ) -> None:
        class Prepares(Bare):
            def prepare_data(self) -> None:
                (tmp_path / f"rank{dist.get_rank()}").touch()

            def setup(self, stage: str) -> None:
                self.found = sorted(path.name for path in tmp_path.iterdir())

        def work() -> list[str]:
            model = Prepares()
            made = trainer(max_epochs=1, prepare_data_per_node=per_node)
            made.fit(model, loader(8, 4))
            return model.found

        assert ranks(2).run(work) == [["rank0"], ["rank0"]]

    def test_one_process_may_save_weights_alone(self, tmp_path: Path) -> None:
        class Saves(Bare):
            def on_train_batch_end(self, *args: Any) -> None:
                if dist.get_rank() == 0 and self.trainer._run.state.iteration == 3:
                    self.trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)

        def work() -> int:
            made = trainer(tmp_path, max_epochs=1)
            made.fit(Saves(), loader(24, 4))
            return made.global_step

        assert ranks(2).run(work) == [6, 6]
        assert "optimizer_states" not in torch.load(tmp_path / "weights.ckpt")

    def test_the_best_checkpoints_are_the_same_on_all(self, tmp_path: Path) -> None:
        def work() -> tuple[str, dict[str, float], str]:
            saver = leyden.callbacks.ModelCheckpoint(
                dirpath=tmp_path, monitor="val", save_top_k=2, save_last=True
            )
            made = trainer(tmp_path, max_epochs=4, callbacks=[saver], checkpoint_callback=True)
            made.fit(Net(), loader(24, 4), loader(8, 4))
            scores = {os.path.basename(k): float(v) for k, v in saver.best_k_models.items()}
            return saver.best_model_path, scores, saver.last_model_path

        first, second = ranks(2).run(work)
        assert first == second
        assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == sorted([*first[1], "last.ckpt"])

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_a_disk_that_refuses_on_the_first_rank_stops_nobody(
        self, asynchronous: bool, tmp_path: Path
    ) -> None:
        def work() -> int:
            saver = leyden.callbacks.ModelCheckpoint(
                dirpath=tmp_path / "gone", monitor="val", save_top_k=1, on_error="warn",
                asynchronous=asynchronous,
            )  # fmt: skip

            class Breaking(Net):
                def on_train_epoch_start(self) -> None:
                    if dist.get_rank() == 0 and self.current_epoch == 1:
                        if saver._writer is not None:
                            saver._writer.join()  # what it writes would be in the way
                        for path in (tmp_path / "gone").glob("*"):
                            path.unlink()
                        (tmp_path / "gone").rmdir()
                        (tmp_path / "gone").write_text("a file in the way")

            made = trainer(tmp_path, max_epochs=3, callbacks=[saver], checkpoint_callback=True)
            logging.getLogger("leyden").setLevel(logging.ERROR)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made.fit(Breaking(), loader(24, 4), loader(8, 4))
            return made.global_step

        assert ranks(2).run(work) == [18, 18]


PARTS: dict[str, Any] = {
    "DeviceStatsMonitor": lambda: leyden.callbacks.DeviceStatsMonitor(cpu_stats=True),
    "EMAWeightAveraging": lambda: leyden.handlers.EMAWeightAveraging(decay=0.5),
    "LearningRateMonitor": lambda: leyden.callbacks.LearningRateMonitor(),
    "ProgressBar": lambda: leyden.callbacks.ProgressBar(),
    "ThroughputMonitor": lambda: leyden.handlers.ThroughputMonitor(),
    "Timer": lambda: leyden.callbacks.Timer("00:01:00:00"),
    "GradientAccumulationScheduler": lambda: leyden.callbacks.GradientAccumulationScheduler({1: 2}),
}


@pytest.mark.parametrize("name", sorted(PARTS))
def test_the_processes_agree_with_each_of_our_callbacks(name: str, tmp_path: Path) -> None:
    """Some look at files, clocks or the screen: they must not make two plans of one."""

    def work() -> int:
        warnings.simplefilter("ignore")
        logger = leyden.loggers.CSVLogger(str(tmp_path))
        bar = 1 if name == "ProgressBar" else 0
        made = trainer(
            tmp_path,
            max_epochs=3,
            callbacks=[PARTS[name]()],
            logger=logger,
            progress_bar_refresh_rate=bar,
            profiler="simple",
            checkpoint_callback=True,
            weights_summary="top",
        )
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            made.fit(Net(), loader(24, 4), loader(13, 4))
        return int(made._run.state.iteration)

    assert ranks(2).run(work) == [18, 18]

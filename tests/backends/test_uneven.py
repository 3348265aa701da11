"""Processes with different numbers of batches train like torch's ``Join``, to the last sample."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset, Subset

import leyden
from leyden.engine.errors import MisconfigurationException
from tests.ranks import RankFailure, ranks
from tests.trainer.ranks_runs import Bare, Net, Rows, loader, numbers, trainer, weights

COUNTS = {2: (5, 3), 3: (2, 7, 4)}
SIZE = 2


def own_rows() -> Subset[Any]:
    """The rows of this rank: so many batches as COUNTS says."""
    rank, counts = dist.get_rank(), COUNTS[dist.get_world_size()]
    before = SIZE * sum(counts[:rank])
    return Subset(Rows(40), range(before, before + SIZE * counts[rank]))


class Stream(IterableDataset[Any]):
    """The same rows, without a length."""

    def __iter__(self) -> Any:
        return iter(own_rows())


def data(known: bool = True) -> DataLoader[Any]:
    return DataLoader(own_rows() if known else Stream(), SIZE)


class Plain(Bare):
    """SGD, whose steps depend on nothing but the gradient."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def joined(options: Any = None, **settings: Any) -> leyden.Trainer:
    return trainer(
        options={"join_uneven_inputs": True, **(options or {})},
        replace_sampler_ddp=False,
        **settings,
    )


def by_hand(kind: Any, epochs: int, initial: bool) -> torch.Tensor:
    """The loop one would write with torch's Join."""
    model = kind(log=False)
    ddp = DistributedDataParallel(model.net)
    made = model.configure_optimizers()
    optimizer = made[0][0] if isinstance(made, tuple) else made
    for _ in range(epochs):
        with ddp.join(divide_by_initial_world_size=initial):
            for x, y in data():
                torch.nn.functional.mse_loss(ddp(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
    return weights(model)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("kind", "epochs"), [(Bare, 1), (Plain, 3)])
def test_weights_are_those_of_torchs_join(
    kind: Any, epochs: int, known: bool, initial: bool, count: int
) -> None:
    def run(unused: bool) -> tuple[torch.Tensor, int, int]:
        model = kind(log=False)
        options = {"find_unused_parameters": unused, "divide_by_initial_world_size": initial}
        made = joined(options, max_epochs=epochs)
        made.fit(model, data(known))
        return weights(model), made.global_step, made.current_epoch

    expected = ranks(count).run(by_hand, kind, epochs, initial)
    for unused in (False, True):
        for found in ranks(count).run(run, unused):
            assert torch.allclose(found[0], expected[0], atol=1e-6, rtol=0)
            assert found[1:] == (epochs * max(COUNTS[count]), epochs - 1)


@pytest.mark.parametrize("known", [True, False])
def test_accumulated_gradients_of_all_samples_are_in_the_steps(known: bool) -> None:
    """Three ranks, groups of three: ranks run out inside of groups."""

    def run() -> torch.Tensor:
        model = Plain(log=False)
        joined(max_epochs=2, accumulate_grad_batches=3).fit(model, data(known))
        return weights(model)

    def one_process() -> torch.Tensor:
        model = Plain(log=False)
        optimizer = model.configure_optimizers()
        rows, counts = Rows(40), COUNTS[3]
        starts = [SIZE * sum(counts[:rank]) for rank in range(3)]
        for _ in range(2):
            for batch in range(max(counts)):
                for start, count in zip(starts, counts, strict=True):
                    if batch < count:
                        at = slice(start + SIZE * batch, start + SIZE * (batch + 1))
                        (model.loss((rows.x[at], rows.y[at])) / 9).backward()
                # An epoch whose length nobody knows does not know its last batch either.
                if batch % 3 == 2 or (known and batch == max(counts) - 1):
                    optimizer.step()
                    optimizer.zero_grad()
        return weights(model)

    expected = one_process()
    for found in ranks(3).run(run):
        assert torch.allclose(found, expected, atol=1e-6, rtol=0)


class Padded(Bare):
    """What is to come out: with as many batches everywhere, of which some count nothing."""

    padded = False

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int = 0) -> torch.Tensor:
        counts = COUNTS[dist.get_world_size()]
        counted = not self.padded or batch_idx < counts[dist.get_rank()]
        return (optimizer_idx + 1) * counted * self.loss(batch)


class Several(Padded):
    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.net[0].parameters(), lr=0.1),
            torch.optim.Adam(self.net[4].parameters(), lr=0.05),
        ]


class Idle(Padded):
    """A layer that no step uses: decay must not touch it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.idle = torch.nn.Linear(3, 3)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)


class Ends(Padded):
    def training_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        return {"loss": super().training_step(batch, batch_idx), "size": len(batch[0])}

    def training_step_end(self, output: Any) -> Any:
        return output["loss"] * output["size"]


FIND = {"options": {"find_unused_parameters": True}}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (Padded, {}),
    "clipped": (Padded, {"gradient_clip_val": 0.05, "track_grad_norm": 2}),
    "accumulating": (Padded, {"accumulate_grad_batches": 2}),
    "two optimizers": (Several, FIND),
    "two optimizers, accumulating": (Several, {**FIND, "accumulate_grad_batches": 2}),
    "unused layer": (Idle, FIND),
    "unused layer, accumulating": (Idle, {**FIND, "accumulate_grad_batches": 3}),
    "step end": (Ends, {}),
    "bf16": (Padded, {"precision": "bf16"}),
    "16-mixed": (Padded, {"precision": "16-mixed"}),
    "view of buckets": (Padded, {"options": {"gradient_as_bucket_view": True}}),
    "small buckets": (Padded, {"options": {"bucket_cap_mb": 0.0001}}),
    "reloading": (Padded, {"reload_dataloaders_every_epoch": True}),
    "NaN check": (Padded, {"terminate_on_nan": True}),
    "max steps": (Padded, {"max_steps": 10}),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_rank_that_has_run_out_is_one_whose_batches_count_nothing(name: str) -> None:
    kind, settings = CASES[name]
    given = dict(settings)
    options = given.pop("options", {})

    def run(padded: bool) -> tuple[torch.Tensor, int]:
        model = kind(log=False)
        model.padded = padded
        rows: Any = own_rows()
        if padded:
            rows = Subset(Rows(40), [rows.indices[i % len(rows)] for i in range(7 * SIZE)])
        made = joined({**options, "join_uneven_inputs": not padded}, **{"max_epochs": 2, **given})
        made.fit(model, DataLoader(rows, SIZE))
        return weights(model), made.global_step

    expected = ranks(3).run(run, True)
    for found in ranks(3).run(run, False):
        assert torch.allclose(found[0], expected[0][0], atol=1e-6, rtol=0)
        assert found[1] == expected[0][1]


class TestRun:
    def test_validations_stops_and_rows_go_on(self, tmp_path: Path) -> None:
        class Logs(Net):
            def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
                loss = self.loss(batch)
                self.log("each", torch.tensor(float(dist.get_rank() + 1)), sync_dist=True)
                self.log("all", loss, on_step=True, on_epoch=True, sync_dist=True)
                return loss

        def run() -> tuple[Any, ...]:
            model = Logs()
            kept = leyden.loggers.CSVLogger(str(tmp_path))
            made = joined(
                max_epochs=2,
                root=tmp_path,
                logger=kept,
                log_every_n_steps=1,
                val_check_interval=2,
                checkpoint_callback=True,
                callbacks=[leyden.callbacks.EarlyStopping("val", patience=99)],
            )
            made.fit(model, data(), loader(12, 4))
            rows = []
            if dist.get_rank() == 0:
                with open(tmp_path / "default" / "version_0" / "metrics.csv") as file:
                    rows = [float(row["each"]) for row in csv.DictReader(file) if row["each"]]
            return weights(model), numbers(made.callback_metrics)["val"], made.global_step, rows

        first, *others = ranks(3).run(run)
        for found in others:
            assert torch.equal(found[0], first[0]) and found[1:3] == first[1:3]
        # The mean over the ranks that had a batch, in the rows of the first, which ran out first.
        assert first[2] == 14
        assert first[3] == [2.0, 2.0, 2.5, 2.5, 2.0, 2.0, 2.0] * 2

    def test_outputs_are_those_of_real_batches(self) -> None:
        class Counts(Bare):
            seen = 0

            def training_epoch_end(self, outputs: list[Any]) -> None:
                self.seen += len(outputs)

        class Sees(leyden.Callback):
            def __init__(self) -> None:
                super().__init__()
                self.sizes: list[int] = []

            def on_train_batch_end(
                self, trainer: Any, module: Any, outputs: Any, batch: Any, *args: Any
            ) -> None:
                self.sizes.append(len(batch[0]))

        def run() -> tuple[int, list[int]]:
            model, sees = Counts(), Sees()
            joined(max_epochs=1, callbacks=[sees]).fit(model, data())
            return model.seen, sees.sizes

        assert ranks(2).run(run) == [(5, [2] * 5), (3, [2] * 5)]

    def test_buffers_of_a_rank_that_still_trains_are_everybodys(self) -> None:
        def run() -> tuple[torch.Tensor, int]:
            model = Bare(norm=True)
            joined(max_epochs=1).fit(model, data())
            norm: Any = model.net[1]
            return norm.running_mean.clone(), int(norm.num_batches_tracked)

        first, *_ = ranks(3).run(run)
        second = ranks(3).run(run)[1]
        assert torch.equal(first[0], second[0])
        assert first[1] == second[1] == 7

    @pytest.mark.parametrize(
        ("known", "batch", "workers"),
        [
            *((known, batch, {}) for known in (True, False) for batch in (1, 3, 5, 6, 7, 9, 13)),
            (True, 5, {"num_workers": 2}),
            (True, 6, {"num_workers": 1, "persistent_workers": True}),
        ],
    )
    def test_a_run_that_was_saved_goes_on_bit_for_bit(
        self, batch: int, known: bool, workers: dict[str, Any], tmp_path: Path
    ) -> None:
        path = str(tmp_path / "run.ckpt")

        class Save(leyden.Callback):
            def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
                if trainer._run.state.iteration == batch:
                    trainer.save_checkpoint(path)

        def run(resumed: bool) -> tuple[torch.Tensor, int]:
            model = Bare(noise=True)
            made = joined(
                max_epochs=2,
                accumulate_grad_batches=2,
                callbacks=[] if resumed else [Save()],
                resume_from_checkpoint=path if resumed else None,
            )
            made.fit(model, DataLoader(own_rows() if known else Stream(), SIZE, **workers))
            return weights(model), made.global_step

        whole = ranks(3).run(run, False)
        again = ranks(3).run(run, True)
        for before, after in zip(whole, again, strict=True):
            assert torch.equal(before[0], after[0]) and before[1] == after[1]

    def test_a_limit_holds_for_all(self) -> None:
        def run() -> int:
            made = joined(max_epochs=1, limit_train_batches=4)
            made.fit(Bare(), data())
            return int(made.global_step)

        assert ranks(3).run(run) == [4, 4, 4]

    def test_one_process_needs_none_of_it(self) -> None:
        def run() -> int:
            made = joined(max_epochs=1)
            made.fit(Bare(), loader(8, 4))
            return int(made.global_step)

        assert ranks(1).run(run) == [2]


class TestRefused:
    def fails(self, model: Any, count: int = 2, **settings: Any) -> str:
        def run() -> str:
            with pytest.raises(MisconfigurationException) as raised:
                joined(max_epochs=1, **settings).fit(model(), data())
            return str(raised.value)

        found = ranks(count).run(run)
        assert len(set(found)) == 1
        return str(found[0])

    @pytest.mark.parametrize("known", [True, False])
    def test_a_rank_without_any_batch(self, known: bool) -> None:
        def run() -> str:
            rows = Subset(Rows(4), range(4 - 4 * dist.get_rank()))

            class Few(Stream):
                def __iter__(self) -> Any:
                    return iter(rows)

            few: Any = rows if known else Few()
            with pytest.raises(MisconfigurationException) as raised, warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* has no batches")
                joined(max_epochs=1).fit(Bare(), DataLoader(few, SIZE))
            return str(raised.value)

        for message in ranks(2).run(run):
            assert "no training batch at all is there for rank 1" in message

    def test_backward_passes_by_hand(self) -> None:
        class Manual(Bare):
            automatic_optimization = False

        assert "automatic_optimization=False" in self.fails(Manual)

    def test_a_search_along_a_line(self) -> None:
        class Line(Bare):
            def configure_optimizers(self) -> Any:
                return torch.optim.LBFGS(self.parameters())

        assert "does not go with LBFGS" in self.fails(Line)

    def test_batch_normalization_over_all(self) -> None:
        assert "sync_batchnorm=True" in self.fails(Bare, sync_batchnorm=True)

    def test_a_step_without_a_loss(self) -> None:
        class Skips(Bare):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return None

        assert "returned no loss" in self.fails(Skips)

    def test_a_static_graph(self) -> None:
        with pytest.raises(MisconfigurationException, match="static_graph=True"):
            leyden.backends.strategies.DDPStrategy(join_uneven_inputs=True, static_graph=True)

    def test_a_length_that_is_not_kept(self) -> None:
        class Lies(Stream):
            def __len__(self) -> int:
                return 20

        def run() -> None:
            with pytest.warns(UserWarning, match="has `__len__` defined"):
                joined(max_epochs=1).fit(Bare(), DataLoader(Lies(), SIZE))

        with pytest.raises(RankFailure, match="said it has 10 batches, and gave"):
            ranks(2).run(run)

"""What DDPStrategy does with torch's DistributedDataParallel."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest
import torch
import torch.distributed as dist

from leyden.backends.environments import find_environment
from leyden.backends.strategies import DDPStrategy
from leyden.engine.errors import MisconfigurationException
from tests.ranks import Ranks, ranks
from tests.trainer.ranks_runs import Bare, loader, trainer, weights


def errors_of_c(train: Any) -> str:
    """What a function writes to the process's standard error, past Python."""
    with tempfile.TemporaryFile("w+") as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            train()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read()


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "told"), [(False, False), (True, True)])
def test_torch_says_nothing_of_an_option_that_nobody_gave(asked: bool, told: bool) -> None:
    def work() -> str:
        options: dict[str, Any] = {"find_unused_parameters": True} if asked else {}
        strategy = DDPStrategy("cpu", find_environment(), **options)

        def train() -> None:
            trainer(max_epochs=1, strategy_part=strategy).fit(Bare(), loader(8, 4))

        return errors_of_c(train)

    pool = Ranks(2)  # of its own: torch says it once a process
    try:
        for found in pool.run(work):
            assert ("find_unused_parameters=True was specified" in found) == told
    finally:
        pool.close()


def test_a_frozen_model_needs_no_gradients_together() -> None:
    class Frozen(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            return None

        def configure_optimizers(self) -> Any:
            return None

    def work() -> bool:
        import warnings

        warnings.simplefilter("ignore")
        made = trainer(max_epochs=1)
        made.fit(Frozen(), loader(8, 4))
        return made.strategy.ddp is None

    assert ranks(2).run(work) == [True, True]


def test_the_order_that_is_replayed_leaves_nothing_behind() -> None:
    def work() -> tuple[bool, list[int]]:
        model = Bare()
        strategy = DDPStrategy("cpu", find_environment(), find_unused_parameters=False)
        strategy.connect()
        strategy.prepare(model, [], manual=False)
        before = weights(model).clone()
        model.net[0].bias.grad = torch.ones(8)
        strategy.load_state_dict({"ready_order": [3, 1, 2, 0]})
        same = torch.equal(weights(model), before)
        left = [name for name, p in model.named_parameters() if p.grad is not None]
        return same and left == ["net.0.bias"], strategy.state_dict()["ready_order"]

    assert ranks(2).run(work) == [(True, [3, 1, 2, 0])] * 2


def test_an_order_of_another_model_is_not_replayed() -> None:
    def work() -> dict[str, Any]:
        strategy = DDPStrategy("cpu", find_environment(), find_unused_parameters=False)
        strategy.connect()
        strategy.prepare(Bare(), [], manual=False)
        strategy.load_state_dict({"ready_order": [0, 1]})
        return strategy.state_dict()

    assert ranks(2).run(work) == [{}, {}]


def test_reductions() -> None:
    def work() -> list[float]:
        strategy = DDPStrategy("cpu", find_environment())
        strategy.connect()
        value = torch.tensor(1.0 + dist.get_rank())
        ops = ("mean", "sum", "min", "max")
        return [strategy.reduce(value, op).item() for op in ops]

    assert ranks(2).run(work) == [[1.5, 3.0, 1.0, 2.0]] * 2


def test_agreements_have_a_group_of_their_own() -> None:
    def work() -> tuple[list[int], list[list[float]], Any, bool]:
        strategy = DDPStrategy("cpu", find_environment())
        strategy.connect()
        again = DDPStrategy("cpu", find_environment())
        again.connect()
        rank = dist.get_rank()
        asked = strategy.ask([rank, 5 - rank])
        return (
            asked.result(),
            strategy.compare([rank, 2.5]),
            strategy.collect({"rank": rank}),
            again.control is strategy.control is not dist.group.WORLD,
        )

    first, second = ranks(2).run(work)
    assert first == ([1, 5], [[0.0, 2.5], [1.0, 2.5]], [{"rank": 0}, {"rank": 1}], True)
    assert second == ([1, 5], [[0.0, 2.5], [1.0, 2.5]], None, True)


@pytest.mark.parametrize("every", [0, -1, True, 2.5, "8"])
def test_batches_between_questions_are_a_number_of_them(every: Any) -> None:
    with pytest.raises(MisconfigurationException, match="ask_every=.* is no number of batches"):
        DDPStrategy("cpu", ask_every=every)

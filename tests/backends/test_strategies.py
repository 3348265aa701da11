"""The strategy of a run: which process it is, and what it is asked for."""

import torch

from leyden.backends.environments import Environment, find_environment
from leyden.backends.plugins import plugin_of
from leyden.backends.strategies import DDPStrategy, ProcessStrategy, Strategy

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29400",
}


def test_nothing_of_a_launcher_is_a_process_on_its_own() -> None:
    assert find_environment({}) == Environment()
    assert not find_environment({}).started


def test_variables_of_torchrun_say_which_process_this_is() -> None:
    found = find_environment(TORCHRUN)
    assert found == Environment("torchrun", 5, 1, 1, 8, 2)
    assert found.started


def test_a_strategy_answers_for_one_process_without_talking() -> None:
    strategy = Strategy()
    assert (strategy.global_rank, strategy.world_size, strategy.num_nodes) == (0, 1, 1)
    assert strategy.gather_objects("a") == ["a"]
    assert strategy.broadcast(3) == 3
    assert torch.equal(strategy.reduce(torch.ones(2), "sum"), torch.ones(2))
    assert strategy.any(True) and not strategy.any(False)
    strategy.barrier()


def test_placing_moves_the_model() -> None:
    model = torch.nn.Linear(2, 2)
    Strategy("meta").place(model)
    assert model.weight.device.type == "meta"


def test_a_strategy_among_plugins_is_found() -> None:
    strategy = DDPStrategy("cpu", Environment("torchrun", 1, 1, 0, 2))
    assert plugin_of([object(), strategy], Strategy) is strategy
    assert plugin_of(None, ProcessStrategy) is None
    assert "rank 1 of 2" in repr(strategy)

"""Reloading: before the hooks of the epochs that are due, and not before the first of a run."""

import pytest

from leyden.engine import Engine, Events
from leyden.handlers import LoaderReload
from tests.handlers.small_runs import Small


@pytest.mark.parametrize(("every", "expected"), [(1, [2, 3, 4, 5]), (2, [3, 5]), (9, [])])
def test_which_epochs_reload(every: int, expected: list[int]) -> None:
    seen: list[int] = []
    run = Small()
    LoaderReload(lambda: seen.append(run.state.epoch), every_n_epochs=every).attach(run.engine)
    run.run(epochs=5)
    assert seen == expected


def test_the_epoch_takes_the_new_data_and_its_hooks_see_it() -> None:
    seen: list[int] = []
    engine = Engine(lambda engine, batch: seen.append(batch), data_ends_epoch=True)
    LoaderReload(lambda: engine.set_data([engine.state.epoch] * 2)).attach(engine)
    engine.listen(Events.EPOCH_STARTED, lambda e: seen.append(-len(e.state.dataloader)), order=10)
    engine.run([1], max_epochs=3)
    assert seen == [-1, 1, -2, 2, 2, -2, 3, 3]


def test_a_second_run_begins_with_the_loader_that_it_was_given() -> None:
    seen: list[int] = []
    run = Small()
    LoaderReload(lambda: seen.append(run.state.iteration)).attach(run.engine)
    run.run(epochs=2).run(epochs=4)
    assert seen == [4, 12]

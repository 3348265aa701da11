"""The run: what an epoch is, what resuming means, and what reaches the caller."""

import sys
import weakref
from collections.abc import Iterator
from typing import Any

import ignite.engine
import pytest
import torch
from torch.utils.data import DataLoader

from leyden.engine import Engine, Events, Phase

RESUMABLE = [
    Events.STARTED,
    Events.EPOCH_STARTED(once=2),
    Events.GET_BATCH_STARTED(once=4),
    Events.GET_BATCH_COMPLETED(once=4),
    Events.ITERATION_STARTED(once=4),
    Events.ITERATION_STARTED(once=6),
    Events.ITERATION_COMPLETED(once=4),
    Events.ITERATION_COMPLETED(once=6),
    Events.EPOCH_COMPLETED(once=1),
    Events.EPOCH_COMPLETED(once=2),
]


class Recorder:
    """An engine that writes down every event, batch and counter."""

    def __init__(self, **kind: bool) -> None:
        self.seen: list[Any] = []
        self.engine: Any = Engine(self.step, **kind)
        for event in Events:
            if event is not Events.INTERRUPT:
                self.engine.add_event_handler(event, self.fired)

    def step(self, engine: Any, batch: Any) -> Any:
        self.seen.append(("step", batch))
        return batch

    def fired(self, engine: Any, *args: Any, **kwargs: Any) -> None:
        state = engine.state
        self.seen.append(
            (engine.last_event_name.name, state.epoch, state.iteration, state.batch, state.output)
        )


def test_it_is_ignites_engine() -> None:
    engine = Engine(lambda engine, batch: None)
    assert isinstance(engine, ignite.engine.Engine)
    assert isinstance(engine.state, ignite.engine.State)


@pytest.mark.parametrize("data_ends_epoch", [False, True])
@pytest.mark.parametrize("event", RESUMABLE, ids=lambda event: f"{event.name}")
def test_an_interrupted_run_goes_on_where_it_was(event: Any, data_ends_epoch: bool) -> None:
    whole = Recorder(data_ends_epoch=data_ends_epoch)
    whole.engine.run([0, 1, 2], max_epochs=2)
    parts = Recorder(data_ends_epoch=data_ends_epoch)
    parts.engine.listen(event, lambda engine: engine.interrupt(), order=99)
    parts.engine.run([0, 1, 2], max_epochs=2)
    assert parts.engine.phase is Phase.INTERRUPTED
    assert parts.engine.last_event_name is Events.INTERRUPT
    half = len(parts.seen)
    assert parts.seen == whole.seen[:half]
    parts.engine.run([0, 1, 2], max_epochs=2)
    assert parts.engine.phase is Phase.COMPLETED
    assert parts.seen == whole.seen
    assert half < len(whole.seen)


def test_interrupting_at_every_single_event_changes_nothing() -> None:
    whole, parts = Recorder(), Recorder()
    whole.engine.run([0, 1, 2], max_epochs=2, epoch_length=4)
    for event in Events:
        if event not in (Events.INTERRUPT, Events.COMPLETED, Events.EXCEPTION_RAISED):
            parts.engine.add_event_handler(event, lambda *args, **kwargs: parts.engine.interrupt())
    runs = 0
    while parts.engine.phase is not Phase.COMPLETED:
        parts.engine.run([0, 1, 2], max_epochs=2, epoch_length=4)
        runs += 1
    assert parts.seen == whole.seen
    assert runs == 1 + sum(name != "step" for name, *_ in whole.seen) - 1  # COMPLETED


def test_data_that_ends_the_epoch_is_iterated_once_an_epoch_and_not_before_it() -> None:
    order: list[Any] = []

    class Data:
        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return 99  # wrong, and nobody asks

        def __iter__(self) -> Iterator[int]:
            order.append("iter")
            return self.batches()

        def batches(self) -> Iterator[int]:
            for batch in range(self.size):
                order.append(f"fetch {batch}")
                yield batch
            order.append("end")

    engine = Engine(lambda engine, batch: order.append(batch), data_ends_epoch=True)
    engine.on(Events.EPOCH_STARTED)(lambda: order.append("epoch"))
    engine.on(Events.EPOCH_COMPLETED)(lambda: order.append("done"))
    data = Data(2)
    engine.run(data, max_epochs=2)
    epoch = ["epoch", "iter", "fetch 0", 0, "fetch 1", 1, "end", "done"]
    assert order == epoch * 2
    assert engine.state.epoch_length is None
    order.clear()
    data.size = 3
    engine.run(data, max_epochs=3, epoch_length=2)
    assert order == ["epoch", "iter", "fetch 0", 0, "fetch 1", 1, "done"]
    assert (engine.state.epoch, engine.state.iteration) == (3, 6)


@pytest.mark.parametrize("sizes", [[2, 0, 3], [0], [0, 0], [1, 5]])
def test_epochs_may_differ_in_length_and_be_empty(sizes: list[int]) -> None:
    seen: list[Any] = []

    class Data:
        def __iter__(self) -> Iterator[int]:
            return iter(range(sizes[engine.state.epoch - 1]))

    engine = Engine(
        lambda engine, batch: seen.append((engine.state.epoch, batch)), data_ends_epoch=True
    )
    completed: list[int] = []
    engine.on(Events.EPOCH_COMPLETED)(lambda: completed.append(engine.state.epoch))
    engine.run(Data(), max_epochs=len(sizes))
    assert seen == [(n, b) for n, size in enumerate(sizes, 1) for b in range(size)]
    assert completed == list(range(1, len(sizes) + 1))


def test_an_epoch_length_of_zero_asks_for_no_batch() -> None:
    engine = Engine(lambda engine, batch: None, data_ends_epoch=True)
    engine.listen(Events.GET_BATCH_STARTED, lambda engine: pytest.fail("a batch was asked for"))
    engine.run([1, 2], max_epochs=3, epoch_length=0)
    assert (engine.state.epoch, engine.state.iteration) == (3, 0)
    assert engine.phase is Phase.COMPLETED


def test_max_iters_counts_over_epochs_that_the_data_ends() -> None:
    seen: list[int] = []
    engine = Engine(lambda engine, batch: seen.append(batch), data_ends_epoch=True)
    engine.run([0, 1, 2], max_iters=7)
    assert seen == [0, 1, 2, 0, 1, 2, 0]
    assert (engine.state.epoch, engine.epoch_iteration) == (3, 1)


@pytest.mark.parametrize("data_ends_epoch", [False, True])
def test_the_last_event_is_known_everywhere(data_ends_epoch: bool) -> None:
    seen: list[Any] = []

    class Data:
        def __iter__(self) -> Iterator[int]:
            for batch in range(2):
                seen.append(engine.last_event_name)
                yield batch

    engine = Engine(
        lambda engine, batch: seen.append(engine.last_event_name), data_ends_epoch=data_ends_epoch
    )
    assert engine.last_event_name is None
    engine.run(Data())
    assert seen == [Events.GET_BATCH_STARTED, Events.ITERATION_STARTED] * 2
    assert engine.last_event_name is Events.COMPLETED


class Batch:
    """Something that a weak reference can point to."""


def test_a_batch_is_gone_before_the_next_one_is_made() -> None:
    alive: list[weakref.ref[Batch]] = []

    def data() -> Iterator[Batch]:
        for _ in range(4):
            assert [ref() for ref in alive] == [None] * len(alive)
            batch = Batch()
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    engine = Engine(lambda engine, batch: None)
    engine.on(Events.ITERATION_COMPLETED(every=2))(lambda: None)
    engine.run(data(), epoch_length=4)
    assert len(alive) == 4


def test_the_output_is_that_of_the_last_batch() -> None:
    outputs: list[Any] = []
    engine = Engine(lambda engine, batch: batch * 10)
    for event in (Events.GET_BATCH_COMPLETED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
        engine.listen(event, lambda engine: outputs.append(engine.state.output))
    engine.run([1, 2])
    assert outputs == [None, 10, None, 20, 20]


def test_a_handler_may_change_the_batch_the_length_and_the_data() -> None:
    seen: list[Any] = []
    engine: Any = Engine(lambda engine, batch: seen.append(batch))

    @engine.on(Events.ITERATION_STARTED(once=2))
    def batch() -> None:
        engine.state.batch = "other"

    @engine.on(Events.ITERATION_COMPLETED(once=3))
    def length() -> None:
        engine.state.epoch_length = 5
        engine.set_data("abcdefg")

    engine.run([0, 1, 2, 3], max_epochs=1)
    assert seen == [0, "other", 2, "a", "b"]


def test_the_step_may_change_the_data() -> None:
    seen: list[Any] = []

    def step(engine: Any, batch: Any) -> None:
        seen.append(batch)
        if batch == 1:
            engine.set_data("abcdefg")

    Engine(step).run([0, 1, 2, 3], max_epochs=1)
    assert seen == [0, 1, "a", "b"]


def test_with_data_that_ends_the_epoch_set_data_waits_for_the_epoch() -> None:
    made: list[str] = []

    class Data:
        def __init__(self, name: str) -> None:
            self.name = name

        def __iter__(self) -> Iterator[str]:
            made.append(self.name)
            return iter([self.name] * 3)

    seen: list[str] = []
    engine = Engine(lambda engine, batch: seen.append(batch), data_ends_epoch=True)

    @engine.on(Events.EPOCH_STARTED(once=2))
    def between() -> None:
        engine.set_data(Data("b"))
        assert made == ["a"]

    engine.on(Events.ITERATION_COMPLETED(once=5))(lambda: engine.set_data(Data("c")))
    engine.run(Data("a"), max_epochs=2)
    assert seen == ["a", "a", "a", "b", "b", "c", "c", "c"]
    assert made == ["a", "b", "c"]


def test_the_process_function_may_be_replaced_during_the_run() -> None:
    seen: list[Any] = []
    engine = Engine(lambda engine, batch: seen.append(("old", batch)))

    @engine.on(Events.ITERATION_COMPLETED(once=1))
    def replace() -> None:
        engine._process_function = lambda engine, batch: seen.append(("new", batch))

    engine.run([0, 1])
    assert seen == [("old", 0), ("new", 1)]


def _listeners(engine: Engine, told: list[Any]) -> None:
    def first(engine: Engine, error: BaseException) -> None:
        told.append(("first", error))
        raise OSError("cannot write the report")

    def second(error: BaseException) -> None:
        told.append(("second", error))
        raise error  # what many listeners do

    engine.listen(Events.EXCEPTION_RAISED, first)
    engine.add_event_handler(Events.EXCEPTION_RAISED, second)
    engine.listen(Events.EXCEPTION_RAISED, lambda engine, error: told.append(("third", error)))


@pytest.mark.parametrize("where", ["step", "handler", "data"])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_reraise_tells_all_and_raises_the_original(
    where: str, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    original = kind("the cause")

    def fail() -> None:
        raise original

    def data() -> Iterator[int]:
        yield 0
        if where == "data":
            fail()
        yield 1

    def step(engine: Any, batch: Any) -> None:
        if where == "step" and batch == 1:
            fail()

    engine = Engine(step, reraise=True, data_ends_epoch=True)
    if where == "handler":
        engine.on(Events.ITERATION_STARTED(once=2))(fail)
    told: list[Any] = []
    _listeners(engine, told)
    with pytest.raises(kind) as caught:
        engine.run(data(), max_epochs=3)
    assert caught.value is original
    assert caught.traceback[-1].name == "fail"
    assert told == [("first", original), ("second", original), ("third", original)]
    assert engine.phase is Phase.FAILED
    assert "failed while it handled" in caplog.text
    assert "cannot write the report" in caplog.text
    if sys.version_info >= (3, 11):
        (note,) = original.__notes__
        assert "cannot write the report" in note


def test_a_listener_swallows_and_the_run_goes_on_with_the_next_epoch() -> None:
    told: list[Any] = []

    def step(engine: Any, batch: int) -> int:
        return 10 // batch

    engine = Engine(step)
    engine.on(Events.EXCEPTION_RAISED)(lambda error: told.append("raised"))
    engine.on(Events.EPOCH_COMPLETED)(lambda: told.append(engine.state.iteration))
    state = engine.run([1, 0, 2], max_epochs=2)
    # One iterator for all epochs: the second one goes on with 2, then comes 1, then 0 again.
    assert told == ["raised", 2, "raised", 5]
    assert state.epoch == 2 and engine.phase is Phase.COMPLETED


def test_a_listener_that_raises_is_told_once() -> None:
    told: list[Any] = []
    engine = Engine(lambda engine, batch: 1 // batch)

    @engine.on(Events.EXCEPTION_RAISED)
    def reraise(error: BaseException) -> None:
        told.append(error)
        raise RuntimeError("instead") from error

    with pytest.raises(RuntimeError, match="instead") as caught:
        engine.run([0])
    assert told == [caught.value.__cause__]


def test_times_do_not_count_the_pause() -> None:
    engine: Any = Engine(lambda engine, batch: None)
    engine.on(Events.ITERATION_COMPLETED(once=1))(engine.interrupt)
    engine.run([0, 1])
    engine._tock()  # as long a pause as the clock is old
    engine._tock()
    state = engine.run([0, 1])
    assert 0 < state.times["EPOCH_COMPLETED"] <= state.times["COMPLETED"] < 5


def test_a_data_loader_with_workers_of_its_own_randomness() -> None:
    torch.manual_seed(3)
    numbers: Any = torch.arange(12)
    loader: Any = DataLoader(numbers, batch_size=3, shuffle=True)
    expected = [batch.tolist() for _ in range(2) for batch in loader]
    seen: list[Any] = []
    engine = Engine(lambda engine, batch: seen.append(batch.tolist()), data_ends_epoch=True)
    torch.manual_seed(3)
    engine.run(loader, max_epochs=2)
    assert seen == expected

"""What is wrong is refused with its name and a way out, and the engine can be used afterwards."""

from collections.abc import Iterator
from typing import Any

import pytest

from leyden.engine import Engine, Events, Phase, TrainerEvents


@pytest.fixture
def engine() -> Engine:
    return Engine(lambda engine, batch: batch)


def _usable(engine: Engine, data: Any = (1, 2)) -> None:
    engine.state.max_epochs = engine.state.max_iters = None
    state = engine.run(list(data), max_epochs=2)
    assert (state.epoch, state.iteration, state.output) == (2, 2 * len(data), data[-1])
    assert engine.phase is Phase.COMPLETED


def test_no_process_function() -> None:
    with pytest.raises(ValueError, match="got None: pass a function of \\(engine, batch\\)"):
        Engine(None)  # type: ignore[arg-type]


def test_a_process_function_that_does_not_take_a_batch() -> None:
    with pytest.raises(ValueError, match="takes parameters \\['engine'\\] but will be called with"):
        Engine(lambda engine: None)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("EPOCH_COMPLETE", "EPOCH_COMPLETED"),
        ("epoch_started", "EPOCH_STARTED"),
        ("ITERATION_DONE", "ITERATION_STARTED"),
    ],
)
def test_an_unknown_event_names_the_nearest(engine: Engine, name: str, near: str) -> None:
    for ask in (engine.channel, engine.fire_event, lambda event: engine.listen(event, print)):
        with pytest.raises(ValueError, match=f"{name} is not a valid event .* nearest .*{near}"):
            ask(name)
    _usable(engine)


def test_an_event_that_was_not_registered(engine: Engine) -> None:
    with pytest.raises(ValueError, match="GRADIENTS_READY is not a valid event.*register_events"):
        engine.on(TrainerEvents.GRADIENTS_READY)(lambda: None)
    assert list(engine.entries()) == []


def test_a_handler_whose_signature_does_not_fit(engine: Engine) -> None:
    def handler(engine: Engine, first: int, second: int) -> None: ...

    with pytest.raises(ValueError) as caught:
        engine.add_event_handler(Events.STARTED, handler, 1, name="a")
    text = str(caught.value)
    assert "Events.STARTED" in text
    assert "handler(engine, 1, name='a') or" in text
    assert "handler(1, name='a')" in text
    assert "but its signature is (engine: " in text and "second: int)" in text
    with pytest.raises(
        ValueError, match=r"called as .*<lambda>\(engine\), but its signature is \(\)"
    ):
        engine.listen(Events.STARTED, lambda: None)
    with pytest.raises(ValueError, match=r"<lambda>\(engine, Exception\(\)\)"):
        engine.listen(Events.EXCEPTION_RAISED, lambda engine: None)
    with pytest.raises(ValueError, match="one that Python cannot read: wrap it in a function"):
        engine.add_event_handler(Events.STARTED, max)
    with pytest.raises(TypeError, match="None for .*STARTED is not callable"):
        engine.listen(Events.STARTED, None)  # type: ignore[arg-type]
    assert list(engine.entries()) == []
    _usable(engine)


@pytest.mark.parametrize("event", [Events.TERMINATE, Events.EXCEPTION_RAISED, Events.INTERRUPT])
def test_a_filter_on_an_event_that_nothing_counts(engine: Engine, event: Any) -> None:
    with pytest.raises(ValueError, match=f"nothing counts {event.name}.*event_to_attr"):
        engine.on(event(every=2))(lambda *args: None)
    with pytest.raises(ValueError, match=f"nothing counts {event.name}"):
        engine.on(event(event_filter=lambda engine, value: True))(lambda *args: None)
    engine.on(event(every=1))(lambda *args: None)  # that is no filter
    _usable(engine)


def test_event_to_attr_must_be_a_dict(engine: Engine) -> None:
    with pytest.raises(ValueError, match="Expected event_to_attr to be dictionary"):
        engine.register_events("saved", event_to_attr="saves")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="should be a str or EventEnum"):
        engine.register_events(3)  # type: ignore[arg-type]


def test_removing_what_is_not_attached(engine: Engine) -> None:
    with pytest.raises(ValueError, match="does not exist: nothing was ever attached"):
        engine.remove_event_handler(print, Events.STARTED)
    engine.listen(Events.STARTED, id)  # before 3.11 Python cannot read the signature of print
    with pytest.raises(ValueError, match="is not found among registered event handlers"):
        engine.remove_event_handler(len, Events.STARTED)


def test_data_that_cannot_be_iterated(engine: Engine) -> None:
    with pytest.raises(TypeError, match="Argument data should be iterable, got int: 3"):
        engine.run(3)  # type: ignore[arg-type]
    _usable(engine)


def test_an_empty_loader(engine: Engine) -> None:
    with pytest.raises(ValueError, match="Input data has zero size"):
        engine.run([])
    with pytest.raises(ValueError, match="Input data has zero size"):
        engine.run(iter([]), max_iters=3)
    _usable(engine)
    state = Engine(lambda engine, batch: None, data_ends_epoch=True).run([], max_epochs=2)
    assert (state.epoch, state.iteration) == (2, 0)


@pytest.mark.parametrize("data_ends_epoch", [False, True])
def test_data_that_gives_nothing_cannot_reach_max_iters(data_ends_epoch: bool) -> None:
    engine = Engine(lambda engine, batch: None, data_ends_epoch=data_ends_epoch)
    data: Iterator[int] = iter([1, 2])
    message = "gave no batch in epoch 2, and only max_iters=9"
    with pytest.raises(RuntimeError, match=message):
        if data_ends_epoch:
            engine.run(data, max_iters=9)
        else:
            with pytest.warns(UserWarning, match="can not provide data anymore"):
                engine.run(data, max_iters=9, epoch_length=3)
    assert engine.state.iteration == 2


def test_a_loader_that_ends_early(engine: Engine) -> None:
    with pytest.warns(UserWarning, match=r"Current iteration: 2 vs Total iterations to run : 8"):
        state = engine.run(iter([1, 2]), max_epochs=2, epoch_length=4)
    assert (state.epoch, state.iteration) == (2, 2)
    _usable(engine)
    ends = Engine(lambda engine, batch: batch, data_ends_epoch=True)
    state = ends.run([1, 2], max_epochs=2, epoch_length=4)
    assert (state.epoch, state.iteration) == (2, 4)
    _usable(ends)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("data_ends_epoch", [False, True])
def test_a_step_that_raises(kind: type[BaseException], data_ends_epoch: bool) -> None:
    armed = True

    def step(engine: Any, batch: Any) -> Any:
        if armed and engine.state.iteration == 3:
            raise kind("in the step")
        return batch

    engine = Engine(step, data_ends_epoch=data_ends_epoch)
    with pytest.raises(kind, match="in the step"):
        engine.run([1, 2], max_epochs=2)
    assert (engine.state.epoch, engine.state.iteration) == (2, 3)
    assert engine.phase is Phase.FAILED
    assert engine._dataloader_iter is None
    armed = False
    _usable(engine)


def test_a_handler_that_raises(engine: Engine) -> None:
    armed = True

    @engine.on(Events.ITERATION_COMPLETED(every=2))
    def fail() -> None:
        if armed:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        engine.run([1, 2, 3])
    armed = False
    _usable(engine)


@pytest.mark.parametrize("event", [Events.ITERATION_STARTED, Events.COMPLETED, Events.TERMINATE])
def test_run_inside_the_run_of_the_same_engine(engine: Engine, event: Any) -> None:
    handle = engine.listen(event, lambda engine: engine.run([1]))
    if event is Events.TERMINATE:
        engine.on(Events.ITERATION_STARTED)(lambda: engine.terminate())
    with pytest.raises(RuntimeError, match=r"run\(\) of an engine that is running.*use another"):
        engine.run([1, 2])
    handle.remove()
    engine.run([1, 2], max_epochs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_epochs": 2, "max_iters": 3}, "mutually exclusive.*max_epochs=2, max_iters=3"),
        ({"max_epochs": 0}, "max_epochs positive value, got 0"),
        ({"max_iters": -1}, "max_iters positive value, got -1"),
        ({"data": None}, "epoch_length should be provided if data is None"),
        ({"epoch_length": 0}, "Input data has zero size"),
        ({"epoch_length": -1}, r"above 0 \(it is -1\)"),
    ],
)
def test_arguments_of_run(engine: Engine, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine.run(**{"data": [1, 2], **arguments})
    assert engine.phase is Phase.IDLE
    _usable(engine)


def test_arguments_that_contradict_the_run_that_goes_on(engine: Engine) -> None:
    engine.on(Events.ITERATION_COMPLETED(once=3))(engine.interrupt)
    engine.run([1, 2], max_epochs=3)
    with pytest.raises(ValueError, match="epoch_length should be same as in the state"):
        engine.run([1, 2], epoch_length=7)
    with pytest.raises(ValueError, match="To switch from max_epochs to max_iters"):
        engine.run([1, 2], max_iters=7)
    with pytest.raises(ValueError, match="max_epochs should be greater than or equal"):
        engine.run([1, 2], max_epochs=1)
    assert engine.phase is Phase.INTERRUPTED
    engine.run([1, 2], max_epochs=3)
    assert engine.state.iteration == 6


def test_interrupt_where_it_is_switched_off(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "interrupt_resume_enabled", False)
    with pytest.raises(RuntimeError, match="'interrupt/resume' feature is disabled"):
        engine.interrupt()
    _usable(engine)

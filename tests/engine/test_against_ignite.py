"""Random programs on ignite's Engine and on ours: the same events, counters and ends."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import ignite.engine
import pytest
from ignite.engine.events import State

from leyden.engine import Engine, Events

# More than one run(): what is left of the first is what the second goes on with.
RUNS = 3

HOT = (
    Events.GET_BATCH_STARTED,
    Events.GET_BATCH_COMPLETED,
    Events.ITERATION_STARTED,
    Events.ITERATION_COMPLETED,
)
ALL = (
    *HOT,
    Events.STARTED,
    Events.EPOCH_STARTED,
    Events.EPOCH_COMPLETED,
    Events.COMPLETED,
    Events.DATALOADER_STOP_ITERATION,
    Events.TERMINATE,
    Events.TERMINATE_SINGLE_EPOCH,
    Events.INTERRUPT,
)


def _filtered(draw: random.Random, event: Any) -> Any:
    if event not in State.event_to_attr:
        return event
    kind = draw.randrange(7)
    if kind == 0:
        return event(every=draw.randint(2, 5))
    if kind == 1:
        return event(once=draw.choice([draw.randint(1, 9), [2, 7, 11]]))
    if kind == 2:
        return event(before=draw.randint(0, 9), after=draw.randint(0, 5))
    if kind == 3:
        return event(every=draw.randint(1, 4), after=draw.randint(0, 5))
    if kind == 4:
        modulus = draw.randint(2, 4)
        return event(event_filter=lambda engine, value: value % modulus == 1)
    return event


def _stopper(draw: random.Random, engine: Any, trace: list[Any]) -> Callable[[], None]:
    what = draw.choice(
        [
            engine.terminate,
            lambda: engine.terminate(skip_completed=True),
            engine.interrupt,
            engine.interrupt,
        ]
    )
    left = draw.randint(1, 2)

    def stop() -> None:
        nonlocal left
        if left:
            left -= 1
            trace.append("stop")
            what()

    return stop


def _epoch_stopper(draw: random.Random, engine: Any) -> Callable[[], None]:
    left = draw.randint(1, 2)
    skip = draw.random() < 0.5

    def stop() -> None:
        nonlocal left
        if left:
            left -= 1
            engine.terminate_epoch(skip)

    return stop


def _changer(draw: random.Random, engine: Any, trace: list[Any]) -> Callable[[], None]:
    event, late = draw.choice(ALL), draw.randint(10, 99)
    kind = draw.randrange(3)
    left = 1

    def added(*args: Any, **kwargs: Any) -> None:
        trace.append(late)

    def change() -> None:
        nonlocal left
        if not left:
            return
        left -= 1
        if kind == 0:
            engine.add_event_handler(event, added)
        elif kind == 1:
            engine._event_handlers[event].append((added, (), {}))
        else:
            engine.remove_event_handler(change, engine.last_event_name)

    return change


def _data(draw: random.Random) -> tuple[Any, dict[str, Any]]:
    size = draw.randint(1, 6)
    kind = draw.randrange(4)
    if kind == 0:
        return list(range(size)), {}
    if kind == 1:
        return list(range(size)), {"epoch_length": draw.randint(1, 8)}
    if kind == 2:
        return None, {"epoch_length": size}
    endless = draw.random() < 0.5

    def stream() -> Iterator[int]:
        yield from range(size)
        while endless:
            yield from range(size)

    return stream(), {"epoch_length": draw.randint(1, 8)} if endless or draw.random() < 0.5 else {}


def _program(kind: type[Any], seed: int) -> list[Any]:
    draw = random.Random(seed)
    trace: list[Any] = []

    def step(engine: Any, batch: Any) -> Any:
        state = engine.state
        trace.append(("step", state.epoch, state.iteration, batch))
        # After a resume ignite still says INTERRUPT here, until the next event is fired.
        last = engine.last_event_name
        trace.append(last.name if last != Events.INTERRUPT else Events.ITERATION_STARTED.name)
        return batch

    engine = kind(step)

    def watch(name: str) -> Callable[..., None]:
        def handler(engine: Any, *args: Any, **kwargs: Any) -> None:
            state = engine.state
            trace.append(
                (name, state.epoch, state.iteration, state.batch, state.output, state.epoch_length)
            )
            trace.append((engine.last_event_name.name, engine.should_terminate, args, kwargs))

        return handler

    for number in range(draw.randint(0, 8)):
        event = draw.choice(ALL)
        engine.add_event_handler(_filtered(draw, event), watch(f"{event.name} {number}"))
    for _ in range(draw.randint(0, 2)):
        event = draw.choice((*HOT, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.STARTED))
        engine.add_event_handler(_filtered(draw, event), _stopper(draw, engine, trace))
    if draw.random() < 0.4:
        engine.add_event_handler(_filtered(draw, draw.choice(HOT)), _epoch_stopper(draw, engine))
    for _ in range(draw.randint(0, 2)):
        changer = _changer(draw, engine, trace)
        engine.add_event_handler(_filtered(draw, draw.choice(ALL[:8])), changer)
    data, length = _data(draw)
    limit = {"max_epochs": draw.randint(1, 4)}
    # With data that can be read once only, max_iters makes ignite's Engine run for ever.
    if not isinstance(data, Iterator) and draw.random() < 0.3:
        limit = {"max_iters": draw.randint(1, 15)}
    for _ in range(RUNS):
        try:
            state = engine.run(data, **limit, **length)
        except (ValueError, ZeroDivisionError, RuntimeError) as error:
            trace.append(type(error).__name__)
            break
        trace.append(("end", state.epoch, state.iteration, state.batch, state.max_epochs))
        trace.append((engine.last_event_name.name, engine.should_terminate))
    return trace


@pytest.mark.filterwarnings("ignore:Data iterator can not provide data anymore")
@pytest.mark.parametrize("block", range(20))
def test_random_programs_do_the_same(block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        theirs = _program(ignite.engine.engine.Engine, seed)
        ours = _program(Engine, seed)
        assert ours == theirs, f"program {seed}"

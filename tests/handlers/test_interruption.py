"""Ctrl-C as a request: flags only, the old handler back, other programs' handlers kept."""

import os
import signal
import threading
from typing import Any

import pytest

from leyden.engine import Engine, Events, Phase
from leyden.handlers import Interruption


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_stops_the_engine_after_its_step_and_the_handler_is_back() -> None:
    seen: list[int] = []

    def step(engine: Engine, batch: int) -> None:
        if batch == 2:
            interrupt()
        seen.append(batch)

    engine = Engine(step)
    interruption = Interruption(engine)
    before = signal.getsignal(signal.SIGINT)
    with interruption.listening():
        engine.run([1, 2, 3], max_epochs=2)
    assert seen == [1, 2] and interruption.requested and engine.phase is Phase.INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    with interruption.listening():
        assert not interruption.requested
        engine.run()  # goes on
    assert seen == [1, 2, 3, 1, 2]


def test_the_second_raises_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption().listening():
        interrupt()
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_inside_puts_the_handler_back() -> None:
    with pytest.raises(LookupError), Interruption().listening():
        raise LookupError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_was_there_stays() -> None:
    def own(number: int, frame: Any) -> None:
        raise AssertionError("not called")

    before = signal.signal(signal.SIGINT, own)
    try:
        with Interruption().listening():
            assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    found: list[Any] = []

    def run() -> None:
        with Interruption().listening():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_the_events_of_an_end_are_not_those_of_a_pause() -> None:
    engine, seen = Engine(lambda engine, batch: interrupt()), []
    for event in (Events.INTERRUPT, Events.COMPLETED, Events.EPOCH_COMPLETED):
        engine.listen(event, lambda engine, name=event.name: seen.append(name))
    with Interruption(engine).listening():
        engine.run([1, 2])
    assert seen == ["INTERRUPT"]

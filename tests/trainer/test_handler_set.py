"""The set of handlers: listed, added to, removed from, replaced; before and during a run."""

from typing import Any

import pytest
from ignite.handlers import EarlyStopping as IgniteEarlyStopping

import leyden
from leyden.engine import Engine, Events
from leyden.handlers.base import Handler
from leyden.handlers.gradient_clipping import GradientClipping
from tests.trainer.tiny import QUIET, Bare, data, trainer


class Count(Handler):
    """Counts batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.ITERATION_COMPLETED, self.count)

    def count(self, engine: Engine) -> None:
        self.batches += 1


class CountTwice(Count):
    def count(self, engine: Engine) -> None:
        self.batches += 2


def test_it_lists_what_is_attached() -> None:
    made = leyden.Trainer(**QUIET, gradient_clip_val=0.5)
    names = made.handlers.names()
    assert "GradientClipping" in names
    assert len(made.handlers) == len(names) == len(list(made.handlers))
    assert repr(made.handlers) == f"HandlerSet({', '.join(names)})"
    clipping = made.handlers["GradientClipping"]
    assert made.handlers[GradientClipping] is clipping
    assert made.handlers[names.index("GradientClipping")] is clipping
    assert clipping in made.handlers
    assert GradientClipping in made.handlers
    assert "Handler" in made.handlers  # by a base class too
    assert "Nothing" not in made.handlers
    with pytest.raises(KeyError, match="Nothing"):
        made.handlers["Nothing"]


@pytest.mark.parametrize("by", ["itself", "class", "name"])
def test_adding_and_removing(by: str) -> None:
    made, counter = trainer(max_epochs=1), Count()
    assert made.handlers.add(counter) is counter
    assert counter.origin == "trainer.handlers.add"
    made.fit(Bare(), data())
    assert counter.batches == 6
    made.handlers.remove({"itself": counter, "class": Count, "name": "Count"}[by])
    assert counter not in made.handlers
    assert not counter.attached
    made.max_epochs = 2
    made.fit(made.model, data())
    assert counter.batches == 6


def test_replacing_keeps_the_place() -> None:
    made, first, second = trainer(max_epochs=1), Count(), CountTwice()
    made.handlers.add(first)
    made.handlers.add(CountTwice())
    place = made.handlers.names().index("Count")
    made.handlers.replace("Count", second)
    assert made.handlers[place] is second
    assert second.origin == "replaces Count"
    made.fit(Bare(), data())
    assert (first.batches, second.batches) == (0, 12)


def test_a_change_in_a_run_takes_effect_at_once() -> None:
    counter = Count()

    class Adds(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if trainer.batch_idx == 1:
                trainer.handlers.add(counter)
            if trainer.batch_idx == 4:
                trainer.handlers.remove(counter)

    made = trainer(max_epochs=1, callbacks=[Adds()])
    made.fit(Bare(), data())
    # As in ignite: what is added joins the event that is being fired, a removal waits for the next.
    assert counter.batches == 4
    assert "Count" not in made.handlers


def test_handlers_of_ignite_join() -> None:
    made = trainer(max_epochs=4)
    stopper = IgniteEarlyStopping(1, lambda engine: -engine.state.epoch, made.engine)
    made.engine.add_event_handler(Events.EPOCH_COMPLETED, stopper)
    made.fit(Bare(), data())
    assert made.engine.state.epoch == 2
    assert [
        line.origin for line in made.plan().lines if line.handler.startswith("EarlyStopping")
    ] == ["attached by hand"]


def test_bad_input() -> None:
    made, counter = trainer(), Count()
    given: Any = print
    with pytest.raises(TypeError, match=r"no attach\(engine\).*add_event_handler"):
        made.handlers.add(given)
    made.handlers.add(counter)
    with pytest.raises(ValueError, match="attached already"):
        made.handlers.add(counter)
    with pytest.raises(ValueError, match="is not attached"):
        made.handlers.remove(Count())
    with pytest.raises(ValueError, match="is not attached"):
        made.handlers.replace(Count(), Count())


class Undetachable:
    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: None)


def test_what_cannot_be_detached_says_so() -> None:
    made, handler = trainer(), Undetachable()
    made.handlers.add(handler)
    with pytest.raises(TypeError, match=r"Undetachable cannot be removed.*remove_event_handler"):
        made.handlers.remove(handler)

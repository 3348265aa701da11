"""The base class: attaching, orders, declared state."""

from typing import Any

import pytest

from leyden.engine import Engine, Events, TrainerEvents
from leyden.engine.state import TrainState
from leyden.handlers import Handler, Order


class Count(Handler):
    state_keys = ("seen",)

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def attach(self, engine: Engine) -> None:
        self.listen(engine, Events.ITERATION_COMPLETED(every=2) | Events.COMPLETED, self.count)

    def count(self, engine: Engine) -> None:
        self.seen += 1


def test_filters_and_joined_events_are_listened_to_and_let_go() -> None:
    engine, count = Engine(lambda engine, batch: None), Count()
    count.attach(engine)
    assert [entry.owner for entry in engine.entries()] == [count, count]
    engine.run([1, 2, 3, 4, 5])
    assert count.seen == 3 and count.state_dict() == {"seen": 3}
    count.detach()
    assert not list(engine.entries()) and not count.attached


def test_one_handler_on_two_engines_leaves_both() -> None:
    engines, count = [Engine(lambda engine, batch: None) for _ in range(2)], Count()
    for engine in engines:
        count.attach(engine)
    count.detach()
    assert not any(list(engine.entries()) for engine in engines)


def test_the_state_of_the_engine_keeps_what_was_there() -> None:
    engine = Engine(lambda engine, batch: None)
    engine.state.mine = 3
    Count().attach(engine)
    assert isinstance(engine.state, TrainState) and engine.state.mine == 3
    before = engine.state
    Count().attach(engine)
    assert engine.state is before


def test_training_events_come_with_whoever_listens_to_them() -> None:
    engine, seen = Engine(lambda engine, batch: None), []
    assert not engine.has_registered_events(TrainerEvents.GRADIENTS_READY)
    joined = TrainerEvents.GRADIENTS_READY | Events.STARTED
    Count().listen(engine, joined, lambda engine: seen.append(1))
    engine.fire_event(TrainerEvents.GRADIENTS_READY)
    engine.run([0])
    assert seen == [1, 1]


def test_orders_decide_and_equal_ones_run_as_attached() -> None:
    engine, seen = Engine(lambda engine, batch: None), []
    for name, order in (("d", Order.STOPPING), ("b", None), ("c", None), ("a", Order.HOOKS)):
        Count().listen(engine, Events.STARTED, lambda e, name=name: seen.append(name), order=order)
    engine.run([0])
    assert seen == ["a", "b", "c", "d"]


@pytest.mark.parametrize("state", [{}, {"seen": 1, "more": 2}, {"other": 1}])
def test_a_state_that_does_not_fit_changes_nothing(state: dict[str, Any]) -> None:
    count = Count()
    with pytest.raises(KeyError, match="the state of Count does not fit"):
        count.load_state_dict(state)
    assert count.seen == 0


def test_a_text_for_a_tuple_of_names_is_refused() -> None:
    with pytest.raises(TypeError, match=r"state_keys is the text 'seen'"):
        type("Bad", (Handler,), {"state_keys": "seen"})


def test_a_handler_that_does_not_say_where_it_listens() -> None:
    with pytest.raises(TypeError, match="Handler does not say where it listens"):
        Handler().attach(Engine(lambda engine, batch: None))


def test_a_class_that_forgets_super_init_works() -> None:
    class Forgets(Count):
        def __init__(self) -> None:
            self.seen = 0

    engine, forgets = Engine(lambda engine, batch: None), Forgets()
    assert not forgets.attached
    forgets.attach(engine)
    engine.run([1, 2])
    assert forgets.seen == 2

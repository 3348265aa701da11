"""The order in which handlers of one event run while they are changed."""

from leyden.engine import Engine, Events


def test_a_handler_put_in_front_during_the_event_runs_nobody_twice() -> None:
    engine = Engine(lambda engine, batch: None)
    seen: list[str] = []

    def adds(engine: Engine) -> None:
        if len(seen) == 0:
            engine.listen(Events.ITERATION_COMPLETED, lambda engine: seen.append("front"), order=1)
        seen.append("adds")

    engine.listen(Events.ITERATION_COMPLETED, adds, order=10)
    engine.listen(Events.ITERATION_COMPLETED, lambda engine: seen.append("last"), order=20)
    engine.run([0, 1])
    assert seen == ["adds", "last", "front", "adds", "last"]

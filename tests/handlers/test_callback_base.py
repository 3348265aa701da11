"""A callback as a handler: on any engine, in its declared order, with a state of its own."""

from typing import Any

from leyden.engine import Engine, Events
from leyden.handlers import CallbackBase, OptimizerStep
from tests.handlers.small_runs import Small


class Note(CallbackBase):
    state_keys = ("seen",)

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.seen: list[Any] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append((trainer, batch_idx))


def test_without_a_trainer_hooks_get_what_the_state_holds() -> None:
    note = Note()
    run = Small(note, step_last=True)  # attached before anything else is
    run.state.trainer = "mine"
    run.run(epochs=2, count=2)
    assert note.seen == [("mine", 0), ("mine", 1)] * 2
    assert [entry.event for entry in run.engine.entries() if entry.owner is note] == [
        Events.ITERATION_COMPLETED
    ]


def test_only_hooks_of_the_engines_stage_are_bound() -> None:
    note, engine = Note(), Engine(lambda engine, batch: None)
    note.make_ready(engine)
    engine.state.stage = "validate"
    note.attach(engine)
    assert not list(engine.entries())


def test_the_declared_order_wins_over_the_order_of_the_list() -> None:
    seen: list[str] = []

    def make(rank: float) -> Note:
        class Ranked(Note):
            order = rank

            def on_train_batch_end(self, *arguments: Any) -> None:  # type: ignore[override]
                seen.append(self.name)

        return Ranked(f"{rank:g}")

    for ranks in ((90, 10, 50), (50, 90, 10)):
        seen.clear()
        Small(*(make(rank) for rank in ranks)).run(epochs=1, count=1)
        assert seen == ["10", "50", "90"]


def test_it_keeps_the_state_that_it_declares() -> None:
    note = Note()
    note.seen = [1]
    other = Note()
    other.load_state_dict(note.state_dict())
    assert other.seen == [1] and note.state_key == "Note"
    assert note._state_key_of(monitor="x") == "Note{'monitor': 'x'}"


def test_a_hook_on_the_instance_counts_as_overridden() -> None:
    note: Any = Note()
    calls: list[int] = []
    note.on_train_start = lambda trainer, module: calls.append(1)
    assert note.defines("on_train_start") and not note.defines("on_fit_end")
    run = Small(note)
    assert isinstance(run.step, OptimizerStep)
    run.run(epochs=1)
    assert calls == [1]

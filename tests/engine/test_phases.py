"""The table of moves, walked through as a whole, and the phases of real runs."""

import importlib.util
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from leyden.engine import Engine, Events, IllegalMove, Move, Phase
from leyden.engine.phases import FETCHING, MOVES, STEPPING, Machine

ROOT = Path(__file__).resolve().parents[2]

LEGAL = [(phase, move) for phase, move in product(Phase, Move) if (phase, move) in MOVES]
ILLEGAL = [(phase, move) for phase, move in product(Phase, Move) if (phase, move) not in MOVES]


def _machine(phase: Phase) -> Machine:
    machine = Machine()
    machine.phase = phase
    return machine


@pytest.mark.parametrize(("phase", "move"), LEGAL)
def test_a_legal_move_leads_where_the_table_says(phase: Phase, move: Move) -> None:
    machine = _machine(phase)
    assert machine.move(move) is machine.phase is MOVES[phase, move]


@pytest.mark.parametrize(("phase", "move"), ILLEGAL)
def test_a_refused_move_says_so_and_changes_nothing(phase: Phase, move: Move) -> None:
    machine = _machine(phase)
    machine.left = Phase.STEPPING
    machine.interrupt = True
    machine.terminate_epoch = "skip_epoch_completed"
    with pytest.raises(IllegalMove, match="Ask again later") as caught:
        machine.move(move, "Ask again later")
    assert caught.value.phase is phase
    assert caught.value.move is move
    assert f"{move.name} is not possible in phase {phase.name}" in str(caught.value)
    for allowed in [m for p, m in LEGAL if p is phase]:
        assert allowed.name in str(caught.value).split("allowed here are")[1]
    assert (machine.phase, machine.left) == (phase, Phase.STEPPING)
    assert machine.interrupt is True
    assert machine.terminate_epoch == "skip_epoch_completed"
    assert machine.terminate is False


def test_the_table_leads_into_and_out_of_every_phase() -> None:
    assert set(MOVES.values()) == set(Phase)
    assert {phase for phase, _ in MOVES} == set(Phase)
    assert {move for _, move in MOVES} == set(Move)


def test_what_the_loop_stores_is_what_the_table_says() -> None:
    assert {MOVES[p, m] for p, m in LEGAL if m is Move.FETCH} == {FETCHING} == {Phase.FETCHING}
    assert {MOVES[p, m] for p, m in LEGAL if m is Move.STEP} == {STEPPING} == {Phase.STEPPING}


def test_the_strongest_request_is_made() -> None:
    machine = Machine()
    assert machine.requested() is None and not machine.pending
    machine.interrupt = True
    assert machine.requested() is Move.INTERRUPT and machine.pending
    machine.terminate_epoch = True
    assert machine.requested() is Move.TERMINATE_EPOCH
    machine.terminate = "skip_completed"
    assert machine.requested() is Move.TERMINATE
    machine.terminate = False
    assert machine.requested() is Move.TERMINATE_EPOCH
    machine.clear()
    assert machine.requested() is None and not machine.pending
    assert machine.interrupt is machine.terminate is machine.terminate_epoch is False


def test_every_event_of_a_run_sees_its_phase() -> None:
    seen: list[Any] = []
    engine: Any = Engine(lambda engine, batch: seen.append(("step", engine.phase)))
    for event in Events:
        if event not in (Events.EXCEPTION_RAISED, Events.TERMINATE_SINGLE_EPOCH):
            engine.listen(event, lambda engine: seen.append((engine.last_event_name, engine.phase)))

    def data() -> Any:
        seen.append(("data", engine.phase))
        yield 0

    assert engine.phase is Phase.IDLE
    engine.run(data(), max_epochs=1, epoch_length=1)
    assert engine.phase is Phase.COMPLETED
    assert seen == [
        (Events.STARTED, Phase.STARTED),
        (Events.EPOCH_STARTED, Phase.EPOCH_STARTED),
        (Events.GET_BATCH_STARTED, Phase.FETCHING),
        ("data", Phase.FETCHING),
        (Events.GET_BATCH_COMPLETED, Phase.FETCHING),
        (Events.ITERATION_STARTED, Phase.STEPPING),
        ("step", Phase.STEPPING),
        (Events.ITERATION_COMPLETED, Phase.STEPPING),
        (Events.EPOCH_COMPLETED, Phase.EPOCH_COMPLETED),
        (Events.COMPLETED, Phase.COMPLETED),
    ]


@pytest.mark.parametrize(
    ("ask", "phase"),
    [("terminate", Phase.TERMINATED), ("interrupt", Phase.INTERRUPTED), ("fail", Phase.FAILED)],
)
def test_a_stopped_run_holds_its_phase_and_place(ask: str, phase: Phase) -> None:
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.ITERATION_COMPLETED(once=5))
    def stop() -> None:
        if ask == "fail":
            raise OSError("disk full")
        getattr(engine, ask)()

    if ask == "fail":
        with pytest.raises(OSError, match="disk full"):
            engine.run([0, 1, 2], max_epochs=3)
    else:
        engine.run([0, 1, 2], max_epochs=3)
    assert engine.phase is phase
    assert (engine.state.epoch, engine.state.iteration, engine.epoch_iteration) == (2, 5, 2)
    assert engine.inside_epoch


def test_the_picture_is_that_of_the_table() -> None:
    spec = importlib.util.spec_from_file_location("draw_states", ROOT / "tools" / "draw_states.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.main(["--check"]) == 0, "run tools/draw_states.py"
    assert all(f"{p.name} --> " in tool.draw() for p in Phase if p.name[-2:] != "ED")

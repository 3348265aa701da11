"""Draw docs/states.md from the table in engine/phases.py.

python tools/draw_states.py           write the file
python tools/draw_states.py --check   only say whether it is up to date, by the exit status
"""

import sys
from pathlib import Path

from leyden.engine.phases import MOVES, Move, Phase

__all__ = ["draw", "main"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"

TEXT = """# The states of a run

Drawn from the table in `engine/phases.py` by `tools/draw_states.py`; a test compares the two.
`engine.phase` is where a run stands. `IllegalMove` is raised for what is not in the table, and
changes nothing.

```mermaid
{diagram}
```

Not drawn, to keep the picture readable: INTERRUPT and TERMINATE lead from every running phase to
INTERRUPTED and TERMINATED, START from every phase at rest to STARTED, FAIL from everywhere but
IDLE to FAILED. RESTORE, which is `load_state_dict()`, leads from every phase at rest to IDLE, and
is allowed between epochs as well.

| move | who makes it | from | to |
| --- | --- | --- | --- |
{rows}

`terminate()`, `terminate_epoch()` and `interrupt()` are requests: the move is made when the
handlers of the current event, or of the next one, have run.

An interrupted run goes on with the move that would have come next. After TERMINATED and FAILED,
`run()` begins the next epoch, or a new run if there is none left; to go on inside the epoch that
was stopped, `engine.load_state_dict(engine.state_dict())` first.
"""

WHO = {
    Move.START: "`run()`",
    Move.BEGIN_EPOCH: "`run()`, before EPOCH_STARTED",
    Move.FETCH: "`run()`, before GET_BATCH_STARTED",
    Move.STEP: "`run()`, before ITERATION_STARTED",
    Move.END_EPOCH: "`run()`, before EPOCH_COMPLETED",
    Move.TERMINATE_EPOCH: "`terminate_epoch()`",
    Move.COMPLETE: "`run()`, before COMPLETED",
    Move.INTERRUPT: "`interrupt()`",
    Move.TERMINATE: "`terminate()`, or `max_iters` reached",
    Move.FAIL: "an exception that left the batch loop",
    Move.RESTORE: "`load_state_dict()`",
}

UNDRAWN = (Move.INTERRUPT, Move.TERMINATE, Move.FAIL, Move.RESTORE)


def draw() -> str:
    """Return the page."""
    arrows = [
        f"    {source.name} --> {target.name}: {move.name}"
        for (source, move), target in MOVES.items()
        if move not in UNDRAWN and (move is not Move.START or source is Phase.IDLE)
    ]
    stops = [
        f"    STEPPING --> {MOVES[Phase.STEPPING, move].name}: {move.name}"
        for move in (Move.INTERRUPT, Move.TERMINATE, Move.FAIL)
    ]
    diagram = "\n".join(["stateDiagram-v2", "    [*] --> IDLE", *arrows, *stops])
    rows = []
    for move in Move:
        targets: dict[Phase, list[str]] = {}
        for (source, made), target in MOVES.items():
            if made is move:
                targets.setdefault(target, []).append(source.name)
        rows += [
            f"| {move.name} | {WHO[move]} | {', '.join(sources)} | {target.name} |"
            for target, sources in targets.items()
        ]
    return TEXT.format(diagram=diagram, rows="\n".join(rows))


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    page = draw()
    if arguments:
        return int(PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

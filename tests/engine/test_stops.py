"""Which events follow a stop, an interrupt and an exception: the table, and a test of every row."""

from typing import Any

import pytest

from leyden.engine import Engine, Events, Phase

# Two epochs of two batches. The request is made by a handler of the event in the first column (its
# second firing, where it is one of a batch; its first otherwise), or in the step.
# What follows: the names of all events that are fired after that one, until run() returns.
EPOCH_2 = (
    "EPOCH_STARTED GET_BATCH_STARTED GET_BATCH_COMPLETED ITERATION_STARTED ITERATION_COMPLETED "
    "GET_BATCH_STARTED GET_BATCH_COMPLETED ITERATION_STARTED ITERATION_COMPLETED EPOCH_COMPLETED "
    "COMPLETED"
)
# The data of ignite's way ends once, where the second epoch wants more.
IGNITE_2 = EPOCH_2.replace("GET_BATCH_STARTED", "GET_BATCH_STARTED DATALOADER_STOP_ITERATION", 1)

BATCH = (
    "GET_BATCH_STARTED",
    "GET_BATCH_COMPLETED",
    "ITERATION_STARTED",
    "step",
    "ITERATION_COMPLETED",
)
EDGES = ("STARTED", "EPOCH_STARTED", "EPOCH_COMPLETED")

TABLE: list[tuple[str, str, str, Phase]] = []
for _where in (*BATCH, *EDGES):
    # In the step, the request is looked at when ITERATION_COMPLETED has been fired.
    _rest = "ITERATION_COMPLETED " if _where == "step" else ""
    TABLE += [
        (_where, "terminate", f"{_rest}TERMINATE COMPLETED", Phase.TERMINATED),
        (_where, "terminate skip", f"{_rest}TERMINATE", Phase.TERMINATED),
        (_where, "interrupt", f"{_rest}INTERRUPT", Phase.INTERRUPTED),
        (_where, "raise", "", Phase.FAILED),
        (_where, "raise heard", "EXCEPTION_RAISED", Phase.FAILED),
    ]
for _where in BATCH:
    _rest = "ITERATION_COMPLETED " if _where == "step" else ""
    TABLE += [
        (
            _where,
            "terminate_epoch",
            f"{_rest}TERMINATE_SINGLE_EPOCH EPOCH_COMPLETED {EPOCH_2}",
            Phase.COMPLETED,
        ),
        (
            _where,
            "terminate_epoch skip",
            f"{_rest}TERMINATE_SINGLE_EPOCH {EPOCH_2}",
            Phase.COMPLETED,
        ),
    ]
TABLE += [
    ("STARTED", "terminate_epoch", "", Phase.FAILED),
    ("EPOCH_STARTED", "terminate_epoch", "", Phase.FAILED),
    # The epoch is over already: nothing to end.
    ("EPOCH_COMPLETED", "terminate_epoch", EPOCH_2, Phase.COMPLETED),
]


class Run:
    """One run of two epochs of two batches that asks for something on the way."""

    def __init__(self, where: str, what: str, **kind: bool) -> None:
        self.where, self.what = where, what
        self.events: list[str] = []
        self.left = 2 if where in BATCH else 1
        self.engine = Engine(self.step, **kind)
        for event in Events:
            if event is not Events.EXCEPTION_RAISED:
                self.engine.add_event_handler(event, self.fired)
        if what == "raise heard":
            self.engine.add_event_handler(Events.EXCEPTION_RAISED, self.fired)

    def step(self, engine: Any, batch: Any) -> None:
        if self.where == "step":
            self.ask("step")

    def fired(self, engine: Any, *args: Any, **kwargs: Any) -> None:
        self.events.append(engine.last_event_name.name)
        self.ask(self.events[-1])

    def ask(self, here: str) -> None:
        if here != self.where or not self.left:
            return
        self.left -= 1
        if self.left:
            return
        self.events.clear()
        what, _, flag = self.what.partition(" ")
        if what == "raise":
            raise ZeroDivisionError(self.where)
        if what == "interrupt":
            self.engine.interrupt()
        elif what == "terminate":
            self.engine.terminate(skip_completed=flag == "skip")
        else:
            self.engine.terminate_epoch(skip_epoch_completed=flag == "skip")


@pytest.mark.parametrize(("where", "what", "follows", "phase"), TABLE)
@pytest.mark.parametrize("data_ends_epoch", [False, True])
def test_what_follows(
    where: str, what: str, follows: str, phase: Phase, data_ends_epoch: bool
) -> None:
    run = Run(where, what, data_ends_epoch=data_ends_epoch, reraise=data_ends_epoch)
    expected = follows.split()
    if "EPOCH_COMPLETED" in expected and data_ends_epoch:
        # Nobody counts the batches: the end of an epoch is where the next batch does not come.
        at = len(expected) - 1 - expected[::-1].index("EPOCH_COMPLETED")
        expected.insert(at, "GET_BATCH_STARTED")
    elif where == "EPOCH_COMPLETED" and what == "terminate_epoch":
        expected = IGNITE_2.split()
    raises: Any = None
    if what.startswith("raise") and (data_ends_epoch or what == "raise"):
        raises = ZeroDivisionError
    elif phase is Phase.FAILED and what == "terminate_epoch":
        raises = RuntimeError
    elif what == "raise heard" and where in BATCH:
        # ignite's way: a listener that swallows what came from a batch only ends the epoch. One
        # iterator serves all epochs, so it ends in the second one.
        phase = Phase.COMPLETED
        expected += ["EPOCH_COMPLETED", *EPOCH_2.split()]
        gone = where == "GET_BATCH_STARTED"
        at = [i for i, name in enumerate(expected) if name == "GET_BATCH_STARTED"][int(gone)]
        expected.insert(at + 1, "DATALOADER_STOP_ITERATION")
    if raises:
        with pytest.raises(raises):
            run.engine.run([0, 1], max_epochs=2)
    else:
        run.engine.run([0, 1], max_epochs=2)
    assert run.events == expected
    assert run.engine.phase is phase


@pytest.mark.parametrize(
    "where",
    ["COMPLETED", "TERMINATE", "INTERRUPT", "TERMINATE_SINGLE_EPOCH", "DATALOADER_STOP_ITERATION"],
)
def test_an_error_of_the_last_handlers_is_raised_as_it_is(where: str) -> None:
    engine = Engine(lambda engine, batch: None)
    ask = {
        "TERMINATE": engine.terminate,
        "INTERRUPT": engine.interrupt,
        "TERMINATE_SINGLE_EPOCH": engine.terminate_epoch,
    }.get(where, lambda: None)
    engine.on(Events.ITERATION_COMPLETED(once=1))(lambda: ask())

    @engine.on(where)
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(where)

    with pytest.raises(OSError, match=where) as caught:
        engine.run([0, 1], max_epochs=2)
    assert caught.value.__context__ is None  # nothing of the engine's own shows in the traceback
    assert engine.phase is Phase.FAILED
    engine.remove_event_handler(fail, where)
    engine.run([0, 1], max_epochs=2)
    assert engine.phase in (Phase.COMPLETED, Phase.TERMINATED)


@pytest.mark.parametrize("ask", ["terminate", "interrupt", "terminate_epoch"])
def test_the_data_may_ask_to_stop(ask: str) -> None:
    seen: list[Any] = []

    def data() -> Any:
        for batch in range(4):
            if batch == 2 and engine.state.epoch == 1:
                getattr(engine, ask)()
            yield batch

    class Data:
        def __iter__(self) -> Any:
            return data()

    engine = Engine(lambda engine, batch: seen.append(batch), data_ends_epoch=True)
    engine.run(Data(), max_epochs=2)
    # The batch was fetched: as in ignite the request is looked at before it is used.
    assert seen == ([0, 1, 0, 1, 2, 3] if ask == "terminate_epoch" else [0, 1])
    if ask == "interrupt":
        engine.run(Data(), max_epochs=2)
        assert seen == [0, 1, 2, 3, 0, 1, 2, 3]


def test_max_iters_ends_the_run_as_terminate_does() -> None:
    events: list[str] = []
    engine = Engine(lambda engine, batch: None)
    for event in (Events.EPOCH_COMPLETED, Events.TERMINATE, Events.COMPLETED):
        engine.listen(event, lambda engine: events.append(engine.last_event_name.name))
    engine.run([0, 1, 2], max_iters=5)
    assert events == ["EPOCH_COMPLETED", "TERMINATE", "COMPLETED"]
    assert engine.should_terminate is True
    assert engine.phase is Phase.TERMINATED
    events.clear()
    engine.run([0, 1, 2], max_iters=6)
    assert engine.state.iteration == 6


def test_requests_can_be_read_and_taken_back() -> None:
    seen: list[Any] = []
    engine = Engine(lambda engine, batch: seen.append(batch))

    @engine.on(Events.ITERATION_STARTED)
    def change_of_mind() -> None:
        engine.terminate()
        engine.terminate_epoch(skip_epoch_completed=True)
        engine.interrupt()
        assert engine.should_terminate is True
        assert engine.should_terminate_single_epoch == "skip_epoch_completed"
        assert engine.should_interrupt is True
        engine.should_terminate = engine.should_terminate_single_epoch = False
        engine.should_interrupt = False

    engine.run([0, 1, 2])
    assert seen == [0, 1, 2]
    engine.terminate()  # while nothing runs: a new run begins without requests
    engine.run([0, 1])
    assert seen == [0, 1, 2, 0, 1]
